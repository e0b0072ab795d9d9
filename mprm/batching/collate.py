"""Encoded solutions to one row without padding.

Solutions of one question begin alike: with the images and the question, often with the same first steps. The row is a
tree of segments: a common beginning stands in it once, and each solution goes on behind it on its own. A solution
attends to the segments on its way from the root, and its positions count on from one to the next, so that the row gives
what separate ones would.

Shape suffixes: T tokens of the row, M marks of all solutions, L tokens of a solution, S segments, Q and K queries and
keys of a segment, padded to the longest of a block; P places of all blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, groupby
from typing import NamedTuple

import torch

# A block's shorter segments are at least this share of its longest, so that little of it is padding.
ALIKE = 0.7


class Padded(NamedTuple):
    """Segments padded in blocks of like length, all blocks laid flat one behind the other: as many tensors for any row,
    so that a compiled layer serves all rows."""

    query_P: torch.Tensor  # places in the row
    key_P: torch.Tensor
    place_T: torch.Tensor  # for every token of the row where its query is in query_P
    # Which key a query sees, bool, (S, Q, K) of every block; (S, 1, K) where all of a segment do, nothing where all see
    # all. Two more end it: for none and for one a layer would be compiled anew.
    mask: torch.Tensor
    shapes: torch.Tensor  # on the host: S, Q, K of every block, and how many rows of the mask a segment has


@dataclass(frozen=True, eq=False)
class Segments:
    """Who attends to whom: a segment's queries see its keys only. The queries of all segments make up the row."""

    query_border: torch.Tensor  # (S + 1,) int32
    key_border: torch.Tensor
    longest_query: int
    longest_key: int
    # Places in the row of all segments' keys, one segment behind the other, int64; None: its keys are its queries.
    key: torch.Tensor | None = None
    causal: bool = True  # a query sees the keys up to its own; the last query of a segment has the last key
    host: Segments | None = None  # these on the CPU, so that nobody has to wait for the device's

    def to(self, device: torch.device, non_blocking: bool = False) -> Segments:
        names = ("query_border", "key_border") if self.key is None else ("query_border", "key_border", "key")
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in names}
        return replace(self, host=self.host or self, **moved)

    @cached_property
    def padded(self) -> Padded:
        """Kept: made under inference_mode, it cannot serve a training."""
        if self.host is not None:
            device, host = self.query_border.device, self.host.padded
            names = ("query_P", "key_P", "place_T", "mask")
            return host._replace(**{name: getattr(host, name).to(device, non_blocking=True) for name in names})
        starts, key_starts = self.query_border[:-1].long(), self.key_border[:-1].long()
        lengths, key_lengths = self.query_border.diff(), self.key_border.diff()
        key = torch.arange(int(self.key_border[-1])) if self.key is None else self.key
        place_T = torch.empty(int(self.query_border[-1]), dtype=torch.int64)
        queries, keys, masks, offset = [], [], [], 0
        shapes: list[int] = []
        for chosen in _alike(lengths.tolist(), key_lengths.tolist()):
            n_query, n_key = lengths[chosen, None], key_lengths[chosen, None]
            step_Q, step_K = torch.arange(int(n_query.max())), torch.arange(int(n_key.max()))
            query_SQ = starts[chosen, None] + step_Q.minimum(n_query - 1)
            place_T[query_SQ[step_Q < n_query]] = (
                offset + torch.arange(query_SQ.numel()).view_as(query_SQ)[step_Q < n_query]
            )
            offset += query_SQ.numel()
            last_SQ = step_Q + (n_key - n_query) if self.causal else n_key - 1
            mask_SQK = step_K <= last_SQ[..., None]
            n_rows = 0 if bool(mask_SQK.all()) else mask_SQK.shape[1]
            queries.append(query_SQ.flatten())
            keys.append(key[key_starts[chosen, None] + step_K.minimum(n_key - 1)].flatten())
            masks.append(mask_SQK[:, :n_rows].flatten())
            shapes += [*query_SQ.shape, len(step_K), n_rows]
        mask = torch.cat([*masks, torch.zeros(2, dtype=torch.bool)])
        return Padded(torch.cat(queries), torch.cat(keys), place_T, mask, torch.tensor(shapes))


