"""Qwen2.5-VL: window attention in most blocks of the vision tower.

Shape suffixes: N image tokens, P patches, D size of a patch.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration
from transformers.vision_utils import get_vision_window_index

from mprm.backbones.loading import ChatBackbone
from mprm.backbones.qwen import QwenStepModel, QwenVL, image_layout
from mprm.batching.collate import rows


class Qwen2_5StepModel(QwenStepModel):
    def __init__(self, hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: ChatBackbone) -> None:
        super().__init__(hf, tokenizer, options)
        visual = self.hf.model.visual
        for number, block in enumerate(visual.blocks):
            block.attn.sees = "images" if number in visual.fullatt_block_indexes else "windows"

    def image_embeddings(self, vision: dict[str, torch.Tensor]) -> torch.Tensor:
        visual = self.hf.model.visual
        layout = window_layout(vision["image_grid_thw"], visual, vision["pixel_values"].device)
        merged_ND: torch.Tensor = visual.merger.merge(self.tower_output(vision, **layout).last_hidden_state)
        # The tower works in window order; the language model reads row by row.
        return merged_ND[torch.argsort(layout["window_index"])]


@dataclass(frozen=True, kw_only=True)
class Qwen2_5_VL(QwenVL):
    """A folder in transformers' Qwen2.5-VL format."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_5_vl",)
    hf_class: ClassVar[Any] = Qwen2_5_VLForConditionalGeneration
    step_model: ClassVar[type[QwenStepModel]] = Qwen2_5StepModel


def window_layout(grid_thw: torch.Tensor, visual: Any, device: torch.device) -> dict[str, Any]:
    """As image_layout, with the order of the windows and the segments of attention inside them."""
    indices, lengths, offset = [], [], 0
    for grid in grid_thw.tolist():
        index_N, of_image = _windows(tuple(grid), visual.spatial_merge_size, visual.window_size, visual.patch_size)
        indices.append(index_N + offset)
        lengths += of_image
        offset += len(index_N)
    windows = rows(lengths, causal=False).to(device, non_blocking=True)
    layout = image_layout(grid_thw, visual.spatial_merge_size, device)
    layout["segments"]["windows"] = windows
    index_N = torch.cat(indices).to(device, non_blocking=True)
    return layout | {"window_index": index_N, "cu_window_seqlens": windows.query_border}


@lru_cache(maxsize=4096)
def _windows(
    grid_thw: tuple[int, ...], merge: int, window_size: int, patch_size: int
) -> tuple[torch.Tensor, list[int]]:
    """Image tokens in the order of an image's windows, and how many patches each window has."""
    index_N, borders = get_vision_window_index(torch.tensor([grid_thw]), merge, window_size, patch_size)
    return index_N, borders.diff().tolist()
