"""Attention inside segments, on either path, against a softmax over the whole row."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.utils import counters

from mprm.backbones import attention
from mprm.backbones.attention import attend
from mprm.batching.collate import Segments, from_keys, rows

SCALE = 0.3


def groups(shapes: list[tuple[int, list[int]]], causal: bool = True) -> Segments:
    """(prefix, own lengths) of questions whose solutions see their prefix and themselves."""
    queries: list[int] = []
    keys: list[list[int]] = []
    for prefix_length, own in shapes:
        prefix = list(range(sum(queries), sum(queries) + prefix_length))
        queries.append(prefix_length)
        keys.append(prefix)
        for length in own:
            keys.append([*prefix, *range(sum(queries), sum(queries) + length)])
            queries.append(length)
    return from_keys(queries, list(map(torch.tensor, keys)), causal)


def dense(q_THD: torch.Tensor, k_TGD: torch.Tensor, v_TGD: torch.Tensor, segments: Segments) -> torch.Tensor:
    """Softmax over the whole row with everything outside a query's keys at minus infinity."""
    queries, borders = segments.query_border.tolist(), segments.key_border.tolist()
    key = list(range(borders[-1])) if segments.key is None else segments.key.tolist()
    mask_TT = torch.full((queries[-1], queries[-1]), -torch.inf, dtype=q_THD.dtype)
    for number in range(len(queries) - 1):
        own, n_query = key[borders[number] : borders[number + 1]], queries[number + 1] - queries[number]
        for step in range(n_query):
            mask_TT[queries[number] + step, own[: len(own) - n_query + step + 1] if segments.causal else own] = 0
    repeats = q_THD.shape[1] // k_TGD.shape[1]
    k_THD, v_THD = (x.repeat_interleave(repeats, dim=1) for x in (k_TGD, v_TGD))
    weight_HTT = (torch.einsum("thd,shd->hts", q_THD, k_THD) * SCALE + mask_TT).softmax(-1)
    return torch.einsum("hts,shd->thd", weight_HTT, v_THD)


def drawn(n_tokens: int, heads: int, key_heads: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(n_tokens, n, 8, generator=generator, dtype=torch.float64) for n in (heads, key_heads, key_heads)
    ]


SHAPES = st.lists(st.tuples(st.integers(1, 8), st.lists(st.integers(1, 8), max_size=4)), min_size=1, max_size=3)
LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    segments=st.builds(groups, SHAPES, st.booleans()) | st.builds(rows, LENGTHS, st.booleans()),
    heads=st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]),
    seed=st.integers(0, 100),
)
def test_attend_is_a_dense_masked_softmax(segments: Segments, heads: tuple[int, int], seed: int) -> None:
    ours = [x.requires_grad_() for x in drawn(int(segments.query_border[-1]), *heads, seed)]
    theirs = [x.detach().clone().requires_grad_() for x in ours]
    out_THD, expected_THD = attend(*ours, segments, SCALE), dense(*theirs, segments)
    torch.testing.assert_close(out_THD, expected_THD)
    sign_THD = torch.randn(out_THD.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    (out_THD * sign_THD).sum().backward()
    (expected_THD * sign_THD).sum().backward()
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, two.grad)
    # As a node of a compiled layer it has a backward pass of its own, in float32.
    node_THD = attention._node(*ours, list(segments.padded), SCALE)
    assert node_THD.equal(out_THD)
    for one, two in zip(torch.autograd.grad((node_THD * sign_THD).sum(), ours), theirs, strict=True):
        torch.testing.assert_close(one, two.grad, atol=2e-6, rtol=2e-6)


def test_transformers_interface_has_one_row_and_heads_first() -> None:
    segments = groups([(3, [2, 4])])
    q_THD, k_TGD, v_TGD = drawn(9, 4, 2, 0)
    module = torch.nn.Identity()
    q, k, v = (x.transpose(0, 1)[None] for x in (q_THD, k_TGD, v_TGD))
    found, weights = attention._language_attention(module, q, k, v, None, scaling=SCALE, segments=segments, dropout=0.0)
    assert weights is None
    torch.testing.assert_close(found, dense(q_THD, k_TGD, v_TGD, segments)[None])


