"""Encoded solutions to one row without padding.

Solutions of the same images and question begin alike: all of them with the images and the question, some with the same
first steps, a few are the same to the end. The row is a tree of segments: what solutions begin with stands in it once,
and each goes on behind it on its own. A solution attends to the segments on its way from the root, and its positions
go on from one to the next, so that the row gives what separate ones would.

Shape suffixes: T tokens of the row, M marks of all solutions, L tokens of a solution, K keys of a segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from mprm.batching.segments import Segments, from_keys, rows

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


class Piece(NamedTuple):
    """A segment of the row: the tokens from `start` to `end` of an example, which others may share, and the places in
    the row of these and all before them, (K,)."""

    example: Example
    start: int
    end: int
    key_K: torch.Tensor


def collate(examples: Sequence[Example]) -> Batch:
    """Lay the examples out in one row, groups in the order of their first member."""
    import torch

    groups = group_members(examples)
    pieces: list[Piece] = []
    place: dict[int, torch.Tensor] = {}
    for members in groups:
        found, placed = tree(examples, members, sum(piece.end - piece.start for piece in pieces))
        pieces += found
        place |= placed
    lengths = [piece.end - piece.start for piece in pieces]
    n_marks = [len(example.marks) for example in examples]
    mc = [e.mc if e.mc is not None else torch.full((len(e.marks),), float("nan")) for e in examples]
    n = [e.n if e.n is not None else torch.zeros(len(e.marks), dtype=torch.int64) for e in examples]
    vision = [examples[members[0]].vision for members in groups]
    keys = [piece.key_K for piece in pieces]
    return Batch(
        input_ids_T=torch.cat([e.input_ids[start:end] for e, start, end, _ in pieces]),
        position_ids=torch.cat([e.position_ids[..., start:end] for e, start, end, _ in pieces], dim=-1),
        segments=from_keys(lengths, keys, causal=True) if len(pieces) > len(groups) else rows(lengths, causal=True),
        vision={name: torch.cat([tensors[name] for tensors in vision]) for name in vision[0]},
        mark_M=torch.cat([place[number][example.marks] for number, example in enumerate(examples)]),
        mc_M=torch.cat(mc),
        n_M=torch.cat(n),
        weight_M=torch.repeat_interleave(torch.tensor([e.weight for e in examples]), torch.tensor(n_marks)),
        ids=[example.id for example in examples],
        n_marks=n_marks,
    )


def tree(
    examples: Sequence[Example], members: Sequence[int], offset: int
) -> tuple[list[Piece], dict[int, torch.Tensor]]:
    """The pieces of a group, the first of which stands at `offset`; where the tokens of every member stand, (L,).

    They part wherever tokens differ: even short pieces cost less than the tokens that they save.
    """
    import torch

    ids = {number: examples[number].input_ids.tolist() for number in members}
    pieces = []
    place: dict[int, torch.Tensor] = {}
    # Sorted, those that begin alike are neighbours, and what the first and the last have in common all of them have.
    todo = [(sorted(members, key=ids.__getitem__), 0, torch.empty(0, dtype=torch.int64))]
    for alike, start, before_K in todo:  # it grows by the branches of every piece
        end = common_prefix([examples[alike[0]].input_ids, examples[alike[-1]].input_ids])
        key_K = torch.cat([before_K, torch.arange(offset, offset + end - start)])
        pieces.append(Piece(examples[alike[0]], start, end, key_K))
        offset += end - start
        place |= dict.fromkeys(alike, key_K)  # right for those that end here; the others are placed again
        longer = [number for number in alike if len(ids[number]) > end]
        todo += [(list(branch), end, key_K) for _, branch in groupby(longer, key=lambda number: ids[number][end])]
    return pieces, place


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
