"""What a backbone is: a component that loads a processor (text and images to tensors) and a step model.

Whatever implements Backbone can be trained, scored with and exported. A model that also writes text (chat.py) can be
sampled from, made a judge, and asked for entropies.

Shape suffixes: M marks, D hidden size, 2 logits (no, yes); B rows, L tokens of a row, N image tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import Field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from mprm.batching.collate import Batch, Example
from mprm.runs.artifacts import reading

KAPPA = "kappa.safetensors"  # in an exported folder: the kappa head, which transformers does not know
KAPPA_START = 4.0
KAPPA_FLOOR = 1e-3
KAPPA_GRADIENT = 10.0  # factor on the gradient of the head's own parameters


class Processor(Protocol):
    """Turns one solution into tensors; runs in loader workers, holds no parameters."""

    def layout(self, sizes: Sequence[tuple[int, int]], question: str, steps: list[str]) -> Example:
        """Token ids, marks and positions for images of these sizes (width, height); `vision` stays empty.
        batching.examples.render() gives the text, a mark behind every piece. Raises ValueError for a size it cannot
        take."""

    def vision(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Image tensors of one solution that has images, which are concatenated over the questions of a batch."""


class Backbone(Protocol):
    """Component of the config group `backbone`: a frozen dataclass whose fields are its options. Its YAML also holds
    `recipe`, how the backbone is optimised."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def path(self) -> str | None:
        """Folder of the weights; None where the seed draws them."""

    @property
    def max_length(self) -> int:
        """Tokens; a longer solution is left out and counted."""

    def folder(self) -> Path | None:
        """The folder. Raises ValueError if load() could not use it: said before hours of selection."""

    def load(self) -> tuple[Processor, StepModel]:
        """Processor and model; whatever is random comes from torch's generator."""

    def prompt(self) -> dict[str, Any]:
        """The options that a model is trained with and must be used with; written beside an exported model."""

    def export(self, model: Any, processor: Any, folder: Path, layout: str) -> None:
        """Write a trained model, which this backbone loaded and which is used up, into the empty folder.

        layout: hf, the folder that load() reads, or original. Raises ValueError for one that it cannot write.
        """


class StepOutput(NamedTuple):
    """At every mark of a batch: logits of (no, yes), (M, 2) float32; kappa (M,), None without a kappa head."""

    logits_M2: torch.Tensor
    kappa_M: torch.Tensor | None


class StepModel(nn.Module):
    """Scores the steps of a batch. Trained are the parameters that require a gradient; only they are saved. A family
    sets `head` and computes marked(); all else works as it stands here."""

    head: StepHead
    kappa: KappaHead | None
    rates_answers: bool = False  # it was trained as a reward model of whole answers, and is exported as one
    recomputes: float = 0.0  # share of the layers that the backward pass computes again (activation checkpointing)

    def __init__(self) -> None:
        super().__init__()
        self.kappa = None

    def marked(self, batch: Batch) -> torch.Tensor:
        """Last hidden states at batch.mark_M, (M, D). A token sees those of its solution up to itself: attend() does
        that for batch.segments."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> StepOutput:
        h_MD = self.marked(batch)
        return StepOutput(self.head(h_MD), None if self.kappa is None else self.kappa(h_MD))

    def set_kappa(self, wanted: bool) -> None:
        """Drop the kappa head, or keep the one that is there; a new one is drawn from torch's generator."""
        if not wanted:
            self.kappa = None
        elif self.kappa is None:
            self.kappa = KappaHead(self.head.weight.shape[1])

    def check_training(self) -> None:
        """Raises ValueError if a training would leave out something that the weights were trained with."""

    def train_generation(self) -> None:
        """Train what writes text instead of what scores steps. Raises ValueError if nothing writes text."""
        raise ValueError(
            f"backbone: {type(self).__name__} cannot write text, as a judge must; choose a chat model, e.g. "
            "backbone=chartworld_internvl"
        )


class StepHead(nn.Module):
    """Logits of "No" and "Yes" and of nothing else, from the hidden states at the marks; in float32."""

    def __init__(self, rows_2D: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(rows_2D.float())

    def forward(self, h_MD: torch.Tensor) -> torch.Tensor:
        with torch.autocast(h_MD.device.type, enabled=False):  # two numbers a step: no reason to round them
            return nn.functional.linear(h_MD.float(), self.weight.float())


class KappaHead(nn.Module):
    """How sure the model is of a step's P(yes): kappa = softplus(w . LayerNorm(h) + b) + 1e-3 (arXiv 2605.15529). kappa
    is the number of continuations that the prediction is worth, a Beta distribution's a + b. It starts at 4. The
    gradient of all four parameters is ten times that of the loss; the one that goes on into h is the loss's."""

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
    """x, with `factor` times its gradient."""
    return x.detach() + factor * (x - x.detach())


def laid_out(x_ND: torch.Tensor, is_image_BL: torch.Tensor) -> torch.Tensor:
    """What belongs to the image tokens in order, where they stand, (B, L, D); elsewhere it says nothing. An image that
    nobody sees is in N and not in L. Nothing waits for the device, as a masked_scatter would in its backward pass."""
    number_BL = is_image_BL.flatten().cumsum(0).view_as(is_image_BL) - 1
    return nn.functional.embedding(number_BL.clamp(min=0), x_ND)


def stored_kappa(folder: str | None) -> KappaHead | None:
    """The kappa head that task=export wrote into the folder, None where there is none; ValueError for a broken file."""
    if folder is None or not (Path(folder) / KAPPA).is_file():
        return None
    with reading(Path(folder) / KAPPA, "export the folder again"):
        tensors = load_file(Path(folder) / KAPPA)
    with torch.device("meta"):  # nothing is drawn
        head = KappaHead(tensors["scale"].numel())
    head.load_state_dict(tensors, assign=True)
    return head
