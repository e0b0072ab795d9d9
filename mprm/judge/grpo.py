"""GRPO (arXiv 2402.03300): its recipe and its arithmetic.

Shape suffixes: G responses of a pair, M tokens of all responses in a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from mprm.training.recipe import Recipe

LEAST_DEVIATION = 1e-4  # added to a group's


@dataclass(frozen=True, kw_only=True)
class GRPO(Recipe):
    """Component `grpo`; global_batch_size: pairs per optimizer step."""

    GROUP: ClassVar[str] = "grpo"

    # Responses per pair.
    group_size: int = 8
    # Of the responses that are drawn, and of the policy that is trained.
    temperature: float = 1.0
    # For the verdict that the label gives.
    verdict_reward: float = 1.0
    # For reasoning that ends in a verdict, whichever it is.
    format_reward: float = 0.2
    # Divide advantages by the standard deviation of their group, or by nothing: group or none (Dr. GRPO).
    standardise: str = "group"
    # Further pairs of the order, one after the other, for one whose group has no advantage (dynamic sampling, DAPO).
    tries: int = 0
    # Optimizer steps on the same responses.
    updates: int = 1
    # The ratio of the new to the old policy counts up to 1 + clip and down to 1 - clip; it is 1 in the first update.
    clip: float = 0.2
    # Weight of the KL divergence from the judge before this stage; 0 keeps no copy of it.
    kl: float = 0.0
    # Pairs without a trace that are neither curated nor trained on: their accuracy is the curve of the training.
    held_out: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        steps_are_right = not (self.steps or 0) % max(1, self.updates)
        checks = {
            "group_size": (self.group_size >= 2, "leaves nothing to compare with; give 2 or more"),
            "temperature": (self.temperature > 0, "leaves nothing to compare: all responses are the same; try 1"),
            "format_reward": (self.format_reward >= 0, "is not 0 or more"),
            "verdict_reward": (
                self.verdict_reward >= 0 and self.verdict_reward + self.format_reward > 0,
                f"is not 0 or more, or rewards nothing beside grpo.format_reward={self.format_reward}; try 1",
            ),
            "standardise": (self.standardise in ("group", "none"), "is not one of group, none"),
            "tries": (self.tries >= 0, "is negative; 0 replaces no pair"),
            "updates": (self.updates >= 1, "is not positive; give 1 or more"),
            "steps": (steps_are_right, f"is no multiple of grpo.updates={self.updates}; take one"),
            "clip": (0 < self.clip < 1, "is not between 0 and 1; try 0.2"),
            "kl": (self.kl >= 0, "is not 0 or more; 0 is without a KL term"),
            "held_out": (self.held_out >= 0, "is negative; 0 holds out no pair"),
        }
        self.check(checks)

    def seen(self, n: int) -> int:
        """Pairs that the training sees, of n different ones, each for all its updates."""
        return super().seen(n) // (1 if self.steps is None else self.updates)

    def reward(self, verdict: str | None, better: str) -> float:
        """Of a response with this verdict, None: without one."""
        return self.format_reward * (verdict is not None) + self.verdict_reward * (verdict == better)


def advantages(reward_G: torch.Tensor, standardise: str = "group") -> torch.Tensor:
    """(reward - mean) / (standard deviation + 1e-4) within the group, (G,); exactly 0 where all earn the same.

    standardise: none does not divide, as in Dr. GRPO (arXiv 2503.20783). The deviation is that of these G responses;
    TRL's estimates that of all responses, which is larger by sqrt(G / (G - 1)).

    Example: rewards 1, 0, 0, 0 have mean 0.25 and deviation 0.4330: advantages 1.7317, and -0.5772 three times.
    """
    if reward_G.min() == reward_G.max():  # from which the mean, rounded, may be a little away
        return torch.zeros_like(reward_G)
    distance_G = reward_G - reward_G.mean()
    return distance_G if standardise == "none" else distance_G / (reward_G.std(correction=0) + LEAST_DEVIATION)


def grpo_losses(logp_M: torch.Tensor, old_M: torch.Tensor, advantage_M: torch.Tensor, clip: float) -> torch.Tensor:
    """-min(ratio x advantage, clipped ratio x advantage) of every token, (M,), section 4.1.1. The ratio of the new
    policy to that which drew the responses, old_M, is clipped to [1 - clip, 1 + clip].

    Example: with clip=0.2 and advantage 2 a token that became 1.5 times as likely has loss -2.4 and no gradient.
    """
    ratio_M = (logp_M - old_M).exp()
    return -torch.min(ratio_M * advantage_M, ratio_M.clamp(1 - clip, 1 + clip) * advantage_M)


def kl_losses(logp_M: torch.Tensor, reference_M: torch.Tensor) -> torch.Tensor:
    """r - log(r) - 1 of every token, (M,), where r is the ratio of the reference policy to this one: an estimate of
    KL(policy || reference) without bias, and never negative (section 4.1.1, equation 4).

    Example: a token of half its probability in the reference has 0.5 + 0.6931 - 1 = 0.1931.
    """
    log_ratio_M = reference_M - logp_M
    return log_ratio_M.exp() - log_ratio_M - 1
