"""Step scores of a trained model: P(yes) at every mark."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track

from mprm.backbones.base import Processor, StepModel
from mprm.data.collate import Example, collate
from mprm.data.examples import open_images


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
    solutions: Iterable[Scorable],
    image_path: Callable[[str], Path],
    max_length: int,
    batch_size: int,
    device: str,
    description: str,
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Scores in [0, 1] per solution id, one per step, and the number of solutions skipped by reason.

    A solution without a readable image or with more than max_length tokens is skipped and counted, never shortened or
    replaced. Solutions of similar length share a batch; the scores depend neither on that nor on the batch size.
    """
    model.to(device).eval()
    examples: list[tuple[str, Example]] = []
    skipped = {"image": 0, "too_long": 0}
    scores: dict[str, list[float]] = {}

    def flush() -> None:
        examples.sort(key=lambda item: len(item[1].input_ids))
        for start in range(0, len(examples), batch_size):
            ids, chosen = zip(*examples[start : start + batch_size], strict=True)
            batch = collate(chosen, processor.pad_id).to(torch.device(device))
            yes_M = model.step_logits(batch).softmax(-1)[:, 1].cpu()
            scores.update(zip(ids, (part.tolist() for part in yes_M.split(batch.n_marks)), strict=True))
        examples.clear()

    for solution in track(list(solutions), description=description, transient=True):
        try:
            images = open_images([image_path(name) for name in solution.images])
            example = processor.encode(images, solution.question, list(solution.steps))
        except ValueError:  # missing, broken, or of a shape that the processor refuses
            skipped["image"] += 1
            continue
        if len(example.input_ids) > max_length:
            skipped["too_long"] += 1
            continue
        examples.append((solution.id, example))
        if len(examples) == 16 * batch_size:  # what is held in memory at once
            flush()
    flush()
    return scores, {reason: count for reason, count in skipped.items() if count}
