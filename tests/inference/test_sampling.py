"""Random numbers by name, and the tokens they stand for."""

import numpy as np
import pytest
import torch

from mprm.inference.decoding import choose, nucleus, uniforms

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
