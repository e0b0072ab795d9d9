import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mprm.backbones.base import StepOutput
from mprm.training.objectives import BetaBinomial, Hard, Soft, beta_binomial_losses, step_losses, step_weights


def test_two_way_cross_entropy() -> None:
    logits_M2 = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)], [0.0, math.log(3)]])
    loss_M = step_losses(logits_M2, torch.tensor([1.0, 0.0, 0.5]))
    expected = [math.log(4 / 3), math.log(4), 0.5 * math.log(4 / 3) + 0.5 * math.log(4)]
    torch.testing.assert_close(loss_M, torch.tensor(expected))


def test_hard_label_is_one_above_tau() -> None:
    mc_M = torch.tensor([0.0, 1 / 16, 2 / 16, 1.0])
    assert Hard().target(mc_M).tolist() == [0, 1, 1, 1]
    assert Hard(tau=1 / 16).target(mc_M).tolist() == [0, 0, 1, 1]
    assert Hard().target(0.5) == 1.0, "a plain number, as the export gives it"


def test_soft_label_is_the_score() -> None:
    assert Soft().target(torch.tensor([0.25])).tolist() == [0.25]


def test_a_label_names_what_is_not_usual() -> None:
    assert [one.label for one in (Hard(), Soft(), BetaBinomial())] == ["Hard", "Soft", "Beta Binomial"]
    assert Hard(tau=0.125, normalise="micro_batch").label == "Hard (normalise micro_batch, tau 0.125)"
    assert Soft(balance="classes").label == "Soft (balance classes)"


def test_scores_strictly_within_the_band_are_ignored() -> None:
    mc_M = torch.tensor([0.0, 0.125, 0.1875, 0.6875, 0.75, 1.0, float("nan")])
    band = Hard(tau=0.125, ignore=[0.125, 0.75])
    assert band.ignored(mc_M).tolist() == [False, False, True, True, False, False, False]
    assert band.target(mc_M[[0, 1, 4, 5]]).tolist() == [0, 0, 1, 1]
    assert band.ignored(0.5), "a plain number"
    assert not Soft().ignored(mc_M).any()
    assert not Soft().ignored(1.0)


def test_what_a_step_weighs_under_balance() -> None:
    """Of 5 steps 4 are positive: .5 / .8 = .625 each, and .5 / .2 = 2.5 for the other one: 2.5 on either side."""
    target_M = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    weight_M = step_weights(target_M, 0.8)
    assert weight_M.tolist() == pytest.approx([0.625] * 4 + [2.5])
    assert step_weights(0.5, 0.8) == pytest.approx(1.5625)
    assert step_weights(target_M.sum().item(), 0.8, 5) == pytest.approx(weight_M.sum().item())


# Targets are counts over the number of continuations: none is so small that .5 / pi overflows.
shares = st.integers(0, 64).map(lambda count: count / 64)


@given(st.lists(shares, min_size=2, max_size=30).filter(lambda targets: 0 < np.mean(targets) < 1))
def test_weights_have_the_mean_one_and_give_half_to_either_side_of_the_mass(targets: list[float]) -> None:
    target_M, share = np.array(targets), float(np.mean(targets))
    assert step_weights(target_M, share).mean() == pytest.approx(1)
    assert (target_M * 0.5 / share).mean() == pytest.approx(0.5)
    assert step_weights(target_M.sum(), share, len(targets)) == pytest.approx(len(targets))


def test_values_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match=r"objective\.tau=1\.0"):
        Hard(tau=1.0)
    with pytest.raises(ValueError, match=r"objective\.normalise=sum .* choose global_batch or micro_batch"):
        Soft(normalise="sum")
    with pytest.raises(ValueError, match=r"objective\.micro_batch_size=0 is not positive"):
        Hard(micro_batch_size=0)
    with pytest.raises(ValueError, match=r"^objective\.balance=all is unknown; choose none \(published\) or classes$"):
        BetaBinomial(balance="all")
    for band in ([0.5], [0.5, 0.5], [0.75, 0.125], [0.5, 1.5]):
        with pytest.raises(ValueError, match=rf"^objective\.ignore={re.escape(str(band))} is not two rising scores"):
            Soft(ignore=band)
    for tau in (0.0, 0.75):
        line = rf"^objective\.tau={tau} does not part the scores up to 0\.125, .* give objective\.tau=0\.125$"
        with pytest.raises(ValueError, match=line):
            Hard(tau=tau, ignore=[0.125, 0.75])
    with pytest.raises(
        ValueError, match=r"^objective\.penalty=-1\.0 is not a number from 0; the published one is 0\.05$"
    ):
        BetaBinomial(penalty=-1.0)


def test_cross_entropy_objectives_take_neither_kappa_nor_counts() -> None:
    output = StepOutput(torch.tensor([[0.0, math.log(3)]]), None)
    mc_M, n_M = torch.tensor([0.5]), torch.tensor([0])
    assert Hard().losses(output, mc_M, n_M).item() == pytest.approx(math.log(4 / 3))
    assert Soft().losses(output, mc_M, n_M).item() == pytest.approx(0.5 * math.log(4 / 3) + 0.5 * math.log(4))


def probability(mu: float, kappa: float, k: int, n: int) -> float:
    arguments = (math.log(mu / (1 - mu)), kappa, float(k), float(n))
    return math.exp(-beta_binomial_losses(*(torch.tensor([x], dtype=torch.float64) for x in arguments)).item())


