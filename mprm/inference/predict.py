"""Step scores of a trained model: P(yes) at every mark.

Shape suffixes: M marks of a row of tokens, 2 logits (no, yes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from mprm.backbones.base import Processor, StepModel
from mprm.batching.collate import Example, collate, common_prefix, group_members
from mprm.batching.examples import image_fault
from mprm.batching.packing import Lengths, pack, rows_needed
from mprm.data.rollouts import question_hash
from mprm.metrics.step_scores import NotScored, StepScores

OpenImages = Callable[[Sequence[str]], list[Image.Image]]


@dataclass(frozen=True)
class Scorable:
    """One solution to be scored. images: whatever `open_images` of score() knows them by."""

    id: str
    images: Sequence[str]
    question: str
    steps: Sequence[str]


Scored = Iterator[tuple[str, StepScores | NotScored]]


@torch.inference_mode()
def score(
    model: StepModel,
    processor: Processor,
    solutions: Sequence[Scorable],
    open_images: OpenImages,
    max_length: int,
    max_tokens: int,
    device: str,
) -> Scored:
    """Scores of every solution by its id, or why it has none, as they come: solutions of one question together.

    A solution without a readable image or with more than max_length tokens is not scored, never shortened or replaced.
    At most max_tokens tokens share a forward pass; solutions of one question share their images and prompt, which are
    computed once in it. The scores depend on neither.
    """
    model.to(device).eval()
    held: list[Example] = []
    n_tokens, last_group = 0, None
    for solution in sorted(solutions, key=lambda solution: (solution.question, *solution.images)):
        group = question_hash(solution.question, list(solution.images))
        if n_tokens > 8 * max_tokens and group != last_group:  # what is held in memory at once
            yield from score_examples(model, held, max(max_tokens, max_length), device)
            held, n_tokens = [], 0
        if group != last_group:  # solutions of a question follow each other and share its images
            last_group, seen = group, seen_by(solution.images, open_images, processor)
        if isinstance(seen, NotScored):
            yield solution.id, seen
            continue
        sizes, vision = seen
        example = processor.layout(sizes, solution.question, list(solution.steps))
        if len(example.input_ids) > max_length:
            tokens = len(example.input_ids)
            yield solution.id, NotScored("too_long", f"{tokens} tokens, more than backbone.max_length={max_length}")
            continue
        held.append(replace(example, vision=vision, id=solution.id, group=group))
        n_tokens += len(example.input_ids)
    yield from score_examples(model, held, max(max_tokens, max_length), device)


def seen_by(
    names: Sequence[str], open_images: OpenImages, processor: Processor
) -> tuple[list[tuple[int, int]], dict[str, torch.Tensor]] | NotScored:
    """Sizes and tensors of a question's images."""
    if not names:
        return NotScored("no_image", "there is no image")
    try:
        images = open_images(names)
    except ValueError as error:
        return NotScored(image_fault(error), " ".join(str(error).split()))
    try:
        return [image.size for image in images], processor.vision(images)
    except ValueError as error:
        return NotScored("refused_image", " ".join(str(error).split()))


def score_examples(
    model: StepModel, examples: list[Example], max_tokens: int, device: str
) -> Iterator[tuple[str, StepScores]]:
    """Scores of encoded solutions, in forward passes of at most max_tokens tokens."""
    for row in rows(examples, max_tokens):
        batch = collate(row).to(torch.device(device))
        logits_M2, kappa_M = model(batch)
        log_odds_M = (logits_M2[:, 1] - logits_M2[:, 0]).cpu()
        parts = log_odds_M.split(batch.n_marks)
        kappas = [None] * len(row) if kappa_M is None else kappa_M.cpu().split(batch.n_marks)
        for name, log_odds, kappa in zip(batch.ids, parts, kappas, strict=True):
            yield name, StepScores(tuple(log_odds.tolist()), None if kappa is None else tuple(kappa.tolist()))


def rows(examples: list[Example], max_tokens: int) -> list[list[Example]]:
    """The examples in rows of at most max_tokens, those of one question together as far as they fit."""
    if not examples:
        return []
    by_group = group_members(examples)
    shared = np.empty(len(examples), dtype=np.int64)
    question = np.empty(len(examples), dtype=np.int64)
    for number, members in enumerate(by_group):
        shared[members] = common_prefix([examples[i].input_ids for i in members])
        question[members] = number
    lengths = Lengths(np.array([len(example.input_ids) for example in examples]), shared, question)
    everything = list(range(len(examples)))
    packed = pack(lengths, everything, max_tokens, rows_needed(lengths, everything, max_tokens))
    assert packed is not None
    return [[examples[i] for i in row] for row in packed if row]
