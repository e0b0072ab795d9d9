"""GRPO: worked arithmetic, wrong settings, and TRL's formula.

Shape suffixes: R responses, T tokens of the longest, M tokens of all responses, V vocabulary.
"""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mprm.judge.grpo import GRPO, advantages, grpo_losses, kl_losses


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
        ({"temperature": 0.0}, r"grpo\.temperature=0\.0 is not positive: all responses of a group would be the same"),
        ({"verdict_reward": -1.0}, r"grpo\.verdict_reward=-1\.0 is negative"),
        ({"format_reward": -0.5}, r"grpo\.format_reward=-0\.5 is negative"),
        ({"learning_rate": 0.0}, r"grpo\.learning_rate=0\.0 is not positive"),
        ({"standardise": "batch"}, r"grpo\.standardise=batch is not one of group, none"),
        ({"tries": -1}, r"grpo\.tries=-1 is negative; 0 replaces no pair"),
        ({"updates": 0}, r"grpo\.updates=0 is not positive"),
        ({"clip": 1.0}, r"grpo\.clip=1\.0 is not between 0 and 1; try 0\.2"),
        ({"kl": -0.1}, r"grpo\.kl=-0\.1 is negative"),
        ({"updates": 4, "steps": 10, "epochs": None}, r"grpo\.steps=10 is no multiple of .*; try grpo\.steps=12"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=rf"\A{line}.*\Z"):
        GRPO(**settings)


def test_so_many_steps_see_the_fewer_pairs_the_more_updates_each_has() -> None:
    assert GRPO(epochs=None, steps=12, updates=4, global_batch_size=8).seen(100) == 24
    assert GRPO(epochs=2, updates=4).seen(100) == 200


@pytest.mark.parametrize("updated", [False, True])
def test_loss_and_gradient_are_those_of_trl(updated: bool) -> None:
    """Its GRPOTrainer, given the log-probabilities of two pairs' three responses of different lengths."""
    trainer = pytest.importorskip("trl.trainer.grpo_trainer").GRPOTrainer
    torch.manual_seed(0)
    recipe, length_R = GRPO(group_size=3, clip=0.1, kl=0.3), torch.tensor([4, 1, 7, 3, 3, 2])
    mask_RT = (torch.arange(7) < length_R[:, None]).float()
    logp_RT, other_RT, reference_RT = (0.3 * torch.randn(3, 6, 7) - 2).unbind()
    logp_RT.requires_grad_()
    old_RT = other_RT if updated else logp_RT.detach()
    advantage_R = torch.cat([advantages(torch.tensor(rewards)) for rewards in ([1.2, 0.2, 0.0], [0.2, 0.2, 1.2])])

    stub = SimpleNamespace(
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None),
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(reduce=lambda value, reduction: value, gather=lambda value: value),
        _get_per_token_logps_and_entropies=lambda *given, **options: (logp_RT, torch.zeros(6, 7), None),
        _metrics={"train": defaultdict(list)},
        **dict.fromkeys(["aux_loss_enabled", "use_vllm", "_entropy_bonus_enabled"], False),
        **{"loss_type": "grpo", "importance_sampling_level": "token", "beta": recipe.kl},
        **{"epsilon_low": recipe.clip, "epsilon_high": recipe.clip, "top_entropy_quantile": 1.0},
        **{"off_policy_mask_threshold": None, "current_gradient_accumulation_steps": 1},
    )
    ids_RT = torch.zeros(6, 7, dtype=torch.long)
    given = {"prompt_ids": ids_RT, "prompt_mask": ids_RT, "completion_ids": ids_RT, "completion_mask": mask_RT}
    given |= {"advantages": advantage_R, "ref_per_token_logps": reference_RT}
    theirs = trainer._compute_loss(stub, None, given | ({"old_per_token_logps": old_RT} if updated else {}))
    theirs.backward()
    assert logp_RT.grad is not None
    expected_RT, logp_RT.grad = logp_RT.grad, None

    of = mask_RT.bool()
    weight_M = torch.repeat_interleave(1 / 2 / 3 / length_R, length_R)  # of a pair, of a response, of a token
    advantage_M = torch.repeat_interleave(advantage_R, length_R)
    loss_M = grpo_losses(logp_RT[of], old_RT[of], advantage_M, recipe.clip)
    loss = ((loss_M + recipe.kl * kl_losses(logp_RT[of], reference_RT[of])) * weight_M).sum()
    loss.backward()
    torch.testing.assert_close(loss, theirs)
    torch.testing.assert_close(logp_RT.grad, expected_RT)
    clipped = stub._metrics["train"]["clip_ratio/region_mean"][0]
    assert (clipped > 0.2) == updated
