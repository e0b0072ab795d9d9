"""A chat model that was never trained to score steps, asked in words for the first wrong one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import torch

from mprm.backbones.auto import family_of
from mprm.batching.collate import Example
from mprm.batching.loading import loaded
from mprm.data.rollouts import question_hash
from mprm.inference.decoding import SharedPrefix
from mprm.inference.local import Sampler
from mprm.inference.policy import Prompt
from mprm.inference.scoring import OpenImages, Scored, ScoreRequest, look_at
from mprm.metrics.predictions import NotScored, StepScores
from mprm.prms.prm import ScoredBy

SURE = 1000.0  # log odds whose probability is 1 in float64, and 0 those below
AT_ONCE = 16  # solutions
NONE = re.compile(
    r"(?:\\text\{)?\W*(?:none|no(?: step| error)?s?|all(?: steps)?(?: are)?(?: correct)?)\W*", re.IGNORECASE
)
# What is said last in the first way of saying it that there is.
READINGS = tuple(
    re.compile(reading, re.IGNORECASE)
    for reading in (
        r"boxed\s{0,3}\{((?:[^{}]|\{[^{}]*\})*)\}",
        r"\b(?:index|first (?:wrong|incorrect|erroneous) (?:step|one))\b[^\n\d]{0,40}?(-?\d+)\b",
        r"(?:\A|\n)\W{0,8}?(?:(?:final )?(?:answer|verdict)\W{1,5}?)?(?:<?step[ _])?(-?\d+)\b\W{0,8}\Z",
    )
)


@dataclass(frozen=True, kw_only=True)
class Critic:
    """Component `model`: any folder that the backbones load. It reads a question and numbered steps and answers with
    the number of the first wrong one, or -1. Its score is 1 for the steps before that one and 0 from there on."""

    path: str | None = None  # folder of the downloaded weights
    system: str = ""  # system message, none when empty
    instruction: str = ""  # below question and steps
    max_tiles: int = 12  # InternVL: tiles per question besides the thumbnail of each image
    min_pixels: int = 784  # Qwen: area to which an image is scaled
    max_pixels: int = 1_003_520
    max_length: int = 8192  # tokens of a prompt; a longer one is left out and counted
    max_new_tokens: int = 1024  # of an answer
    dtype: str = "stored"  # of the weights; stored: as in the folder, or float32, bfloat16

    def scorer(self, max_tokens: int, device: str, num_workers: int = 0) -> ScoredBy:
        try:
            family = family_of(self.path)
            options = {name: getattr(self, name) for name in family.prompt_fields if hasattr(self, name)}
            processor, model = family(path=self.path, dtype=self.dtype, max_length=self.max_length, **options).load()
        except ValueError as error:  # a backbone names its own group, whose options are the model's here
            raise ValueError(str(error).replace("backbone", "model")) from None
        sampler = Asking(
            processor=processor,
            model=model.to(device).eval(),
            max_tokens=max_tokens,
            temperature=0.0,
            max_new_tokens=self.max_new_tokens,
        )
        return lambda requests, open_images: self._scored(sampler, requests, open_images, num_workers)

    def _scored(
        self, sampler: Asking, requests: Sequence[ScoreRequest], open_images: OpenImages, num_workers: int
    ) -> Scored:
        """The solutions of one question together, a few at a time."""
        ordered = sorted(requests, key=lambda request: (request.question, *request.images))
        made = loaded(ordered, partial(self._prompt, sampler, open_images), num_workers)
        waiting = zip(ordered, made, strict=True)
        while chosen := list(islice(waiting, AT_ONCE)):
            asked: dict[str, Example] = {}
            for request, example in chosen:
                if isinstance(example, NotScored):
                    yield request.id, example
                else:
                    asked[request.id] = example
            n_steps = {request.id: len(request.steps) for request, _ in chosen}
            for name, text in zip(asked, replace(sampler, asked=asked).answers(), strict=True):
                yield name, scores_of(text, n_steps[name])

    def _prompt(self, sampler: Asking, open_images: OpenImages, request: ScoreRequest) -> Example | NotScored:
        seen = look_at(request.images, open_images, sampler.processor)
        if isinstance(seen, NotScored):
            return seen
        sizes, vision = seen
        steps = "\n\n".join(f"<step_{n}>\n{step}\n</step_{n}>" for n, step in enumerate(request.steps))
        example = sampler.processor.ask(sizes, f"{request.question}\n\n{steps}", self.instruction)
        if (length := len(example.input_ids)) > self.max_length:
            return NotScored("too_long", f"{length} tokens, more than max_length={self.max_length}")
        return replace(example, vision=vision, group=question_hash(request.question, list(request.images)))


@dataclass(frozen=True, kw_only=True)
class Asking(Sampler):
    """Writes an answer to prompts that are laid out already."""

    asked: Mapping[str, Example] | None = None  # by its name

    def answers(self) -> list[str]:
        prompts = [Prompt(name, (), "", (), 1) for name in self.asked or {}]
        return [one.text for (one,) in self.complete(prompts)] if prompts else []

    def shared_prefixes(self, prompts: Sequence[Prompt]) -> Iterator[SharedPrefix]:
        for number, example in enumerate((self.asked or {}).values()):
            length = len(example.input_ids)
            # What prompts of a question share is found when they are laid in a row; here they are as long as they are.
            yield SharedPrefix(replace(example, marks=torch.arange(length)), 0, [(number, length)])


def scores_of(answer: str, n_steps: int) -> StepScores | NotScored:
    """1 before the first wrong step and 0 from there on; not scored where the answer has no number of a step."""
    wrong = first_wrong(answer, n_steps)
    if wrong is None:
        said = " ".join(answer.split())
        return NotScored("no_verdict", f"the answer has no number from -1 to {n_steps - 1}: ...{said[-80:]}")
    return StepScores(tuple(SURE if wrong < 0 or n < wrong else -SURE for n in range(n_steps)))


def first_wrong(answer: str, n_steps: int) -> int | None:
    """The number of the first wrong step, -1 for none, as it is meant: in a box, as the index or the first wrong step,
    or alone at the end. None where there is no such number."""
    for reading in READINGS:
        if told := reading.findall(answer):
            number = re.search(r"-?\d+", told[-1])
            found = int(number[0]) if number else -1 if NONE.fullmatch(told[-1]) else None
            return found if found is not None and -1 <= found < n_steps else None
    return None
