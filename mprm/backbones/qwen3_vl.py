"""Qwen3-VL, dense and with experts: patches of 16 pixels, learnt patch positions, and deepstack: what several blocks of
the vision tower say of an image is added to the hidden states behind the first layers of the language model.

Shape suffixes: B rows, L tokens of a row, N image tokens, P patches, K layers of deepstack, D hidden size.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeForConditionalGeneration,
)
from transformers.image_utils import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from mprm.backbones.base import laid_out
from mprm.backbones.loading import ChatBackbone
from mprm.backbones.qwen import QwenStepModel, QwenVL, image_layout


class Qwen3StepModel(QwenStepModel):
    def __init__(self, hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: ChatBackbone) -> None:
        super().__init__(hf, tokenizer, options)
        self.language_model._deepstack_process = _with_images

    def projector(self) -> nn.Module:
        visual = self.hf.model.visual
        return nn.ModuleList([visual.merger, visual.deepstack_merger_list])

    def image_embeddings(self, vision: dict[str, torch.Tensor]) -> torch.Tensor:
        visual = self.hf.model.visual
        grid_thw, device = vision["image_grid_thw"], vision["pixel_values"].device
        layout = image_layout(grid_thw, visual.spatial_merge_size, device)
        side, mode, corners = visual.num_grid_per_side, visual.interpolation_mode, visual.interpolation_align_corners
        sampled = get_vision_interpolation_indices_and_weights(grid_thw, side, mode, corners, visual.spatial_merge_size)
        names = ("interp_indices", "interp_weights")
        layout |= {name: of_P4.to(device, non_blocking=True) for name, of_P4 in zip(names, sampled, strict=True)}
        output = self.tower_output(vision, **layout)
        patches = [output.last_hidden_state, *output.deepstack_features]
        mergers = [visual.merger, *visual.deepstack_merger_list]
        return torch.cat([merger.merge(of_block) for merger, of_block in zip(mergers, patches, strict=True)], dim=-1)


def _with_images(h_BLD: torch.Tensor, is_image_BL: torch.Tensor, added_ND: torch.Tensor) -> torch.Tensor:
    """In place of transformers' indexing by a mask, which waits for the device."""
    if not len(added_ND):  # a solution of text, one by one
        return h_BLD
    return torch.where(is_image_BL[..., None], h_BLD + laid_out(added_ND.to(h_BLD.dtype), is_image_BL), h_BLD)


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
