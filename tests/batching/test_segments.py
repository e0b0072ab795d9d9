"""Who attends to whom: worked examples, and the padded form against a dense mask."""

from typing import NamedTuple

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mprm.batching.collate import ALIKE, Segments, from_keys, rows


def dense(segments: Segments) -> torch.Tensor:
    """Which token of the row sees which, (T, T), from the borders alone and one query at a time."""
    queries, borders = segments.query_border.tolist(), segments.key_border.tolist()
    key = list(range(borders[-1])) if segments.key is None else segments.key.tolist()
    mask_TT = torch.zeros(queries[-1], queries[-1], dtype=torch.bool)
    for number in range(len(queries) - 1):
        own = key[borders[number] : borders[number + 1]]
        n_query = queries[number + 1] - queries[number]
        for step in range(n_query):
            mask_TT[queries[number] + step, own[: len(own) - n_query + step + 1] if segments.causal else own] = True
    return mask_TT


@st.composite
def segmented(draw: st.DrawFn) -> Segments:
    """A row of groups: a prefix, and solutions that see the prefix and themselves; or segments on their own."""
    causal = draw(st.booleans())
    if draw(st.booleans()):
        return rows(draw(st.lists(st.integers(1, 9), min_size=1, max_size=12)), causal)
    queries: list[int] = []
    keys: list[list[int]] = []
    for _ in range(draw(st.integers(1, 4))):
        prefix = list(range(sum(queries), sum(queries) + draw(st.integers(1, 6))))
        queries.append(len(prefix))
        keys.append(prefix)
        for length in draw(st.lists(st.integers(1, 9), max_size=4)):
            keys.append([*prefix, *range(sum(queries), sum(queries) + length)])
            queries.append(length)
    return from_keys(queries, list(map(torch.tensor, keys)), causal)


class Block(NamedTuple):
    query_SQ: torch.Tensor
    key_SK: torch.Tensor
    mask_SQK: torch.Tensor | None


def blocks_of(segments: Segments) -> tuple[list[Block], torch.Tensor]:
    """The blocks that `padded` has laid flat, and its place_T."""
    query_P, key_P, place_T, mask, shapes = segments.padded
    found, sizes = [], shapes.view(-1, 4).tolist()
    queries, keys = query_P.split([s * q for s, q, _, _ in sizes]), key_P.split([s * k for s, _, k, _ in sizes])
    *masks, rest = mask.split([*(s * n_rows * k for s, _, k, n_rows in sizes), 2])
    assert not rest.any()
    for (s, q, k, n_rows), query_N, key_N, mask_N in zip(sizes, queries, keys, masks, strict=True):
        found.append(Block(query_N.view(s, q), key_N.view(s, k), mask_N.view(s, n_rows, k) if n_rows else None))
    return found, place_T


def test_rows_stand_one_behind_the_other() -> None:
    segments = rows([2, 1, 3], causal=True)
    assert segments.query_border.tolist() == segments.key_border.tolist() == [0, 2, 3, 6]
    assert segments.query_border.dtype == torch.int32
    assert (segments.longest_query, segments.longest_key, segments.key) == (3, 3, None)
    expected = [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]
    expected += [[0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1]]
    assert dense(segments).int().tolist() == expected


def test_a_solution_sees_the_prefix_and_itself() -> None:
    """Prefix 0 1, solutions 2 3 and 4."""
    borders = torch.tensor([0, 2, 4, 5]), torch.tensor([0, 2, 6, 9])
    segments = Segments(*borders, longest_query=2, longest_key=4, key=torch.tensor([0, 1, 0, 1, 2, 3, 0, 1, 4]))
    assert [row.nonzero()[:, 0].tolist() for row in dense(segments)] == [
        [0],
        [0, 1],
        [0, 1, 2],
        [0, 1, 2, 3],
        [0, 1, 4],
    ]
    ((first, second, third), place_T) = blocks_of(segments)
    assert first.query_SQ.tolist() == [[2, 3]]
    assert first.key_SK.tolist() == [[0, 1, 2, 3]]
    assert first.mask_SQK is not None
    assert first.mask_SQK.int().tolist() == [[[1, 1, 1, 0], [1, 1, 1, 1]]]
    assert second.key_SK.tolist() == [[0, 1]]
    assert third.key_SK.tolist() == [[0, 1, 4]]
    assert third.mask_SQK is None  # the one query sees all
    assert place_T.tolist() == [2, 3, 0, 1, 4]


