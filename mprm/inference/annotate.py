"""`task=annotate`: solutions with a Monte-Carlo score per step, as Math-Shepherd and VisualPRM400K make them.

A step's score is K / N: of N continuations of the solution up to and with it, K come to the right answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mprm.data.questions import Question
from mprm.inference.policy import Completion, Policy, Prompt, split_steps
from mprm.inference.solve import TOO_LONG, answer_of, batches, drawn
from mprm.runs.journal import Journal


@dataclass(frozen=True)
class Drawn:
    """A finished solution. number: among those of its question."""

    question: Question
    images: tuple[Path, ...]
    number: int
    steps: tuple[str, ...]
    completion: Completion

    def prompts(self, continuations: int) -> list[Prompt]:
        """All proper prefixes, to be continued."""
        return [
            Prompt(
                "\0".join((self.question.id, str(self.number), str(length))),
                self.images,
                self.question.question,
                self.steps[:length],
                continuations,
            )
            for length in range(1, len(self.steps))
        ]


def annotate(
    policy: Policy,
    questions: Sequence[Question],
    image_path: Callable[[str], Path],
    solutions: int,
    continuations: int,
    kept: Journal,
    advance: Callable[[int], None],
    batch: int = 8,
) -> None:
    """Fill the journal: question id -> {"records": [...], "dropped": {reason: solutions}}, or {"unusable": reason}
    where the question is.

    A record is one of VisualPRM400K-v1.1-Raw; solutions of the same text are records of their own. Dropped are
    solutions that reached the limit of tokens (unfinished: they would be taught with a last step that is cut off),
    those without any text (no_steps) and those with a prefix that is longer than what the policy reads (too_long).
    A continuation that reaches the limit is not right.

    The last step is not continued: it ends the solution, nothing can follow it, so that K is N if the solution's
    answer is right and 0 otherwise.

    batch: questions that are annotated together and kept together; advance: told how many more are done.
    """
    for asked, usable in batches(policy, questions, image_path, kept, batch):
        found = drawn(policy, [Prompt(q.id, paths, q.question, (), solutions) for q, paths in usable], kept)
        solved: dict[str, list[Drawn]] = {}
        dropped: dict[str, Counter[str]] = {}
        for (question, paths), completions in zip(usable, found, strict=True):
            solved[question.id], dropped[question.id] = _drawn(question, paths, completions, policy.separator)
        everything = [solution for group in solved.values() for solution in group]
        continued = iter(drawn(policy, [p for one in everything for p in one.prompts(continuations)], kept))
        results: dict[str, Any] = {}
        for (question, _), completions in zip(usable, found, strict=True):
            records = [
                _record(solution, continued, continuations, policy.separator) for solution in solved[question.id]
            ]
            whole = [record for record in records if record is not None]
            if len(whole) < len(records):
                dropped[question.id]["too_long"] = len(records) - len(whole)
            results[question.id] = {"records": whole, "dropped": dropped[question.id]} if completions else TOO_LONG
        kept.add(results)
        advance(asked)


def _drawn(
    question: Question, images: tuple[Path, ...], completions: list[Completion], separator: str
) -> tuple[list[Drawn], Counter[str]]:
    """The solutions that can be annotated, and how many can not by reason."""
    drawn, dropped = [], Counter[str]()
    for number, completion in enumerate(completions):
        steps = split_steps(completion.text, separator)
        if not completion.finished:
            dropped["unfinished"] += 1
        elif not steps:
            dropped["no_steps"] += 1
        else:
            drawn.append(Drawn(question, images, number, steps, completion))
    return drawn, dropped


def _record(
    solution: Drawn, continued: Iterator[list[Completion]], continuations: int, separator: str
) -> dict[str, Any] | None:
    """Takes the completions of the solution's prefixes from `continued`; None if there are none of one of them."""
    question, steps = solution.question, solution.steps
    counts = []
    prefixes = [next(continued) for _ in steps[1:]]
    if not all(prefixes):
        return None
    for length, found in enumerate(prefixes, start=1):
        assert len(found) == continuations, "N is what was drawn"
        ended = [(*steps[:length], *split_steps(completion.text, separator)) for completion in found]
        counts.append(sum(answer_of(question, whole, c)[1] for whole, c in zip(ended, found, strict=True)))
    counts.append(continuations * answer_of(question, steps, solution.completion)[1])
    images = question.images
    return {
        "image": images[0] if len(images) == 1 else list(images),
        "question": "<image>\n" * len(images) + question.question,
        "question_orig": question.question,
        "answer": question.answer,
        "response": solution.completion.text,
        "steps_with_score": [
            {"step": step, "score": count / continuations, "num_mc_correct": count, "num_mc_total": continuations}
            for step, count in zip(steps, counts, strict=True)
        ],
    }
