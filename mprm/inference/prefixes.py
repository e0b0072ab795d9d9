"""Prompts to token sequences, as few as there can be: what one prompt shares with another is computed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from mprm.backbones.chat import ChatProcessor
from mprm.batching.collate import Example
from mprm.batching.examples import open_images
from mprm.inference.answered import answered, step_ids
from mprm.inference.policy import Prompt


@dataclass(frozen=True)
class Sequenced:
    """A begun solution and the prompts that it begins with.

    example: its tokens, all of them marked, so that collate() tells where each stands; shared: how many of them are the
    images and the question; prompts: numbers of prompts, and of how many of the tokens each consists.
    """

    example: Example
    shared: int
    prompts: list[tuple[int, int]]


def sequences(
    prompts: Sequence[Prompt], processor: ChatProcessor, separator: str, instruction: str
) -> Iterator[Sequenced]:
    """The prompts of one question after those of another; images are opened when their question's turn comes.

    Raises ValueError for an image that can not be read or is of a shape that the processor refuses.
    """
    questions: dict[tuple[tuple[Path, ...], str], list[int]] = {}
    for number, prompt in enumerate(prompts):
        questions.setdefault((prompt.images, prompt.question), []).append(number)
    for group, ((paths, question), members) in enumerate(questions.items()):
        images = open_images(paths)
        begun = begin(processor, images, question, instruction, group)
        ids = {number: step_ids(processor, prompts[number].steps, separator) for number in members}
        # Sorted, what begins with a sequence comes right behind it.
        ordered = sorted(members, key=ids.__getitem__)
        held = []
        for number, following in zip(ordered, [*ordered[1:], None], strict=True):
            own = ids[number]
            held.append((number, len(begun.input_ids) + len(own)))
            if following is None or ids[following][: len(own)] != own:
                yield Sequenced(answered(begun, own), len(begun.input_ids), held)
                held = []


def begin(
    processor: ChatProcessor, images: Sequence[Image.Image], question: str, instruction: str, group: int
) -> Example:
    """The prompt of a question without any step."""
    asked = processor.ask([image.size for image in images], question, instruction)
    return replace(asked, vision=processor.vision(images), group=group)


def filled(sequenced: Iterable[Sequenced], max_tokens: int) -> Iterator[list[Sequenced]]:
    """Sequences whose row has at most max_tokens tokens; one that is longer has a row of its own."""
    row: list[Sequenced] = []
    tokens = 0
    for one in sequenced:
        own = len(one.example.input_ids)
        cost = own - one.shared if row and row[-1].example.group == one.example.group else own
        if row and tokens + cost > max_tokens:
            yield row
            row, tokens, cost = [], 0, own
        row.append(one)
        tokens += cost
    if row:
        yield row
