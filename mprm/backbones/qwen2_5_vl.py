"""Qwen2.5-VL: images at their own resolution, window attention in the vision tower, M-RoPE positions.

Shape suffixes: N image tokens, L tokens of a solution, P patches, H heads, D size of a head or patch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLPatchMerger,
    Qwen2_5_VLVisionAttention,
    apply_rotary_pos_emb_vision,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from mprm.backbones.base import attend
from mprm.backbones.chat import ChatModel, ChatProcessor
from mprm.backbones.loading import DTYPES, ChatBackbone, load_hf
from mprm.batching.collate import Segments, rows


@dataclass(frozen=True, kw_only=True)
class Qwen2_5_VL(ChatBackbone):
    """A folder in transformers' Qwen2.5-VL format."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_5_vl",)
    prompt_fields: ClassVar[tuple[str, ...]] = (*ChatBackbone.prompt_fields, "min_pixels", "max_pixels")

    min_pixels: int = 784  # the area to which an image is scaled lies between them
    max_pixels: int = 200_704

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"backbone.min_pixels={self.min_pixels} is not in 1..max_pixels={self.max_pixels}; "
                "the published recipe uses 784 and 200704"
            )

    def load(self) -> tuple["QwenProcessor", "QwenStepModel"]:
        folder = self.folder()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        hf = load_hf(Qwen2_5_VLForConditionalGeneration, folder, DTYPES[self.dtype], self.max_length)
        model = QwenStepModel(hf, tokenizer, self)
        vision = hf.config.vision_config
        images = Qwen2VLImageProcessorPil(
            patch_size=vision.patch_size,
            temporal_patch_size=vision.temporal_patch_size,
            merge_size=vision.spatial_merge_size,
            size={"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels},
        )
        return QwenProcessor(tokenizer, model.mark_id, images, self.system), model


class Merger(Qwen2_5_VLPatchMerger):
    """The projector. The tower calls it itself, in the tower's type and without gradient: there it only folds patches
    of one token together, and merge() does the work."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(-1, self.hidden_size)

    def merge(self, patches_PD: torch.Tensor) -> torch.Tensor:
        """Embeddings of the image tokens, (N, D)."""
        return super().forward(patches_PD)


class QwenStepModel(ChatModel):
    def __init__(
        self, hf: Qwen2_5_VLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, options: ChatBackbone
    ) -> None:
        visual = hf.model.visual
        for number, block in enumerate(visual.blocks):
            block.attn.__class__ = SegmentedAttention
            block.attn.windowed = number not in visual.fullatt_block_indexes
        visual.merger.__class__ = Merger
        super().__init__(hf, tokenizer, options)

    def vision_tower(self) -> nn.Module:
        return self.hf.model.visual

    def projector(self) -> nn.Module:
        return self.hf.model.visual.merger

    def image_embeddings(self, vision: dict[str, torch.Tensor]) -> torch.Tensor:
        visual = self.hf.model.visual
        grids_thw = vision["image_grid_thw"].tolist()
        layout = window_layout(grids_thw, visual, vision["pixel_values"].device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_vision):
            patches_PD = visual(
                vision["pixel_values"].to(visual.patch_embed.proj.weight.dtype),
                grid_thw=vision["image_grid_thw"],
                **layout,
            ).last_hidden_state
        # The tower works in window order; the language model reads row by row.
        merged_ND = visual.merger.merge(patches_PD.to(visual.merger.ln_q.weight.dtype))
        return merged_ND[torch.argsort(layout["window_index"])]


def window_layout(grids_thw: list[list[int]], visual: nn.Module, device: torch.device) -> dict[str, Any]:
    """What the tower would work out image by image on every call: patch positions and window order; and the segments of
    its attention, (windows, images). Images of one size share theirs, so a batch costs a few concatenations."""
    indices, positions, window_lengths, image_lengths, offset = [], [], [], [], 0
    for grid in grids_thw:
        index, lengths, position_P2 = _image_layout(
            tuple(grid), visual.spatial_merge_size, visual.window_size, visual.patch_size
        )
        indices.append(index + offset)
        positions.append(position_P2)
        window_lengths += lengths
        image_lengths.append(len(position_P2))
        offset += len(index)
    windows, images = rows(window_lengths, causal=False), rows(image_lengths, causal=False)
    return {
        "window_index": torch.cat(indices).to(device),
        "cu_window_seqlens": windows.query_border.to(device),
        "position_ids": torch.cat(positions).to(device),
        "segments": (windows.to(device), images.to(device)),
    }


@lru_cache(maxsize=4096)
def _image_layout(
    grid_thw: tuple[int, ...], merge: int, window_size: int, patch_size: int
) -> tuple[torch.Tensor, list[int], torch.Tensor]:
    grid = torch.tensor([grid_thw])
    index, borders = get_vision_window_index(grid, merge, window_size, patch_size)
    return index, borders.diff().tolist(), get_vision_position_ids(grid, merge)


class QwenProcessor(ChatProcessor):
    """Images keep their shape; positions are those of M-RoPE, (3, L)."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, mark_id: int, images: Qwen2VLImageProcessorPil, system: str
    ) -> None:
        super().__init__(tokenizer, mark_id, system, ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>"))
        self.images = images

    def image_grid(self, size: tuple[int, int], n_images: int) -> tuple[int, int]:
        unit = self.images.patch_size * self.images.merge_size
        limits = self.images.size
        height, width = smart_resize(size[1], size[0], unit, limits["shortest_edge"], limits["longest_edge"])
        return height // unit, width // unit

    def positions(self, ids: list[int], grids: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Text counts on in all three dimensions (time, height, width). For a still image time stands, height and width
        count its pieces; text behind it goes on from the largest of them."""
        parts, place, position = [], 0, 0
        for n_rows, n_columns in grids:
            n_text = ids.index(self.image_id, place) - place
            parts.append(torch.arange(position, position + n_text).expand(3, -1))
            row, column = torch.meshgrid(torch.arange(n_rows), torch.arange(n_columns), indexing="ij")
            position += n_text
            parts.append(torch.stack([torch.zeros_like(row), row, column]).flatten(1) + position)
            position += max(n_rows, n_columns)
            place += n_text + n_rows * n_columns
        parts.append(torch.arange(position, position + len(ids) - place).expand(3, -1))
        return torch.cat(parts, dim=1)

    def vision(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Patches of the images, (P, D), and the grid of each, (images, 3)."""
        return dict(self.images(list(images), return_tensors="pt"))

    def save(self, folder: Path) -> None:
        super().save(folder)
        self.images.save_pretrained(folder)


class SegmentedAttention(Qwen2_5_VLVisionAttention):
    """Attention inside each window, or each image in the blocks that see whole ones, in few large calls: without
    flash-attn stock transformers makes one call per window, thousands per batch."""

    windowed: bool

    def forward(
        self,
        hidden_states: torch.Tensor,
        cu_seqlens: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        segments: tuple[Segments, Segments],
        max_seqlen: int | None = None,
    ) -> torch.Tensor:
        qkv_P3HD = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1))
        q_PHD, k_PHD, v_PHD = qkv_P3HD.unbind(1)
        q_PHD, k_PHD = apply_rotary_pos_emb_vision(q_PHD, k_PHD, *position_embeddings)
        windows, images = segments
        out_PHD = attend(q_PHD, k_PHD, v_PHD, windows if self.windowed else images, self.scaling)
        return self.proj(out_PHD.flatten(1))
