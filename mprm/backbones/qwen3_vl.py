"""Qwen3-VL, dense and with experts: patches of 16 pixels, learnt patch positions, and deepstack: what several blocks of
the vision tower say of an image is added to the hidden states behind the first layers of the language model.

Shape suffixes: N image tokens, K layers of deepstack, D hidden size.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLMoeForConditionalGeneration
from transformers.image_utils import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD

from mprm.backbones.qwen import QwenStepModel, QwenVL, image_layout


class Qwen3StepModel(QwenStepModel):
    def projector(self) -> nn.Module:
        visual = self.hf.model.visual
        return nn.ModuleList([visual.merger, visual.deepstack_merger_list])

    def image_embeddings(self, vision: dict[str, torch.Tensor]) -> torch.Tensor:
        visual = self.hf.model.visual
        layout = image_layout(vision["image_grid_thw"], visual.spatial_merge_size, vision["pixel_values"].device)
        output = self.tower_output(vision, **layout)
        patches = [output.last_hidden_state, *output.deepstack_features]
        mergers = [visual.merger, *visual.deepstack_merger_list]
        return torch.cat([merger.merge(of_block) for merger, of_block in zip(mergers, patches, strict=True)], dim=-1)


@dataclass(frozen=True, kw_only=True)
class Qwen3VL(QwenVL):
    """A folder in transformers' Qwen3-VL format."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen3_vl",)
    hf_class: ClassVar[Any] = Qwen3VLForConditionalGeneration
    step_model: ClassVar[type[QwenStepModel]] = Qwen3StepModel
    own_system: ClassVar[str] = ""
    colours: ClassVar[tuple[list[float], list[float]]] = (IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD)

    min_pixels: int = 1024  # one token of 32 x 32 pixels
    max_pixels: int = 262_144  # 256 tokens, as many as Qwen2.5-VL has in the published recipe


@dataclass(frozen=True, kw_only=True)
class Qwen3VLMoE(Qwen3VL):
    """The same with experts in the language model. Their balance is not part of the loss."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen3_vl_moe",)
    hf_class: ClassVar[Any] = Qwen3VLMoeForConditionalGeneration
