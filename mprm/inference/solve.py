"""`task=sample`: candidate solutions of questions, and which of them are right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from itertools import islice
from pathlib import Path
from typing import Any

from mprm.data.answers import final_answer, same_answer
from mprm.data.questions import Question
from mprm.inference.policy import Completion, Policy, Prompt, split_steps
from mprm.runs.journal import Journal

UNUSABLE = "unusable"  # instead of a result: why the policy can not be asked the question
TOO_LONG = {UNUSABLE: "too_long"}  # the question is longer than what the policy reads
DRAWN = "\0drawn\0"  # and a prompt's key: the key of its completions, kept before their question is done


def sample(
    policy: Policy,
    questions: Sequence[Question],
    image_path: Callable[[str], Path],
    solutions: int,
    kept: Journal,
    advance: Callable[[int], None],
    batch: int = 32,
) -> None:
    """Fill the journal: question id -> a record of candidates, or {"unusable": reason} where the question is.

    A record: {"id", "source", "image": [...], "question", "answer", "candidates": [{"steps": [...], "final_answer",
    "correct", "n_tokens"}]}. A candidate that reached the limit of tokens has no final answer (null) and is wrong,
    whatever it said before; one without any text has no steps.

    batch: questions that are solved together and kept together; advance: told how many more are done.
    """
    for asked, usable in batches(policy, questions, image_path, kept, batch):
        prompts = [Prompt(q.id, paths, q.question, (), solutions) for q, paths in usable]
        completions = drawn(policy, prompts, kept)
        kept.add(
            {
                q.id: _record(q, found, policy) if found else TOO_LONG
                for (q, _), found in zip(usable, completions, strict=True)
            }
        )
        advance(asked)


def drawn(policy: Policy, prompts: Sequence[Prompt], kept: Journal) -> list[list[Completion]]:
    """The completions of every prompt, in order. Those that a policy hands over one by one are in the journal at once,
    and not asked for again by a process that goes on after a kill."""

    def keep(prompt: Prompt, completions: list[Completion]) -> None:
        kept.add({DRAWN + prompt.key: [astuple(completion) for completion in completions]})

    waiting = [prompt for prompt in prompts if DRAWN + prompt.key not in kept.done]
    fresh = zip(waiting, policy.complete(waiting, keep) if waiting else [], strict=True)
    found = {prompt.key: completions for prompt, completions in fresh}
    for prompt in prompts:  # from memory, not from the file
        before = kept.done.pop(DRAWN + prompt.key, [])
        found.setdefault(prompt.key, [Completion(*fields) for fields in before])
    return [found[prompt.key] for prompt in prompts]


def batches(
    policy: Policy, questions: Sequence[Question], image_path: Callable[[str], Path], kept: Journal, batch: int
) -> Iterator[tuple[int, list[tuple[Question, tuple[Path, ...]]]]]:
    """How many questions the batch has that were not done before, and those of them that the policy can look at, with
    their image files; the others are results already."""
    for key in [key for key in kept.done if key.startswith(DRAWN) and key.split("\0")[2] in kept.done]:
        del kept.done[key]
    waiting = (question for question in questions if question.id not in kept.done)
    while chosen := list(islice(waiting, batch)):
        usable = []
        for question in chosen:
            paths, reason = _images(policy, question, image_path)
            if reason is None:
                usable.append((question, paths))
            else:
                kept.add({question.id: {UNUSABLE: reason}})
        yield len(chosen), usable


def _images(
    policy: Policy, question: Question, image_path: Callable[[str], Path]
) -> tuple[tuple[Path, ...], str | None]:
    try:
        paths = tuple(map(image_path, question.images))
    except ValueError:
        return (), "missing_image_file"
    return paths, policy.refusal(paths)


def answer_of(question: Question, steps: Sequence[str], completion: Completion) -> tuple[str | None, bool]:
    """The final answer of a solution that `completion` ends, and whether it is right.

    None and False when it was cut off at the limit of tokens: half a number is no answer.
    """
    given = final_answer(steps) if completion.finished else None
    return given, given is not None and same_answer(given, question.answer)


def _record(question: Question, completions: list[Completion], policy: Policy) -> dict[str, Any]:
    candidates = []
    for completion in completions:
        steps = list(split_steps(completion.text, policy.separator))
        given, correct = answer_of(question, steps, completion)
        candidates.append({"steps": steps, "final_answer": given, "correct": correct, "n_tokens": completion.n_tokens})
    return {
        "id": question.id,
        "source": question.source,
        "image": list(question.images),
        "question": question.question,
        "answer": question.answer,
        "candidates": candidates,
    }