def from_keys(lengths: Sequence[int], keys: Sequence[torch.Tensor], causal: bool) -> Segments:
    """Segments of so many queries each, and the places in the row of each one's keys."""
    n_keys = list(map(len, keys))
    return Segments(_borders(lengths), _borders(n_keys), max(lengths), max(n_keys), torch.cat(list(keys)), causal)


def _borders(lengths: Sequence[int]) -> torch.Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)


def rows(lengths: Sequence[int], causal: bool) -> Segments:
    """Segments that stand one behind the other, each its own keys."""
    border = _borders(lengths)
    return Segments(border, border, max(lengths), max(lengths), causal=causal)


def _alike(lengths: list[int], key_lengths: list[int]) -> list[list[int]]:
    """Numbers of the segments in groups of like length."""
    groups: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda i: (lengths[i], key_lengths[i]), reverse=True):
        if groups:
            longest, keys = lengths[groups[-1][0]], key_lengths[groups[-1][0]]
            if lengths[number] >= ALIKE * longest and ALIKE * keys <= key_lengths[number] <= keys / ALIKE:
                groups[-1].append(number)
                continue
        groups.append([number])
    return groups


@dataclass(frozen=True)
class Example:
    """One encoded solution."""

    input_ids: torch.Tensor  # (L,) int64
    marks: torch.Tensor  # (n_steps,) int64, places of the marks
    position_ids: torch.Tensor  # (L,), or (3, L) for M-RoPE
    vision: dict[str, torch.Tensor]  # image tensors, to be concatenated over the batch; {} without images
    mc: torch.Tensor | None = None  # (n_steps,) float32 MC scores, NaN where a step was never sampled
    n: torch.Tensor | None = None  # (n_steps,) int64 continuations of each step, 0 where they were not counted
    weight: float = 1.0  # factor of every step in the loss
    id: str = ""  # of the rollout
    group: int | None = None  # examples with the same one have the same images and question; None: with nobody


@dataclass(frozen=True)
class Batch:
    """A row of T tokens. Marks come example after example, in the order given to collate()."""

    input_ids_T: torch.Tensor
    position_ids: torch.Tensor
    segments: Segments
    vision: dict[str, torch.Tensor]
    n_vision: list[dict[str, int]]  # how much of each belongs to each group, in the order of the row
    mark_M: torch.Tensor  # places in the row
    mc_M: torch.Tensor
    n_M: torch.Tensor
    weight_M: torch.Tensor
    ids: list[str]  # of the examples' rollouts
    n_marks: list[int]  # per example

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        tensors = ("input_ids_T", "position_ids", "segments", "mark_M", "mc_M", "n_M", "weight_M")
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in tensors}
        vision = {
            # Sizes and grids stay on the host, which works out layouts of them.
            name: value if value.dtype == torch.int64 else value.to(device, non_blocking=non_blocking)
            for name, value in self.vision.items()
        }
        return replace(self, vision=vision, **moved)

    def pin_memory(self) -> Batch:
        """Called by the loader: the pixels, by far the largest, are copied to the device beside its work."""
        return replace(self, vision={name: value.pin_memory() for name, value in self.vision.items()})


class Piece(NamedTuple):
    """A segment of the row: the tokens from `start` to `end` of an example, which others may share."""

    example: Example
    start: int
    end: int
    key_K: torch.Tensor  # places in the row of these tokens and of all before them


def collate(examples: Sequence[Example]) -> Batch:
    """Lay the examples out in one row, groups in the order of their first member."""
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
    names = dict.fromkeys(name for tensors in vision for name in tensors)  # a group may have no image
    keys = [piece.key_K for piece in pieces]
    return Batch(
        input_ids_T=torch.cat([e.input_ids[start:end] for e, start, end, _ in pieces]),
        position_ids=torch.cat([e.position_ids[..., start:end] for e, start, end, _ in pieces], dim=-1),
        segments=from_keys(lengths, keys, causal=True) if len(pieces) > len(groups) else rows(lengths, causal=True),
        vision={name: torch.cat([tensors[name] for tensors in vision if name in tensors]) for name in names},
        n_vision=[{name: len(tensor) for name, tensor in tensors.items()} for tensors in vision],
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
