"""What every step model has: its outputs; the kappa head, whose gradient is ten times the loss's, its precision and its
file; and a line where it is asked to write."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from mprm.backbones import base
from mprm.backbones.base import KAPPA, KappaHead, StepHead, StepModel, attend, stored_kappa
from mprm.batching.collate import Batch, Example, Segments, collate, from_keys, rows
from mprm.inference.scoring import Scoring


def head(hidden_size: int = 16) -> KappaHead:
    """A head in the middle of a training."""
    torch.manual_seed(0)
    drawn = KappaHead(hidden_size)
    for parameter in drawn.parameters():
        parameter.data = torch.randn_like(parameter)
    return drawn


def test_kappa_starts_at_four() -> None:
    torch.manual_seed(0)
    kappa_M = KappaHead(256)(50 * torch.randn(32, 256))
    assert kappa_M.shape == (32,)
    torch.testing.assert_close(kappa_M, torch.full((32,), 4.0), atol=0.1, rtol=0)
    assert kappa_M.std() > 0.001, "not the same for every step"


def test_kappa_is_a_softplus_of_the_normed_hidden_state() -> None:
    """(1, 3) becomes (-1, 1), scaled and shifted (-1, 1.5); 1 x -1 + 2 x 1.5 + .5 = 2.5."""
    one = KappaHead(2)
    values = {"scale": [1.0, 1.0], "shift": [0.0, 0.5], "weight": [[1.0, 2.0]], "bias": [0.5]}
    one.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    assert one(torch.tensor([[1.0, 3.0]])).item() == pytest.approx(math.log(1 + math.exp(2.5)) + 1e-3, abs=1e-4)
    one.bias.data -= 1000
    assert one(torch.tensor([[1.0, 3.0]])).item() == pytest.approx(1e-3)


def test_the_gradient_is_ten_times_that_of_the_loss_for_the_parameters_and_once_for_the_hidden_state() -> None:
    """All of the head's parameters, those of its norm too."""
    scaled, plain = head(), head()
    h_MD = torch.randn(5, 16, requires_grad=True)
    g_MD = h_MD.detach().clone().requires_grad_()
    normed_MD = nn.functional.layer_norm(g_MD, (16,), plain.scale, plain.shift)
    kappa_M = nn.functional.softplus(nn.functional.linear(normed_MD, plain.weight, plain.bias)[:, 0]) + 1e-3
    assert scaled(h_MD).equal(kappa_M)
    (kappa_M**2).sum().backward()
    (scaled(h_MD) ** 2).sum().backward()
    assert g_MD.grad is not None
    assert g_MD.grad.abs().min() > 0
    torch.testing.assert_close(h_MD.grad, g_MD.grad, atol=1e-5, rtol=1e-5)
    for name, parameter in plain.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(scaled.get_parameter(name).grad, 10 * parameter.grad, atol=1e-4, rtol=1e-5)


def test_kappa_is_computed_in_float32() -> None:
    """Under autocast, and where DeepSpeed has made the parameters bfloat16."""
    one, h_MD = head(), torch.randn(5, 16)
    expected = one(h_MD)
    with torch.autocast("cpu", torch.bfloat16):
        assert one(h_MD).equal(expected)
    for parameter in one.parameters():
        parameter.data = parameter.data.bfloat16()
    rounded = one(h_MD.bfloat16())
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, expected, atol=0.1, rtol=0.02)


def test_a_stored_head_comes_back_and_draws_nothing(tmp_path: Path) -> None:
    assert stored_kappa(None) is None
    assert stored_kappa(str(tmp_path)) is None
    one = head()
    save_file(one.state_dict(), tmp_path / KAPPA)
    before = torch.get_rng_state()
    again = stored_kappa(str(tmp_path))
    assert torch.get_rng_state().equal(before)
    assert again is not None
    assert all(parameter.requires_grad for parameter in again.parameters())
    assert all(again.get_parameter(name).equal(parameter) for name, parameter in one.named_parameters())
    (tmp_path / KAPPA).write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"^\S+kappa\.safetensors cannot be read \(.*\); export the folder again$"):
        stored_kappa(str(tmp_path))


class Marks(StepModel):
    """Hidden states that are given."""

    def __init__(self, h_MD: torch.Tensor) -> None:
        super().__init__()
        self.h_MD = h_MD
        self.head = StepHead(torch.eye(2, h_MD.shape[1]))

    def marked(self, batch: Batch) -> torch.Tensor:
        return self.h_MD


def test_a_family_gives_hidden_states_and_has_all_else() -> None:
    h_MD = torch.tensor([[1.0, 3.0, 9.0], [2.0, 2.0, 9.0]])
    model, batch = Marks(h_MD), collate([Example(torch.arange(4), torch.tensor([1, 3]), torch.arange(4), {})])
    logits_M2, kappa_M = model(batch)
    assert logits_M2.tolist() == model(batch).logits_M2.tolist() == [[1.0, 3.0], [2.0, 2.0]]
    assert kappa_M is None
    model.set_kappa(True)
    assert model(batch).kappa_M.tolist() == pytest.approx([4.0, 4.0], abs=0.01)
    head = model.kappa
    model.set_kappa(True)
    assert model.kappa is head, "the one that is there is kept"
    model.set_kappa(False)
    assert model(batch).kappa_M is None
    assert not model.recomputes
    model.check_training()


def test_a_model_that_writes_nothing_says_so() -> None:
    model = Marks(torch.zeros(1, 2))
    with pytest.raises(
        ValueError, match=r"^backbone: Marks cannot write text, as a judge must; choose a chat model.*$"
    ):
        model.train_generation()
    scoring: Any = Scoring(model, None, 9, 9, "cpu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^backbone: Marks writes no text, so that .* no entropy under it; choose.*$"):
        scoring.entropies([], None)


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


def test_transformers_interface_has_one_row_and_heads_first() -> None:
    segments = groups([(3, [2, 4])])
    q_THD, k_TGD, v_TGD = drawn(9, 4, 2, 0)
    module = torch.nn.Identity()
    q, k, v = (x.transpose(0, 1)[None] for x in (q_THD, k_TGD, v_TGD))
    found, weights = base._language_attention(module, q, k, v, None, scaling=SCALE, segments=segments, dropout=0.0)
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
    monkeypatch.setattr(base, "varlen_attn", emulated, raising=False)
    monkeypatch.setattr(base, "VARLEN", {"window_size", *(["enable_gqa"] if grouped_heads else [])})
    qkv = drawn(int(segments.query_border[-1]), 4, 2, 0)
    torch.testing.assert_close(base._flash(*qkv, segments, SCALE), dense(*qkv, segments))


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
    if "window_size" not in base.VARLEN:
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
