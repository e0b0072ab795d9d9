"""Examples to batches: rows padded on the right, marks flattened over the batch.

Shape suffixes: B rows, L tokens, M marks of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Example:
    """One encoded solution.

    input_ids (L,) and marks (n_steps,) int64; position_ids (L,) or (3, L) for M-RoPE; vision: the backbone's image
    tensors, to be concatenated over the batch; mc (n_steps,) float32 MC scores, NaN where a step was never sampled;
    weight: factor of every step of this rollout in the loss; id: the rollout's.
    """

    input_ids: torch.Tensor
    marks: torch.Tensor
    position_ids: torch.Tensor
    vision: dict[str, torch.Tensor]
    mc: torch.Tensor | None = None
    weight: float = 1.0
    id: str = ""


@dataclass(frozen=True)
class Batch:
    """B examples. Marks are listed row after row: (mark_row_M, mark_column_M) points into input_ids_BL.

    ids, n_marks: per row, the rollout's id and its number of steps.
    """

    input_ids_BL: torch.Tensor
    position_ids: torch.Tensor
    vision: dict[str, torch.Tensor]
    mark_row_M: torch.Tensor
    mark_column_M: torch.Tensor
    mc_M: torch.Tensor
    weight_M: torch.Tensor
    ids: list[str]
    n_marks: list[int]

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        tensors = ("input_ids_BL", "position_ids", "mark_row_M", "mark_column_M", "mc_M", "weight_M")
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in tensors}
        vision = {name: value.to(device, non_blocking=non_blocking) for name, value in self.vision.items()}
        return replace(self, vision=vision, **moved)


def collate(examples: Sequence[Example], pad_id: int) -> Batch:
    """Pad examples to the longest. Positions of padding go on counting, so that no row looks like a packed one."""
    import torch

    length = max(len(example.input_ids) for example in examples)
    ids_BL = torch.full((len(examples), length), pad_id, dtype=torch.int64)
    positions = []
    for row, example in enumerate(examples):
        missing = length - len(example.input_ids)
        ids_BL[row, : len(example.input_ids)] = example.input_ids
        tail = example.position_ids[..., -1:] + 1 + torch.arange(missing)
        positions.append(torch.cat([example.position_ids, tail], dim=-1))
    n_marks = torch.tensor([len(example.marks) for example in examples])
    mc = [e.mc if e.mc is not None else torch.full((len(e.marks),), float("nan")) for e in examples]
    names = examples[0].vision.keys()
    return Batch(
        input_ids_BL=ids_BL,
        position_ids=torch.stack(positions, dim=-2),
        vision={name: torch.cat([example.vision[name] for example in examples]) for name in names},
        mark_row_M=torch.repeat_interleave(torch.arange(len(examples)), n_marks),
        mark_column_M=torch.cat([example.marks for example in examples]),
        mc_M=torch.cat(mc),
        weight_M=torch.repeat_interleave(torch.tensor([e.weight for e in examples]), n_marks),
        ids=[example.id for example in examples],
        n_marks=n_marks.tolist(),
    )