def emulated(
    q_THD: torch.Tensor,
    k_TGD: torch.Tensor,
    v_TGD: torch.Tensor,
    query_border: torch.Tensor,
    key_border: torch.Tensor,
    longest_query: int,
    longest_key: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool = False,
) -> torch.Tensor:
    """torch's varlen_attn as its documentation has it, sequence by sequence, causal masks at the lower right corner."""
    assert (longest_query, longest_key) == (int(query_border.diff().max()), int(key_border.diff().max()))
    assert q_THD.shape[1] == k_TGD.shape[1] or enable_gqa
    outputs = []
    for (start, end), (key_start, key_end) in zip(
        pairwise(query_border.tolist()), pairwise(key_border.tolist()), strict=True
    ):
        mask = torch.ones(end - start, key_end - key_start, dtype=torch.bool)
        if window_size == (-1, 0):
            mask = mask.tril(key_end - key_start - (end - start))
        q, k, v = (x.transpose(0, 1) for x in (q_THD[start:end], k_TGD[key_start:key_end], v_TGD[key_start:key_end]))
        attended = torch.nn.functional.scaled_dot_product_attention(
            q[None], k[None], v[None], mask, scale=scale, enable_gqa=True
        )
        outputs.append(attended[0].transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("grouped_heads", [True, False], ids=["with grouped heads", "torch 2.11"])
@pytest.mark.parametrize(
    "segments",
    [groups([(13, [4, 7, 1]), (2, []), (6, [3, 6])]), rows([10, 7], causal=True), rows([6, 4], causal=False)],
    ids=["shared", "causal", "whole"],
)
def test_what_the_cuda_kernel_is_asked_for(
    segments: Segments, grouped_heads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "varlen_attn", emulated, raising=False)
    monkeypatch.setattr(attention, "VARLEN", {"window_size", *(["enable_gqa"] if grouped_heads else [])})
    qkv = drawn(int(segments.query_border[-1]), 4, 2, 0)
    torch.testing.assert_close(attention._flash(*qkv, segments, SCALE), dense(*qkv, segments))


def test_the_cuda_kernel_stands_in_one_graph_for_any_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward pass are traced as on CUDA; there is no kernel to run."""
    if "window_size" not in attention.VARLEN:
        pytest.skip("this torch has no variable-length attention with masks")
    monkeypatch.setattr(attention, "_is_flash", lambda *_: True)
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(attend, backend="aot_eager", dynamic=True)
    for shapes in ([(13, [4, 7, 1]), (2, []), (6, [3, 6])], [(5, [2, 3])], [(30, [1, 2, 3, 4, 5])]):
        segments = groups(shapes)
        qkv = [x.bfloat16().requires_grad_() for x in drawn(int(segments.query_border[-1]), 4, 2, 0)]
        with pytest.raises(NotImplementedError, match="_flash_attention_forward"):
            compiled(*qkv, segments, SCALE)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    torch._dynamo.reset()


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [(4, 4), (8, 2)])
@pytest.mark.parametrize(
    "segments",
    [
        groups([(130, [40, 70, 1]), (20, []), (64, [33, 64])]),
        rows([100, 7, 64], causal=True),
        rows([64, 64, 16, 100], causal=False),
    ],
    ids=["shared", "causal", "whole"],
)
def test_the_cuda_kernel_agrees_with_the_padded_path(segments: Segments, heads: tuple[int, int]) -> None:
    """In bfloat16: as far from float32 as the padded path is in bfloat16, within a factor of two."""
    if "window_size" not in attention.VARLEN:
        pytest.skip("this torch has no variable-length attention with masks")
    generator = torch.Generator().manual_seed(0)
    n_tokens = int(segments.query_border[-1])
    drawn_ = [torch.randn(n_tokens, n, 64, generator=generator) for n in (heads[0], heads[1], heads[1], heads[0])]
    exact, *others = [
        _outputs(drawn_, segments.to(torch.device(device)), device, dtype)
        for device, dtype in (("cpu", torch.float32), ("cpu", torch.bfloat16), ("cuda", torch.bfloat16))
    ]
    for number, name in enumerate(("output", "query gradient", "key gradient", "value gradient")):
        padded, kernel = ((other[number] - exact[number]).abs().max() for other in others)
        assert exact[number].abs().max() > 0.5, name
        assert kernel < 2 * padded + 5e-3, (name, float(kernel), float(padded))


def _outputs(drawn_: list[torch.Tensor], segments: Segments, device: str, dtype: torch.dtype) -> list[torch.Tensor]:
    *qkv, sign_THD = [x.to(device, dtype, copy=True) for x in drawn_]
    leaves = [x.requires_grad_() for x in qkv]
    out_THD = attend(*leaves, segments, 64**-0.5)
    out_THD.backward(sign_THD)
    return [x.detach().float().cpu() for x in (out_THD, *(leaf.grad for leaf in leaves if leaf.grad is not None))]
