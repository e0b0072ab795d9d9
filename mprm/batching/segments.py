"""Who attends to whom in a row of tokens: the row is cut into segments, and a segment's queries see its keys only.

Shape suffixes: T tokens of the row, S segments, Q and K queries and keys of a segment, padded to the longest of a
block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

# A block's shorter segments are at least this share of its longest, so that little of it is padding.
ALIKE = 0.7


class Block(NamedTuple):
    """Segments of like length, padded: places of queries and keys in the row, (S, Q) and (S, K), and which key each
    query sees, (S, 1, Q, K), (S, 1, 1, K) when all of a segment see the same, None when all see all."""

    query_SQ: torch.Tensor
    key_SK: torch.Tensor
    mask_S1QK: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Segments:
    """Borders of the segments' queries and keys, (S + 1,) int32; the queries of all segments make up the row in order.

    key: places in the row of all segments' keys, one segment behind the other, int64; None when a segment's keys are
    its queries. causal: a query sees the keys up to its own; the last query of a segment has the last key.
    """

    query_border: torch.Tensor
    key_border: torch.Tensor
    longest_query: int
    longest_key: int
    key: torch.Tensor | None = None
    causal: bool = True

    def to(self, device: torch.device, non_blocking: bool = False) -> Segments:
        query_border, key_border, key = (
            None if x is None else x.to(device, non_blocking=non_blocking)
            for x in (self.query_border, self.key_border, self.key)
        )
        assert query_border is not None
        assert key_border is not None
        return Segments(query_border, key_border, self.longest_query, self.longest_key, key, self.causal)

    @cached_property
    def padded(self) -> tuple[list[Block], torch.Tensor]:
        """Blocks of padded segments, and for every token of the row where its query is when the blocks' (S, Q) are
        laid flat one behind the other, (T,). Kept: made under inference_mode, they can not serve a training."""
        import torch

        device = self.query_border.device
        starts, key_starts = self.query_border[:-1].long().cpu(), self.key_border[:-1].long().cpu()
        lengths, key_lengths = self.query_border.diff().cpu(), self.key_border.diff().cpu()
        key = torch.arange(int(self.key_border[-1])) if self.key is None else self.key.cpu()
        place_T = torch.empty(int(self.query_border[-1]), dtype=torch.int64)
        blocks, offset = [], 0
        for chosen in _alike(lengths.tolist(), key_lengths.tolist()):
            n_query, n_key = lengths[chosen, None], key_lengths[chosen, None]
            step_Q, step_K = torch.arange(int(n_query.max())), torch.arange(int(n_key.max()))
            query_SQ = starts[chosen, None] + step_Q.minimum(n_query - 1)
            key_SK = key[key_starts[chosen, None] + step_K.minimum(n_key - 1)]
            place_T[query_SQ[step_Q < n_query]] = (
                offset + torch.arange(query_SQ.numel()).view_as(query_SQ)[step_Q < n_query]
            )
            offset += query_SQ.numel()
            last_SQ = step_Q + (n_key - n_query) if self.causal else n_key - 1
            mask_SQK = step_K <= last_SQ[..., None]
            mask = None if bool(mask_SQK.all()) else mask_SQK[:, None].to(device)
            blocks.append(Block(query_SQ.to(device), key_SK.to(device), mask))
        return blocks, place_T.to(device)


def from_keys(lengths: Sequence[int], keys: Sequence[torch.Tensor], causal: bool) -> Segments:
    """Segments of so many queries each, and the places in the row of each one's keys."""
    import torch

    n_keys = list(map(len, keys))
    return Segments(_borders(lengths), _borders(n_keys), max(lengths), max(n_keys), torch.cat(list(keys)), causal)


def _borders(lengths: Sequence[int]) -> torch.Tensor:
    import torch

    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)


def rows(lengths: Sequence[int], causal: bool) -> Segments:
    """Segments that stand one behind the other, each its own keys."""
    border = _borders(lengths)
    return Segments(border, border, max(lengths), max(lengths), causal=causal)


def _alike(lengths: list[int], key_lengths: list[int]) -> list[list[int]]:
    """Numbers of the segments in groups of like length."""
    groups: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda i: (lengths[i], key_lengths[i]), reverse=True):
        first = groups[-1][0] if groups else None
        if (
            first is not None
            and lengths[number] >= ALIKE * lengths[first]
            and (ALIKE * key_lengths[first] <= key_lengths[number] <= key_lengths[first] / ALIKE)
        ):
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups
