"""GRPO: worked arithmetic, wrong settings, and TRL's formula.

Shape suffixes: R responses, T tokens of the longest, M tokens of all responses, V vocabulary.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mprm.judge.grpo import GRPO, advantages, grpo_losses, kl_losses

ORACLE = json.loads((Path(__file__).parents[1] / "oracle_data" / "grpo" / "trl.json").read_text())


def test_advantages_are_distances_from_the_mean_in_deviations() -> None:
    found = advantages(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert found.tolist() == pytest.approx([1.7317, -0.5772, -0.5772, -0.5772], abs=5e-5)
    scaled = advantages(torch.tensor([50.0, 10.0, 30.0, 30.0]))  # mean 30, deviation 20 / sqrt(2)
    assert scaled.tolist() == pytest.approx([2**0.5, -(2**0.5), 0.0, 0.0], abs=2e-5)
    assert advantages(torch.tensor([1.0, 0.0, 0.0, 0.0]), "none").tolist() == [0.75, -0.25, -0.25, -0.25]
    assert advantages(torch.tensor([1.2] * 9)).tolist() == [0.0] * 9, "exactly: their mean in float32 is not 1.2"


def test_the_gradient_of_a_response_of_one_token_is_minus_the_advantage_by_what_was_not_expected() -> None:
    logits_V = torch.tensor([0.3, -1.0, 2.0, 0.0], requires_grad=True)
    logp_M = logits_V.log_softmax(-1)[2:3]
    [loss] = grpo_losses(logp_M, logp_M.detach(), torch.tensor([1.5]), clip=0.2)
    assert loss.item() == -1.5
    loss.backward()
    onehot_V = torch.tensor([0.0, 0.0, 1.0, 0.0])
    assert logits_V.grad is not None
    torch.testing.assert_close(logits_V.grad, -1.5 * (onehot_V - logits_V.detach().softmax(-1)))


def test_a_ratio_counts_up_to_the_clip_on_the_side_of_the_advantage() -> None:
    """Ratios 1.5 and 0.5 with clip 0.2: the gain ends at 1.2, the loss of what was too likely at 0.8."""
    logp_M = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.1]).log().requires_grad_()
    losses_M = grpo_losses(logp_M, torch.zeros(5), torch.tensor([2.0, 2.0, -2.0, -2.0, 2.0]), clip=0.2)
    assert losses_M.tolist() == pytest.approx([-2.4, -1.0, 3.0, 1.6, -2.2])
    losses_M.sum().backward()
    assert logp_M.grad is not None
    assert logp_M.grad.tolist() == pytest.approx([0.0, -1.0, 3.0, 0.0, -2.2])


def test_the_kl_term_estimates_the_divergence_without_bias() -> None:
    """r - log(r) - 1: 0.1931 for r = 1/2, 0.3069 for r = 2; its mean over the policy's tokens is the divergence."""
    assert kl_losses(torch.tensor([0.0, 0.0, 0.0]), torch.tensor([0.5, 2.0, 1.0]).log()).tolist() == pytest.approx(
        [0.1931, 0.3069, 0.0], abs=5e-5
    )
    p_V, reference_V = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    expected = (p_V * (p_V / reference_V).log()).sum()
    assert (p_V * kl_losses(p_V.log(), reference_V.log())).sum().item() == pytest.approx(expected.item())


def test_rewards_are_for_the_right_verdict_and_for_any() -> None:
    recipe = GRPO(verdict_reward=1.0, format_reward=0.25)
    table = {("A", "A"): 1.25, ("B", "B"): 1.25, ("A", "B"): 0.25, ("B", "A"): 0.25, (None, "A"): 0.0, (None, "B"): 0.0}
    assert {case: recipe.reward(*case) for case in table} == table
    assert GRPO(verdict_reward=0.0, format_reward=1.0).reward("A", "B") == 1.0


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"group_size": 1}, r"grpo\.group_size=1 leaves nothing to compare with; give 2 or more"),
        ({"temperature": 0.0}, r"grpo\.temperature=0\.0 leaves nothing to compare: all responses are the same; try 1"),
        ({"verdict_reward": -1.0}, r"grpo\.verdict_reward=-1\.0 is not 0 or more"),
        ({"verdict_reward": float("nan")}, r"grpo\.verdict_reward=nan is not 0 or more"),
        ({"verdict_reward": 0.0, "format_reward": 0.0}, r"grpo\.verdict_reward=0\.0 .* rewards nothing beside grpo\."),
        ({"format_reward": float("nan")}, r"grpo\.format_reward=nan is not 0 or more"),
        ({"learning_rate": 0.0}, r"grpo\.learning_rate=0\.0 is not positive"),
        ({"standardise": "batch"}, r"grpo\.standardise=batch is not one of group, none"),
        ({"tries": -1}, r"grpo\.tries=-1 is negative; 0 replaces no pair"),
        ({"updates": 0}, r"grpo\.updates=0 is not positive"),
        ({"clip": 1.0}, r"grpo\.clip=1\.0 is not between 0 and 1; try 0\.2"),
        ({"kl": -0.1}, r"grpo\.kl=-0\.1 is not 0 or more"),
        ({"kl": float("nan")}, r"grpo\.kl=nan is not 0 or more"),
        ({"held_out": -1}, r"grpo\.held_out=-1 is negative"),
        ({"updates": 4, "steps": 10, "epochs": None}, r"grpo\.steps=10 is no multiple of grpo\.updates=4"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=rf"\A{line}.*\Z"):
        GRPO(**settings)


def test_so_many_steps_see_the_fewer_pairs_the_more_updates_each_has() -> None:
    assert GRPO(epochs=None, steps=12, updates=4, global_batch_size=8).seen(100) == 24
    assert GRPO(epochs=2, updates=4).seen(100) == 200


@pytest.mark.parametrize("case", ORACLE["cases"], ids=["first update", "later update", "with a KL term"])
def test_loss_and_gradient_are_those_of_trl(case: dict[str, Any]) -> None:
    """GRPOTrainer._compute_loss of TRL 1.16.0, loss_type grpo, was given these logits, for six responses of different
    lengths to two pairs; 35 % of the tokens of a later update are clipped."""
    length_R = torch.tensor(ORACLE["lengths"])
    of_RT = torch.arange(length_R.max()) < length_R[:, None]

    def likelihood(logits_RTV: torch.Tensor) -> torch.Tensor:
        logp_RTV = (logits_RTV / ORACLE["temperature"]).log_softmax(-1)
        return logp_RTV.gather(-1, torch.tensor(ORACLE["tokens"])[..., None])[of_RT][:, 0]

    logits_RTV = torch.tensor(ORACLE["logits"], requires_grad=True)
    logp_M = likelihood(logits_RTV)
    old_M = likelihood(torch.tensor(ORACLE["old_logits"])) if case["updated"] else logp_M.detach()
    reference_M = likelihood(torch.tensor(ORACLE["reference_logits"]))
    advantage_M = torch.repeat_interleave(torch.tensor(ORACLE["advantages"]), length_R)
    weight_M = torch.repeat_interleave(1 / 2 / 3 / length_R, length_R)  # of a pair, of a response, of a token
    loss_M = grpo_losses(logp_M, old_M, advantage_M, ORACLE["clip"]) + case["kl"] * kl_losses(logp_M, reference_M)
    loss = (loss_M * weight_M).sum()
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], abs=1e-6)
    assert logits_RTV.grad is not None
    torch.testing.assert_close(logits_RTV.grad, torch.tensor(case["gradient"]), atol=1e-6, rtol=1e-4)
