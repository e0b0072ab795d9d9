"""Which token comes next: random numbers by name, the tokens they stand for, attention of one row, and entropy."""

import math

import numpy as np
import pytest
import torch

from mprm.inference import decoding
from mprm.inference.decoding import choose, nucleus, token_entropy, uniforms

P_V = torch.tensor([0.2, 0.5, 0.3])


def test_uniform_numbers_have_a_name() -> None:
    numbers = uniforms(1, "q0", 2, 5)
    assert numbers.dtype == np.float64
    assert ((numbers >= 0) & (numbers < 1)).all()
    np.testing.assert_array_equal(uniforms(1, "q0", 2, 3), numbers[:3])
    for other in (uniforms(0, "q0", 2, 5), uniforms(1, "q1", 2, 5), uniforms(1, "q0", 3, 5)):
        assert not (other == numbers).any()


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 0), (0.19, 0), (0.21, 1), (0.69, 1), (0.71, 2), (1 - 2**-53, 2)])
def test_a_token_is_where_the_number_falls_in_the_cumulated_probabilities(uniform: float, token: int) -> None:
    logits_RV = P_V.log()[None] + 3  # a constant is none
    assert choose(logits_RV, torch.tensor([uniform], dtype=torch.float64), 1.0, 1.0).tolist() == [token]


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 1), (0.62, 1), (0.63, 2), (0.99, 2)])
def test_top_p_leaves_out_what_is_not_needed_to_reach_it(uniform: float, token: int) -> None:
    """0.5 alone is less than 0.6, 0.5 + 0.3 is enough: token 0 is out, and 0.5 / 0.8 = 0.625."""
    logits_RV = P_V.log()[None]
    assert choose(logits_RV, torch.tensor([uniform], dtype=torch.float64), 1.0, 0.6).tolist() == [token]


def test_a_nucleus_holds_the_likeliest_token_at_least() -> None:
    kept = nucleus(torch.stack([P_V, P_V.flip(0)]), 0.01)
    assert kept.tolist() == [[0, 0.5, 0], [0, 0.5, 0]]


def test_temperature_is_a_power_of_the_probabilities() -> None:
    """Squared and made to sum to 1: 0.04, 0.25, 0.09 of 0.38."""
    logits_RV = P_V.log()[None].expand(2, -1)
    uniform_R = torch.tensor([0.104, 0.106], dtype=torch.float64)  # 0.04 / 0.38 = 0.1053
    assert choose(logits_RV, uniform_R, 0.5, 1.0).tolist() == [0, 1]


def test_temperature_0_takes_the_likeliest_token() -> None:
    assert choose(P_V.log()[None], torch.tensor([0.99], dtype=torch.float64), 0.0, 1.0).tolist() == [1]


def test_heads_that_share_keys_see_what_repeated_keys_show() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 6, 1, 8), torch.randn(3, 2, 5, 8), torch.randn(3, 2, 5, 8)
    seen = torch.rand(3, 1, 1, 5) < 0.7
    seen[..., -1] = True
    found, _ = decoding._row_attention(torch.nn.Identity(), query, key, value, seen, scaling=0.5)
    repeated = (x.repeat_interleave(3, dim=1) for x in (key, value))
    expected = torch.nn.functional.scaled_dot_product_attention(query, *repeated, seen, scale=0.5)
    torch.testing.assert_close(found, expected.transpose(1, 2))


IMPOSSIBLE = -math.inf


def test_worked_rows() -> None:
    rows = [
        ([0.0, 0.0, 0.0, 0.0], math.log(4)),
        ([7.0, 7.0, IMPOSSIBLE, IMPOSSIBLE], math.log(2)),
        ([math.log(3), 0.0, IMPOSSIBLE, IMPOSSIBLE], math.log(4) - 0.75 * math.log(3)),  # 3/4 and 1/4
        ([math.log(2), 0.0, 0.0, IMPOSSIBLE], 1.5 * math.log(2)),
    ]
    logits_NV = torch.tensor([logits for logits, _ in rows])
    expected_N = torch.tensor([entropy for _, entropy in rows])
    torch.testing.assert_close(token_entropy(logits_NV), expected_N, atol=1e-6, rtol=0)
    # only differences between logits matter
    torch.testing.assert_close(token_entropy(logits_NV + 50), expected_N, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_certain_has_none_at_all(dtype: torch.dtype) -> None:
    large = torch.finfo(dtype).max
    rows = [[large, 0.0, 0.0], [large, -large, -large], [IMPOSSIBLE, -3.0, IMPOSSIBLE], [0.0, -1000.0, -1000.0]]
    assert token_entropy(torch.tensor(rows, dtype=dtype)).tolist() == [0.0] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_vocabulary(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    n_words = 150_000
    logits_NV = torch.stack([torch.zeros(n_words), torch.randn(n_words, generator=torch.Generator().manual_seed(0))])
    logits_NV = logits_NV.to(dtype)
    exact_NV = torch.log_softmax(logits_NV.double(), dim=-1)
    expected_N = -(exact_NV.exp() * exact_NV).sum(-1).float()
    assert expected_N[0] == pytest.approx(math.log(n_words))
    whole_N = token_entropy(logits_NV)
    assert whole_N.dtype == torch.float32
    torch.testing.assert_close(whole_N, expected_N, atol=1e-6, rtol=0)
    monkeypatch.setattr(decoding, "CHUNK", 2)  # less than a row
    torch.testing.assert_close(token_entropy(logits_NV), whole_N, atol=1e-6, rtol=0)