def test_segments_of_like_length_share_a_block() -> None:
    """10 and 7 are alike, 6 is not; each block is padded to its longest."""
    blocks, place_T = blocks_of(rows([7, 6, 10], causal=False))
    assert [block.query_SQ.shape for block in blocks] == [(2, 10), (1, 6)]
    assert blocks[0].query_SQ[1].tolist() == [0, 1, 2, 3, 4, 5, 6, 6, 6, 6]
    assert blocks[0].mask_SQK is not None
    assert blocks[0].mask_SQK.sum(-1).tolist() == [[10], [7]]  # all queries see the same
    assert blocks[1].mask_SQK is None
    assert place_T[:7].tolist() == list(range(10, 17))
    assert place_T[7:13].tolist() == list(range(20, 26))
    assert place_T[13:].tolist() == list(range(10))


@settings(max_examples=200, deadline=None)
@given(segments=segmented())
def test_padded_is_the_dense_mask(segments: Segments) -> None:
    mask_TT = dense(segments)
    blocks, place_T = blocks_of(segments)
    found_TT = torch.zeros_like(mask_TT)
    laid_flat = torch.cat([block.query_SQ.flatten() for block in blocks])
    assert laid_flat[place_T].equal(torch.arange(len(mask_TT)))  # each token once, where its query is
    offset, real = 0, torch.zeros(len(laid_flat), dtype=torch.bool)
    real[place_T] = True
    for query_SQ, key_SK, mask_SQK in blocks:
        n_segments, n_query = query_SQ.shape
        seen_SQK = torch.ones(n_segments, n_query, key_SK.shape[1], dtype=torch.bool)
        if mask_SQK is not None:
            seen_SQK = seen_SQK & mask_SQK
        assert seen_SQK.any(-1).all()  # a softmax over nothing would be NaN, also at the padding
        for segment, step in real[offset : offset + query_SQ.numel()].view_as(query_SQ).nonzero().tolist():
            keys = key_SK[segment][seen_SQK[segment, step]]
            assert len(keys) == len(keys.unique())
            found_TT[query_SQ[segment, step], keys] = True
        offset += query_SQ.numel()
    assert found_TT.equal(mask_TT)
    assert segments.longest_query == segments.query_border.diff().max()
    assert segments.longest_key == segments.key_border.diff().max()


@settings(max_examples=100, deadline=None)
@given(segments=segmented())
def test_little_is_padding(segments: Segments) -> None:
    blocks, place_T = blocks_of(segments)
    assert sum(block.query_SQ.numel() for block in blocks) <= len(place_T) / ALIKE


def test_segments_move_as_a_whole() -> None:
    moved = rows([2, 1], causal=False).to(torch.device("meta"))
    assert moved.query_border.is_meta
    assert moved.key_border.is_meta
    assert (moved.longest_query, moved.longest_key, moved.key, moved.causal) == (2, 2, None, False)
    assert moved.padded.query_P.is_meta
    assert moved.padded.shapes.tolist() == [1, 2, 2, 0, 1, 1, 1, 0], "worked out and left on the host"
    key = torch.tensor([0, 1, 0, 1, 2])
    borders = torch.tensor([0, 2, 3]), torch.tensor([0, 2, 5])
    assert Segments(*borders, 2, 3, key).to(torch.device("meta")).key.is_meta  # type: ignore[union-attr]
