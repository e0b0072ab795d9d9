"""What a policy is, a component that writes solutions and continues begun ones, and what it makes of questions:
candidate solutions (`task=sample`), or solutions with a Monte-Carlo score per step (`task=annotate`), as Math-Shepherd
and VisualPRM400K make them. What a search makes of them (`task=search`) is in search.py."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from mprm.data.answers import final_answer, is_right
from mprm.data.questions import Pair, Question
from mprm.runs.journal import Journal

if TYPE_CHECKING:
    from mprm.inference.scoring import ScoreRequest
    from mprm.inference.search import Guided

UNUSABLE = "unusable"  # instead of a result: why the policy cannot be asked the question
DRAWN = "\0drawn\0"  # and a prompt's key: the key of its completions, kept before their question is done


@dataclass(frozen=True)
class Prompt:
    """n continuations are wanted of a solution whose first `steps` stand."""

    key: str  # names the randomness: the same key gives the same continuations, in whatever company
    images: tuple[Path, ...]
    question: str
    steps: tuple[str, ...]
    n: int
    step_tokens: int | None = None  # no more than the next step is wanted, of at most so many; None: all that follows


@dataclass(frozen=True)
class Completion:
    """What was written behind the steps that stood; where one step is wanted, up to and with the separator that ends
    it, and then not finished."""

    text: str
    n_tokens: int | None  # without the one that ends the solution; None where the policy does not tell
    finished: bool  # ended by the policy, not by the limit of tokens
    entropy: float | None = None  # of the next token, nats, the mean over the text; None where the policy does not tell


Asked = TypeVar("Asked", "Question", "Pair", "ScoreRequest")
Keep = Callable[[Prompt, list[Completion]], None]
Draw = Callable[[Sequence[Prompt]], list[list[Completion]]]


class Writes(Protocol):
    """What completes prompts: a policy, or a judge."""

    def refusal(self, images: Sequence[Path]) -> str | None:
        """Why it cannot look at these images, a reason of image_refusal(); None when it can."""

    def complete(self, prompts: Sequence[Prompt], keep: Keep | None = None) -> list[list[Completion]]:
        """prompt.n completions of every prompt, in order; none of one that is too long. keep: told of a prompt's as
        soon as they are there, where they come one by one and cost something."""


class Policy(Writes, Protocol):
    """Component of the config group `policy`."""

    @property
    def separator(self) -> str:
        """What stands between the steps of a solution."""

    def identity(self) -> dict[str, Any]:
        """All settings that the completions depend on, as JSON values. Raises ValueError if one is missing."""


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How the policies of this project are asked, and draw."""

    instruction: str = ""  # below every question
    separator: str = "\n\n"  # between the steps of a solution
    temperature: float = 1.0  # 0 always takes the most likely token
    top_p: float = 1.0
    max_new_tokens: int = 1024  # a solution that does not end within them is unfinished
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.separator:
            raise ValueError(r'policy.separator is empty; give what stands between two steps, e.g. "\n\n"')
        if "\\" in self.separator:
            raise ValueError(
                f"policy.separator={self.separator} has a backslash, which the shell hands on as it is; write "
                r"""$'policy.separator="\n"'"""
            )
        if not self.temperature >= 0:
            raise ValueError(f"policy.temperature={self.temperature} is not 0 or more; 0 takes the most likely token")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"policy.top_p={self.top_p} is not in (0, 1]; 1 leaves nothing out")
        if self.max_new_tokens < 1:
            raise ValueError(f"policy.max_new_tokens={self.max_new_tokens} is not positive; try 1024")


def split_steps(text: str, separator: str) -> tuple[str, ...]:
    """The steps of a solution, stripped; empty ones are left out."""
    return tuple(step for part in text.split(separator) if (step := part.strip()))


def first_step(text: str, separator: str) -> tuple[str, str | None]:
    """The first step of a text, stripped, and what stands behind its separator; None where that has not come yet."""
    step, ended, rest = text.lstrip().partition(separator)
    return step.strip(), rest if ended else None


def key_hash(key: str) -> int:
    """64 bits of a prompt's key, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Solved:
    """A question with its image files and the policy's solutions of it; none where it is too long for the policy."""

    question: Question
    images: tuple[Path, ...]
    completions: list[Completion]


