"""What reads the hidden states at the marks: the two verdicts, and how sure the model is of them.

Shape suffixes: M marks, D hidden size, 2 logits (no, yes).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

KAPPA = "kappa.safetensors"  # of an exported folder: the kappa head, which transformers does not know
KAPPA_START = 4.0
KAPPA_FLOOR = 1e-3
KAPPA_GRADIENT = 10.0  # factor on the gradient of the head's own parameters


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

    kappa is the number of continuations that the prediction is worth, a Beta distribution's a + b. It starts at 4. The
    gradient of all four parameters is ten times that of the loss; the one that goes on into h is the loss's.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(hidden_size))
        self.shift = nn.Parameter(torch.zeros(hidden_size))
        self.weight = nn.Parameter(torch.empty(1, hidden_size).normal_(std=1e-3))  # a matrix: it decays as others do
        self.bias = nn.Parameter(torch.tensor([math.log(math.expm1(KAPPA_START - KAPPA_FLOOR))]))

    def forward(self, h_MD: torch.Tensor) -> torch.Tensor:
        """kappa (M,), float32, at least 1e-3."""
        with torch.autocast(h_MD.device.type, enabled=False):
            h_MD = scale_gradient(h_MD.float(), 1 / KAPPA_GRADIENT)
            # Not nn.LayerNorm: DeepSpeed makes the parameters bfloat16.
            normed_MD = nn.functional.layer_norm(h_MD, h_MD.shape[-1:], self.scale.float(), self.shift.float())
            raw_M1 = nn.functional.linear(normed_MD, self.weight.float(), self.bias.float())
            return nn.functional.softplus(scale_gradient(raw_M1[:, 0], KAPPA_GRADIENT)) + KAPPA_FLOOR


def scale_gradient(x: torch.Tensor, factor: float) -> torch.Tensor:
    """x itself, with `factor` times its gradient."""
    return x.detach() + factor * (x - x.detach())


def stored_kappa(folder: str | None) -> KappaHead | None:
    """The kappa head that task=export wrote into the folder, None where there is none; ValueError for a broken file."""
    if folder is None or not (Path(folder) / KAPPA).is_file():
        return None
    try:
        tensors = load_file(Path(folder) / KAPPA)
    except SafetensorError as error:
        raise ValueError(f"backbone.path={folder} has a broken {KAPPA} ({error}); export the folder again") from None
    with torch.device("meta"):  # nothing is drawn
        head = KappaHead(tensors["scale"].numel())
    head.load_state_dict(tensors, assign=True)
    return head
