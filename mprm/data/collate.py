"""Encoded solutions to one row without padding.

Solutions of the same images and question share a prefix: the tokens that they all begin with (images, question, often
the first words) stand in the row once, and every solution goes on behind it on its own. A solution attends to the
prefix and to itself, and its positions go on from the prefix, so that the row gives what separate ones would.

Shape suffixes: T tokens of the row, M marks of all solutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mprm.data.segments import Segments, from_keys, rows

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Example:
    """One encoded solution.

    input_ids (L,) and marks (n_steps,) int64; position_ids (L,) or (3, L) for M-RoPE; vision: the backbone's image
    tensors, to be concatenated over the batch; mc (n_steps,) float32 MC scores, NaN where a step was never sampled;
    n (n_steps,) int64 continuations of each step, 0 where they were not counted;
    weight: factor of every step of this rollout in the loss; id: the rollout's; group: examples with the same one have
    the same images and question, None: shared with nobody.
    """

    input_ids: torch.Tensor
    marks: torch.Tensor
    position_ids: torch.Tensor
    vision: dict[str, torch.Tensor]
    mc: torch.Tensor | None = None
    n: torch.Tensor | None = None
    weight: float = 1.0
    id: str = ""
    group: int | None = None


@dataclass(frozen=True)
class Batch:
    """A row of T tokens. mark_M: places of the marks in it, example after example in the order given to collate().

    ids, n_marks: per example, the rollout's id and its number of steps.
    """

    input_ids_T: torch.Tensor
    position_ids: torch.Tensor
    segments: Segments
    vision: dict[str, torch.Tensor]
    mark_M: torch.Tensor
    mc_M: torch.Tensor
    n_M: torch.Tensor
    weight_M: torch.Tensor
    ids: list[str]
    n_marks: list[int]

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        tensors = ("input_ids_T", "position_ids", "segments", "mark_M", "mc_M", "n_M", "weight_M")
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in tensors}
        vision = {name: value.to(device, non_blocking=non_blocking) for name, value in self.vision.items()}
        return replace(self, vision=vision, **moved)

    def pin_memory(self) -> Batch:
        """Called by the loader: the pixels, by far the largest, are copied to the device beside its work."""
        return replace(self, vision={name: value.pin_memory() for name, value in self.vision.items()})


def collate(examples: Sequence[Example]) -> Batch:
    """Lay the examples out in one row, groups in the order of their first member."""
    import torch

    ids: list[torch.Tensor] = []
    positions: list[torch.Tensor] = []
    keys: list[torch.Tensor] = []
    marks: dict[int, torch.Tensor] = {}
    groups = group_members(examples)
    for members in groups:
        shared = common_prefix([examples[number].input_ids for number in members])
        prefix = torch.arange(shared) + sum(map(len, ids))
        ids.append(examples[members[0]].input_ids[:shared])
        positions.append(examples[members[0]].position_ids[..., :shared])
        keys.append(prefix)
        for number in members:
            example = examples[number]
            own = torch.arange(len(example.input_ids) - shared) + sum(map(len, ids))
            marks[number] = torch.cat([prefix, own])[example.marks]
            if len(own):
                ids.append(example.input_ids[shared:])
                positions.append(example.position_ids[..., shared:])
                keys.append(torch.cat([prefix, own]))
    lengths = list(map(len, ids))
    n_marks = [len(example.marks) for example in examples]
    mc = [e.mc if e.mc is not None else torch.full((len(e.marks),), float("nan")) for e in examples]
    n = [e.n if e.n is not None else torch.zeros(len(e.marks), dtype=torch.int64) for e in examples]
    vision = [examples[members[0]].vision for members in groups]
    return Batch(
        input_ids_T=torch.cat(ids),
        position_ids=torch.cat(positions, dim=-1),
        segments=from_keys(lengths, keys, causal=True) if len(keys) > len(groups) else rows(lengths, causal=True),
        vision={name: torch.cat([tensors[name] for tensors in vision]) for name in vision[0]},
        mark_M=torch.cat([marks[number] for number in range(len(examples))]),
        mc_M=torch.cat(mc),
        n_M=torch.cat(n),
        weight_M=torch.repeat_interleave(torch.tensor([e.weight for e in examples]), torch.tensor(n_marks)),
        ids=[example.id for example in examples],
        n_marks=n_marks,
    )


def group_members(examples: Sequence[Example]) -> list[list[int]]:
    """Numbers of the examples, those of one group together."""
    groups: dict[tuple[str, int], list[int]] = {}
    for number, example in enumerate(examples):
        key = ("alone", number) if example.group is None else ("group", example.group)
        groups.setdefault(key, []).append(number)
    return list(groups.values())


def common_prefix(ids: Sequence[torch.Tensor]) -> int:
    """How many tokens all of these begin with; all of them for one alone."""
    length = min(map(len, ids))
    for other in ids[1:]:
        differ = (ids[0][:length] != other[:length]).nonzero()
        length = int(differ[0]) if len(differ) else length
    return length