@pytest.mark.parametrize(
    ("mu", "kappa", "k", "n", "expected"),
    [
        (0.5, 2.0, 2, 4, 1 / 5),  # Beta(1, 1) is uniform over success rates, and all counts 0..4 are equally likely
        (0.5, 2.0, 0, 4, 1 / 5),
        (0.75, 9.0, 1, 1, 3 / 4),  # of one continuation only the mean is known
        (0.75, 0.1, 1, 1, 3 / 4),
        (0.5, 1.0, 2, 2, 3 / 8),  # Beta(1/2, 1/2): the arcsine law
        (0.5, 1.0, 1, 2, 1 / 4),
        (0.25, 4.0, 0, 3, (3 * 4 * 5) / (4 * 5 * 6)),  # Beta(1, 3)
        (0.75, 1e8, 3, 4, 4 * 0.75**3 * 0.25),  # a certain mean is the binomial
        (0.75, 1e-3, 4, 4, 3 / 4),  # no certainty at all: all continuations, or none
    ],
)
def test_probability_of_a_count(mu: float, kappa: float, k: int, n: int, expected: float) -> None:
    assert probability(mu, kappa, k, n) == pytest.approx(expected, abs=1e-3 if kappa < 0.01 else 1e-5)


@settings(max_examples=200, deadline=None)
@given(log_odds=st.floats(-40, 40), log_kappa=st.floats(math.log(1e-3), math.log(1e6)), n=st.integers(1, 64))
def test_probabilities_of_all_counts_sum_to_one(log_odds: float, log_kappa: float, n: int) -> None:
    """In float32, as the heads give them."""
    k_M = torch.arange(n + 1.0)
    loss_M = beta_binomial_losses(
        torch.full_like(k_M, log_odds), torch.full_like(k_M, math.exp(log_kappa)), k_M, torch.full_like(k_M, n)
    )
    assert loss_M.isfinite().all()
    assert (-loss_M).exp().sum().item() == pytest.approx(1, abs=1e-6)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    logits_M2 = torch.randn(6, 2, dtype=torch.float64)
    kappa_M = torch.tensor([0.1, 0.5, 1.0, 4.0, 20.0, 300.0], dtype=torch.float64)
    k_M, n_M = torch.tensor([0.0, 16.0, 3.0, 8.0, 1.0, 4.0]), torch.tensor([16.0, 16.0, 16.0, 16.0, 2.0, 4.0])
    log_odds_M = (logits_M2[:, 1] - logits_M2[:, 0]).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x_M, kappa_M: beta_binomial_losses(x_M, kappa_M, k_M, n_M), (log_odds_M, kappa_M.requires_grad_())
    )


@pytest.mark.parametrize("log_odds", [-200.0, -40.0, -14.0, 14.0, 40.0, 200.0])
@pytest.mark.parametrize("mc", [0.0, 0.0625, 1.0])
def test_a_mean_at_the_border_has_a_finite_loss_and_gradient(log_odds: float, mc: float) -> None:
    logits_M2 = torch.tensor([[-log_odds / 2, log_odds / 2]] * 2, requires_grad=True)
    kappa_M = torch.tensor([1e-3, 1e3], requires_grad=True)
    loss_M = BetaBinomial().losses(StepOutput(logits_M2, kappa_M), torch.full((2,), mc), torch.tensor([16, 16]))
    loss_M.sum().backward()
    for tensor in (loss_M, logits_M2.grad, kappa_M.grad):
        assert tensor is not None
        assert tensor.dtype == torch.float32
        assert tensor.isfinite().all()


def output_at(mu: float, kappa: float) -> StepOutput:
    logits_M2 = torch.tensor([[0.0, math.log(mu / (1 - mu))]], requires_grad=True)
    return StepOutput(logits_M2, torch.tensor([kappa], requires_grad=True))


def test_the_penalty_is_on_kappa_alone() -> None:
    """mu = .75 and K / N = 4 / 16 are .5 apart: penalty .2 adds .2 x .5 x kappa."""
    mc_M, n_M = torch.tensor([0.25]), torch.tensor([16])
    losses, gradients = [], []
    for penalty in (0.0, 0.2):
        output = output_at(0.75, 3.0)
        loss_M = BetaBinomial(penalty=penalty).losses(output, mc_M, n_M)
        losses.append(loss_M.item())
        gradients.append(torch.autograd.grad(loss_M.sum(), output))
    assert losses[1] - losses[0] == pytest.approx(0.3)
    assert gradients[1][0].equal(gradients[0][0])
    assert (gradients[1][1] - gradients[0][1]).item() == pytest.approx(0.1)


def test_kappa_grows_where_the_mean_is_right_and_falls_where_it_is_wrong() -> None:
    for mu, sign in ((0.5, -1), (0.1, 1), (0.9, 1)):
        output = output_at(mu, 4.0)
        loss = BetaBinomial().losses(output, torch.tensor([0.5]), torch.tensor([16])).sum()
        _, slope_M = torch.autograd.grad(loss, output)
        assert math.copysign(1, slope_M.item()) == sign, mu


def test_a_step_without_continuations_costs_something_finite() -> None:
    """The module masks it; an infinity would become NaN there."""
    loss_M = BetaBinomial().losses(output_at(0.75, 4.0), torch.tensor([0.0]), torch.tensor([0]))
    assert loss_M.item() == pytest.approx(0.05 * 0.75 * 4)


def test_the_loss_is_float32_under_autocast() -> None:
    output, mc_M, n_M = output_at(0.7, 3.1), torch.tensor([0.3125]), torch.tensor([16])
    expected = BetaBinomial().losses(output, mc_M, n_M)
    with torch.autocast("cpu", torch.bfloat16):
        assert BetaBinomial().losses(output, mc_M, n_M).equal(expected)
    assert expected.dtype == torch.float32
    assert BetaBinomial().target(0.3125) == 0.3125
