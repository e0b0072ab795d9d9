"""Step scores of a trained model: P(yes) at every mark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from mprm.backbones.base import Processor, StepModel
from mprm.data.collate import Example, collate, common_prefix, group_members
from mprm.data.examples import open_images
from mprm.data.packing import Lengths, pack, rows_needed
from mprm.data.rollouts import question_hash


@dataclass(frozen=True)
class Scorable:
    """One solution to be scored: image paths as they stand in the record."""

    id: str
    images: Sequence[str]
    question: str
    steps: Sequence[str]


@torch.inference_mode()
def score(
    model: StepModel,
    processor: Processor,
    solutions: Sequence[Scorable],
    image_path: Callable[[str], Path],
    max_length: int,
    max_tokens: int,
    device: str,
    description: str,
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Scores in [0, 1] per solution id, one per step, and the number of solutions skipped by reason.

    A solution without a readable image or with more than max_length tokens is skipped and counted, never shortened or
    replaced. At most max_tokens tokens share a forward pass; solutions of one question share their prefix. The scores
    depend on neither.
    """
    model.to(device).eval()
    skipped = {"image": 0, "too_long": 0}
    scores: dict[str, list[float]] = {}
    held: list[Example] = []

    def flush() -> None:
        for row in rows(held, max(max_tokens, max_length)):
            batch = collate(row).to(torch.device(device))
            yes_M = model.step_logits(batch).softmax(-1)[:, 1].cpu()
            scores.update(zip(batch.ids, (part.tolist() for part in yes_M.split(batch.n_marks)), strict=True))
        held.clear()

    n_tokens, last_group = 0, None
    by_question = sorted(solutions, key=lambda solution: (solution.question, *solution.images))
    for solution in track(by_question, description=description, transient=True):
        group = question_hash(solution.question, list(solution.images))
        if n_tokens > 8 * max_tokens and group != last_group:  # what is held in memory at once
            flush()
            n_tokens = 0
        try:
            if group != last_group:  # solutions of a question follow each other and share its images
                last_group = None
                images = open_images([image_path(name) for name in solution.images])
                sizes, vision = [image.size for image in images], processor.vision(images)
                last_group = group
            example = processor.layout(sizes, solution.question, list(solution.steps))
        except ValueError:  # missing, broken, or of a shape that the processor refuses
            skipped["image"] += 1
            continue
        if len(example.input_ids) > max_length:
            skipped["too_long"] += 1
            continue
        held.append(replace(example, vision=vision, id=solution.id, group=group))
        n_tokens += len(example.input_ids)
    flush()
    return scores, {reason: count for reason, count in skipped.items() if count}


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