@dataclass(frozen=True)
class Sampling:
    """A question becomes a record of candidates. One that reached the limit of tokens has no final answer (null) and is
    wrong, whatever it said before; one without any text has no steps."""

    solutions: int
    batch: int = 32  # questions that are solved together and kept together
    step_tokens = None

    def results(self, solved: Sequence[Solved], draw: Draw, separator: str) -> list[dict[str, Any]]:
        records = []
        for question, completions in ((one.question, one.completions) for one in solved):
            candidates = []
            for one in completions:
                steps = split_steps(one.text, separator)
                given, correct = answer_of(question, steps, one)
                candidate = {"steps": list(steps), "final_answer": given, "correct": correct, "n_tokens": one.n_tokens}
                candidates.append(candidate)
            asked = {"id": question.id, "source": question.source, "image": list(question.images)}
            asked |= {"question": question.question, "answer": question.answer}
            records.append(asked | {"candidates": candidates})
        return records


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
    continuations: int  # of every prefix: N
    batch: int = 8  # questions that are annotated together and kept together
    step_tokens = None

    def results(self, solved: Sequence[Solved], draw: Draw, separator: str) -> list[dict[str, Any]]:
        def steps_of(completion: Completion) -> tuple[str, ...]:
            return split_steps(completion.text, separator) if completion.finished else ()

        prompts = []
        for one in solved:
            for number, completion in enumerate(one.completions):
                steps = steps_of(completion)
                for length in range(1, len(steps)):
                    key = "\0".join((one.question.id, str(number), str(length)))
                    prompts.append(Prompt(key, one.images, one.question.question, steps[:length], self.continuations))
        continued = zip(prompts, draw(prompts), strict=True)
        results = []
        for one in solved:
            records, dropped = [], Counter[str]()
            for completion in one.completions:
                steps = steps_of(completion)
                found = list(islice(continued, max(0, len(steps) - 1)))
                if not completion.finished:
                    dropped["unfinished"] += 1
                elif not steps:
                    dropped["no_steps"] += 1
                elif not all(completions for _, completions in found):
                    dropped["too_long"] += 1
                else:
                    counts = [self._count(one.question, *prefix, separator) for prefix in found]
                    records.append(self._record(one.question, completion, steps, counts))
            results.append({"records": records, "dropped": dropped})
        return results

    def _count(self, question: Question, prompt: Prompt, completions: list[Completion], separator: str) -> int:
        """How many of a prefix's completions are right."""
        assert len(completions) == self.continuations, "N is what was drawn"
        ended = [((*prompt.steps, *split_steps(one.text, separator)), one) for one in completions]
        return sum(answer_of(question, *one)[1] for one in ended)

    def _record(
        self, question: Question, completion: Completion, steps: tuple[str, ...], counts: list[int]
    ) -> dict[str, Any]:
        """counts: of every proper prefix."""
        images, n = question.images, self.continuations
        counts = [*counts, n * answer_of(question, steps, completion)[1]]
        return {
            "image": images[0] if len(images) == 1 else list(images),
            "question": "<image>\n" * len(images) + question.question,
            "question_orig": question.question,
            "answer": question.answer,
            "response": completion.text,
            "steps_with_score": [
                {"step": step, "score": count / n, "num_mc_correct": count, "num_mc_total": n}
                for step, count in zip(steps, counts, strict=True)
            ],
        }


def solve(
    policy: Policy,
    questions: Sequence[Question],
    image_path: Callable[[str], Path],
    work: Sampling | Annotation | Guided,
    kept: Journal,
    advance: Callable[[int], None],
) -> None:
    """Fill the journal: question id -> what the work makes of it, or {"unusable": reason} where it cannot be asked;
    `advance` is told how many more questions are done."""
    for key in [key for key in kept.done if key.startswith(DRAWN) and key.split("\0")[2] in kept.done]:
        del kept.done[key]
    waiting = (question for question in questions if question.id not in kept.done)
    while chosen := list(islice(waiting, work.batch)):
        usable, unusable = looked_at(chosen, image_path, policy)
        kept.add({name: {UNUSABLE: reason} for name, reason in unusable.items()})
        prompts = [Prompt(q.id, paths, q.question, (), work.solutions, work.step_tokens) for q, paths in usable]
        solved = [Solved(*one, found) for one, found in zip(usable, drawn(policy, prompts, kept), strict=True)]
        results = work.results(solved, lambda prompts: drawn(policy, prompts, kept), policy.separator)
        found = zip(solved, results, strict=True)
        too_long = {UNUSABLE: "too_long"}  # the question is longer than what the policy reads
        kept.add({one.question.id: result if one.completions else too_long for one, result in found})
        advance(len(chosen))


def looked_at(
    asked: Sequence[Asked], image_path: Callable[[str], Path], writer: Writes
) -> tuple[list[tuple[Asked, tuple[Path, ...]]], dict[str, str]]:
    """What is asked with its image files, and why the writer cannot look at the others, by id."""
    found, unusable = [], {}
    for one in asked:
        try:
            paths = tuple(map(image_path, one.images))
        except ValueError:
            unusable[one.id] = "missing_image_file"
            continue
        if (reason := writer.refusal(paths)) is None:
            found.append((one, paths))
        else:
            unusable[one.id] = reason
    return found, unusable


def drawn(policy: Writes, prompts: Sequence[Prompt], kept: Journal) -> list[list[Completion]]:
    """The completions of every prompt, in order. Those that a policy hands over one by one are in the journal at once,
    and not asked for again by a process that goes on after a kill."""

    def keep(prompt: Prompt, completions: list[Completion]) -> None:
        kept.add({DRAWN + prompt.key: [astuple(completion) for completion in completions]})

    waiting = [prompt for prompt in prompts if DRAWN + prompt.key not in kept.done]
    fresh = policy.complete(waiting, keep) if waiting else []
    found = {prompt.key: completions for prompt, completions in zip(waiting, fresh, strict=True)}
    for prompt in prompts:  # from memory, not from the file
        before = kept.done.pop(DRAWN + prompt.key, [])
        found.setdefault(prompt.key, [Completion(*fields) for fields in before])
    return [found[prompt.key] for prompt in prompts]


def answer_of(question: Question, steps: Sequence[str], completion: Completion) -> tuple[str | None, bool]:
    """The final answer of a solution that `completion` ends, and whether it is right; None and False when it was cut
    off at the limit of tokens: half a number is no answer."""
    given = final_answer(steps) if completion.finished else None
    return given, given is not None and is_right(given, question.answer)
