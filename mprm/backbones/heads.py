"""What reads the hidden states at the marks: the two verdicts, and how sure the model is of them.

Shape suffixes: M marks, D hidden size, 2 logits (no, yes).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

KAPPA_START = 4.0
KAPPA_FLOOR = 1e-3
KAPPA_GRADIENT = 10.0  # factor on the head's own gradient


class StepOutput(NamedTuple):
    """At every mark of a batch: logits of (no, yes), (M, 2) float32; kappa (M,), None without a kappa head."""

    logits_M2: torch.Tensor
    kappa_M: torch.Tensor | None


class StepHead(nn.Module):
    """Two-row head on the hidden states at the marks, in float32: logits of "No" and "Yes" and of nothing else."""

    def __init__(self, lm_head: nn.Module, no_id: int, yes_id: int) -> None:
        super().__init__()
        self.verdict_ids = (no_id, yes_id)
        rows_2D = lm_head.get_parameter("weight").detach()[[no_id, yes_id]]
        self.weight = nn.Parameter(rows_2D.float())

    def forward(self, h_MD: torch.Tensor) -> torch.Tensor:
        with torch.autocast(h_MD.device.type, enabled=False):  # two numbers a step: no reason to round them
            return nn.functional.linear(h_MD.float(), self.weight.float())


class KappaHead(nn.Module):
    """How sure the model is of a step's P(yes): kappa = softplus(w . LayerNorm(h) + b) + 1e-3 (arXiv 2605.15529).

    kappa is the number of continuations that the prediction is worth, a Beta distribution's a + b. It starts at 4; the
    gradient of w and b is ten times that of the loss.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.weight = nn.Parameter(torch.empty(hidden_size).normal_(std=1e-3))
        self.bias = nn.Parameter(torch.tensor(math.log(math.expm1(KAPPA_START - KAPPA_FLOOR))))

    def forward(self, h_MD: torch.Tensor) -> torch.Tensor:
        """kappa (M,), float32, at least 1e-3."""
        with torch.autocast(h_MD.device.type, enabled=False):
            # p.detach() + 10 (p - p.detach()) is p with ten times its gradient
            weight_D, bias = (p.detach() + KAPPA_GRADIENT * (p - p.detach()) for p in (self.weight, self.bias))
            return nn.functional.softplus(self.norm(h_MD.float()) @ weight_D + bias) + KAPPA_FLOOR
