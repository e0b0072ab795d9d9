"""What a policy makes of questions: candidate solutions (`task=sample`), or solutions with a Monte-Carlo score per step
(`task=annotate`), as Math-Shepherd and VisualPRM400K make them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mprm.data.answers import final_answer, same_answer
from mprm.data.questions import Question
from mprm.inference.policy import Completion, Policy, Prompt, split_steps
from mprm.runs.journal import Journal

UNUSABLE = "unusable"  # instead of a result: why the policy cannot be asked the question
TOO_LONG = {UNUSABLE: "too_long"}  # the question is longer than what the policy reads
DRAWN = "\0drawn\0"  # and a prompt's key: the key of its completions, kept before their question is done

Draw = Callable[[Sequence[Prompt]], list[list[Completion]]]


@dataclass(frozen=True)
class Solved:
    """A question with its image files and the policy's solutions of it; none where it is too long for the policy."""

    question: Question
    images: tuple[Path, ...]
    completions: list[Completion]


@dataclass(frozen=True)
class Sampling:
    """A question becomes a record of candidates: {"id", "source", "image": [...], "question", "answer", "candidates":
    [{"steps": [...], "final_answer", "correct", "n_tokens"}]}.

    A candidate that reached the limit of tokens has no final answer (null) and is wrong, whatever it said before; one
    without any text has no steps.
    """

    solutions: int
    # Questions that are solved together and kept together.
    batch: int = 32

    def results(self, solved: Sequence[Solved], draw: Draw, separator: str) -> list[dict[str, Any]]:
        return [self._result(one, separator) for one in solved]

    def _result(self, one: Solved, separator: str) -> dict[str, Any]:
        question, candidates = one.question, []
        for completion in one.completions:
            steps = list(split_steps(completion.text, separator))
            given, correct = answer_of(question, steps, completion)
            n_tokens = completion.n_tokens
            candidates.append({"steps": steps, "final_answer": given, "correct": correct, "n_tokens": n_tokens})
        return {
            "id": question.id,
            "source": question.source,
            "image": list(question.images),
            "question": question.question,
            "answer": question.answer,
            "candidates": candidates,
        }


@dataclass(frozen=True)
class FinishedSolution:
    """A finished solution that is to be annotated."""

    of: Solved
    completion: Completion
    steps: tuple[str, ...]
    # One prompt per proper prefix.
    prompts: list[Prompt]


@dataclass(frozen=True)
class Annotation:
    """A question becomes {"records": [...], "dropped": {reason: solutions}}.

    A step's score is K / N: of N continuations of the solution up to and with it, K come to the right answer; one that
    reaches the limit of tokens does not. The last step is not continued: nothing can follow it, so that K is N if the
    solution's answer is right and 0 otherwise.

    A record is one of VisualPRM400K-v1.1-Raw; solutions of the same text are records of their own. Dropped are
    solutions that reached the limit of tokens (unfinished: they would be taught with a last step that is cut off),
    those without any text (no_steps) and those with a prefix that is longer than what the policy reads (too_long).
    """

    solutions: int
    # Of every prefix: N.
    continuations: int
    # Questions that are annotated together and kept together.
    batch: int = 8

    def results(self, solved: Sequence[Solved], draw: Draw, separator: str) -> list[dict[str, Any]]:
        dropped = [Counter[str]() for _ in solved]
        finished = [list(self._finished(one, separator, d)) for one, d in zip(solved, dropped, strict=True)]
        prompts = [prompt for solutions in finished for solution in solutions for prompt in solution.prompts]
        continued = iter(draw(prompts))
        results = []
        for solutions, reasons in zip(finished, dropped, strict=True):
            records = []
            for solution in solutions:
                found = [next(continued) for _ in solution.prompts]
                if all(found):
                    records.append(self._record(solution, found, separator))
                else:
                    reasons["too_long"] += 1
            results.append({"records": records, "dropped": reasons})
        return results

    def _finished(self, one: Solved, separator: str, dropped: Counter[str]) -> Iterator[FinishedSolution]:
        """Those that can be annotated; the others are counted."""
        question = one.question
        for number, completion in enumerate(one.completions):
            steps = split_steps(completion.text, separator)
            if not completion.finished:
                dropped["unfinished"] += 1
            elif not steps:
                dropped["no_steps"] += 1
            else:
                prompts = []
                for length in range(1, len(steps)):
                    key = "\0".join((question.id, str(number), str(length)))
                    prompts.append(Prompt(key, one.images, question.question, steps[:length], self.continuations))
                yield FinishedSolution(one, completion, steps, prompts)

    def _record(self, solution: FinishedSolution, continued: list[list[Completion]], separator: str) -> dict[str, Any]:
        """continued: the completions of every prefix."""
        question, steps = solution.of.question, solution.steps
        counts = []
        for prompt, completions in zip(solution.prompts, continued, strict=True):
            assert len(completions) == self.continuations, "N is what was drawn"
            ended = [(*prompt.steps, *split_steps(completion.text, separator)) for completion in completions]
            counts.append(sum(answer_of(question, *one)[1] for one in zip(ended, completions, strict=True)))
        counts.append(self.continuations * answer_of(question, steps, solution.completion)[1])
        n, images = self.continuations, question.images
        return {
            "image": images[0] if len(images) == 1 else list(images),
            "question": "<image>\n" * len(images) + question.question,
            "question_orig": question.question,
            "answer": question.answer,
            "response": solution.completion.text,
            "steps_with_score": [
                {"step": step, "score": count / n, "num_mc_correct": count, "num_mc_total": n}
                for step, count in zip(steps, counts, strict=True)
            ],
        }


def solve(
    policy: Policy,
    questions: Sequence[Question],
    image_path: Callable[[str], Path],
    work: Sampling | Annotation,
    kept: Journal,
    advance: Callable[[int], None],
) -> None:
    """Fill the journal: question id -> what the work makes of it, or {"unusable": reason} where it cannot be asked.

    advance: told how many more questions are done.
    """
    for key in [key for key in kept.done if key.startswith(DRAWN) and key.split("\0")[2] in kept.done]:
        del kept.done[key]
    waiting = (question for question in questions if question.id not in kept.done)
    while chosen := list(islice(waiting, work.batch)):
        usable: list[tuple[Question, tuple[Path, ...]]] = []
        for question in chosen:
            paths, reason = _images(policy, question, image_path)
            if reason is None:
                usable.append((question, paths))
            else:
                kept.add({question.id: {UNUSABLE: reason}})
        prompts = [Prompt(q.id, paths, q.question, (), work.solutions) for q, paths in usable]
        solved = [Solved(*one, found) for one, found in zip(usable, drawn(policy, prompts, kept), strict=True)]
        results = work.results(solved, lambda prompts: drawn(policy, prompts, kept), policy.separator)
        found = zip(solved, results, strict=True)
        kept.add({one.question.id: result if one.completions else TOO_LONG for one, result in found})
        advance(len(chosen))


def _images(
    policy: Policy, question: Question, image_path: Callable[[str], Path]
) -> tuple[tuple[Path, ...], str | None]:
    """The question's image files, and why the policy cannot look at them."""
    try:
        paths = tuple(map(image_path, question.images))
    except ValueError:
        return (), "missing_image_file"
    return paths, policy.refusal(paths)


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


def answer_of(question: Question, steps: Sequence[str], completion: Completion) -> tuple[str | None, bool]:
    """The final answer of a solution that `completion` ends, and whether it is right.

    None and False when it was cut off at the limit of tokens: half a number is no answer.
    """
    given = final_answer(steps) if completion.finished else None
    return given, given is not None and same_answer(given, question.answer)
