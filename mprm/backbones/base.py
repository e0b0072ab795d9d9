"""What a backbone is: a component that loads a processor (text and images to tensors) and a step model.

Whatever implements Backbone can be trained, scored with and exported. A model that also writes text (chat.py) can be
sampled from, made a judge, and asked for entropies.

Shape suffixes: M marks, D hidden size, 2 logits (no, yes). Of attention: T tokens, H query heads, G key-value heads, D
head size, S segments of a block, Q queries, K keys; P places of all blocks, N of one, padding included, X all numbers
of a token.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import Field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import AttentionInterface

from mprm.batching.collate import Batch, Example, Segments
from mprm.runs.artifacts import reading

try:
    from torch.nn.attention.varlen import varlen_attn

    # torch 2.10 has the function without the masks of 2.11, and 2.11 may lack grouped heads.
    VARLEN = set(inspect.signature(varlen_attn).parameters)
except ImportError:
    VARLEN = set()

SEGMENTED = "mprm_segments"  # transformers' name for attend()
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


# ---- attention inside the segments of one long row, in few large calls


def attend(
    q_THD: torch.Tensor, k_TGD: torch.Tensor, v_TGD: torch.Tensor, segments: Segments, scale: float
) -> torch.Tensor:
    """Attention of every query to its segment's keys, (T, H, D): no query sees a key outside its segment. On CUDA in
    half precision a single variable-length flash-attention call; elsewhere batches of padded segments."""
    if q_THD.is_cuda and q_THD.dtype in (torch.bfloat16, torch.float16) and "window_size" in VARLEN:
        return _flash(q_THD, k_TGD, v_TGD, segments, scale)
    blocks, place_T = segments.padded
    # One look-up for all blocks. As an embedding: its backward is faster than that of indexing.
    query_P = torch.cat([block.query_SQ.flatten() for block in blocks])
    key_P = torch.cat([block.key_SK.flatten() for block in blocks])
    q_PX = nn.functional.embedding(query_P, q_THD.flatten(1))
    kv_PX = nn.functional.embedding(key_P, torch.cat([k_TGD, v_TGD], dim=1).flatten(1))
    queries = q_PX.split([block.query_SQ.numel() for block in blocks])
    keys = kv_PX.split([block.key_SK.numel() for block in blocks])
    outputs = []
    for (query_SQ, key_SK, mask_S1QK), q_NX, kv_NX in zip(blocks, queries, keys, strict=True):
        q_SHQD = q_NX.view(*query_SQ.shape, *q_THD.shape[1:]).transpose(1, 2)
        kv_S2GKD = kv_NX.view(*key_SK.shape, -1, q_THD.shape[2]).transpose(1, 2)
        k_SGKD, v_SGKD = kv_S2GKD.chunk(2, dim=1)
        attended_SHQD = nn.functional.scaled_dot_product_attention(
            q_SHQD, k_SGKD, v_SGKD, mask_S1QK, scale=scale, enable_gqa=q_SHQD.shape[1] != k_SGKD.shape[1]
        )
        outputs.append(attended_SHQD.transpose(1, 2).flatten(0, 1).flatten(1))
    return nn.functional.embedding(place_T, torch.cat(outputs)).view_as(q_THD)


def _flash(
    q_THD: torch.Tensor, k_TGD: torch.Tensor, v_TGD: torch.Tensor, segments: Segments, scale: float
) -> torch.Tensor:
    if segments.key is not None:
        # As an embedding: its backward sums a prefix's gradients in float32 and in a fixed order.
        k_TGD, v_TGD = (
            nn.functional.embedding(segments.key, x.flatten(1)).unflatten(1, x.shape[1:]) for x in (k_TGD, v_TGD)
        )
    grouped: dict[str, Any] = {}
    if "enable_gqa" in VARLEN:
        grouped["enable_gqa"] = True
    else:
        repeats = q_THD.shape[1] // k_TGD.shape[1]
        k_TGD, v_TGD = (x.repeat_interleave(repeats, dim=1) for x in (k_TGD, v_TGD))
    attended_THD = varlen_attn(
        q_THD,
        k_TGD,
        v_TGD,
        segments.query_border,
        segments.key_border,
        segments.longest_query,
        segments.longest_key,
        scale=scale,
        # With fewer queries than keys the kernel aligns the last query with the last key, as Segments means it.
        window_size=(-1, 0) if segments.causal else (-1, -1),
        **grouped,
    )
    assert isinstance(attended_THD, torch.Tensor)
    return attended_THD


def _language_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    segments: Segments,
    **_: Any,  # transformers passes positions, dropout and window of its own kernels
) -> tuple[torch.Tensor, None]:
    """transformers' interface: (1, heads, T, D) in, (1, T, heads, D) out. `segments` comes through the model's call."""
    # Under autocast the rotation has made queries and keys float32 again.
    q_THD, k_TGD, v_TGD = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    return attend(q_THD, k_TGD, v_TGD, segments, scaling)[None], None


AttentionInterface.register(SEGMENTED, _language_attention)
