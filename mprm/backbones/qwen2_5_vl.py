"""Qwen2.5-VL: images at their own resolution, window attention in the vision tower, M-RoPE positions.

Shape suffixes: N image tokens, D hidden size, L tokens, P patches, H heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from PIL import Image
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLVisionAttention,
    apply_rotary_pos_emb_vision,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from mprm.backbones.base import StepHead, StepModel, add_mark, encode_pieces, single_token
from mprm.backbones.loading import check_folder
from mprm.data.collate import Example
from mprm.data.prompt import render


@dataclass(frozen=True, kw_only=True)
class Qwen2_5_VL:
    """Component `backbone`: a folder in transformers' Qwen2.5-VL format.

    path: the folder; system: system message, none when empty; min_pixels, max_pixels: area to which an image is
    scaled; max_length: tokens, a longer solution is refused in training and skipped in evaluation; dtype: of the
    weights.
    """

    path: str | None = None
    system: str = ""
    min_pixels: int = 784
    max_pixels: int = 200_704
    max_length: int = 8192
    dtype: str = "float32"
    freeze_vision: bool = True
    gradient_checkpointing: bool = False
    no: str = "No"
    yes: str = "Yes"

    def __post_init__(self) -> None:
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"backbone.min_pixels={self.min_pixels} is not in 1..max_pixels={self.max_pixels}; "
                "the published recipe uses 784 and 200704"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"backbone.dtype={self.dtype} is unknown; use float32 or bfloat16")

    def load(self) -> tuple["QwenProcessor", "QwenStepModel"]:
        """Processor and model. Raises ValueError if the folder is missing or is no Qwen2.5-VL."""
        folder = check_folder(self.path, "qwen2_5_vl")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        hf = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, self.dtype))
        for block in hf.model.visual.blocks:
            block.attn.__class__ = SegmentedAttention
        if self.gradient_checkpointing:
            hf.model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        mark_id = add_mark(tokenizer, hf)
        head = StepHead(hf.lm_head, single_token(tokenizer, self.no), single_token(tokenizer, self.yes))
        vision = hf.config.vision_config
        images = Qwen2VLImageProcessorPil(
            patch_size=vision.patch_size,
            temporal_patch_size=vision.temporal_patch_size,
            merge_size=vision.spatial_merge_size,
            size={"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels},
        )
        return QwenProcessor(tokenizer, mark_id, images, self.system), QwenStepModel(hf, head, self.freeze_vision)


class QwenStepModel(StepModel):
    """Qwen2.5-VL with a step head."""

    def vision_tower(self) -> nn.Module:
        return self.hf.model.visual

    def vision_parameters(self) -> list[nn.Parameter]:
        # The merger is the projector: it is trained while the tower before it is frozen.
        merger = set(self.hf.model.visual.merger.parameters())
        return [parameter for parameter in self.hf.model.visual.parameters() if parameter not in merger]

    def image_embeddings(self, vision: dict[str, torch.Tensor]) -> torch.Tensor:
        visual = self.hf.model.visual
        layout = window_layout(vision["image_grid_thw"].tolist(), visual, vision["pixel_values"].device)
        window_index = layout["window_index"]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_vision):
            patches_PD = visual(
                vision["pixel_values"].to(visual.dtype), grid_thw=vision["image_grid_thw"], **layout
            ).last_hidden_state
        # The tower works in window order; the language model reads row by row.
        return visual.merger(patches_PD)[torch.argsort(window_index)]


def window_layout(grids_thw: list[list[int]], visual: nn.Module, device: torch.device) -> dict[str, torch.Tensor]:
    """What the tower would work out image by image on every call: patch positions, window order and window borders.

    Images of one size share theirs, so a batch costs a few concatenations.
    """
    indices, positions, lengths, offset = [], [], [], 0
    for grid in grids_thw:
        index, window_lengths, position_P2 = _image_layout(
            tuple(grid), visual.spatial_merge_size, visual.window_size, visual.patch_size
        )
        indices.append(index + offset)
        positions.append(position_P2)
        lengths.append(window_lengths)
        offset += len(index)
    borders = nn.functional.pad(torch.cat(lengths).cumsum(0), (1, 0)).int()
    return {
        "window_index": torch.cat(indices).to(device),
        "cu_window_seqlens": borders.to(device),
        "position_ids": torch.cat(positions).to(device),
    }


@lru_cache(maxsize=4096)
def _image_layout(
    grid_thw: tuple[int, ...], merge: int, window_size: int, patch_size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    grid = torch.tensor([grid_thw])
    index, borders = get_vision_window_index(grid, merge, window_size, patch_size)
    return index, borders.diff(), get_vision_position_ids(grid, merge)


class QwenProcessor:
    """Solutions to tensors, laid out like the published InternVL training text."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, mark_id: int, images: Qwen2VLImageProcessorPil, system: str
    ) -> None:
        self.tokenizer = tokenizer
        self.mark_id = mark_id
        self.images = images
        self.pad_id = tokenizer.pad_token_id
        system_turn = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
        opening = f"{system_turn}<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"
        start_id, self.image_id, self.end_id = tokenizer.convert_tokens_to_ids(
            ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>"]
        )
        self.opening_ids = [*tokenizer.encode(opening, add_special_tokens=False), start_id]
        self.between_ids = [self.end_id, *tokenizer.encode("\n", add_special_tokens=False), start_id]
        self.closing_ids = tokenizer.encode("<|im_end|>\n", add_special_tokens=False)

    def encode(self, images: Sequence[Image.Image], question: str, steps: list[str]) -> Example:
        """Patches and token ids of one solution, one line per image; M-RoPE positions are (3, L)."""
        vision = dict(self.images([image.convert("RGB") for image in images], return_tensors="pt"))
        ids: list[int] = []
        positions, next_position = [], 0
        for number, (_, rows, columns) in enumerate((vision["image_grid_thw"] // self.images.merge_size).tolist()):
            before = self.between_ids if number else self.opening_ids
            ids += [*before, *[self.image_id] * (rows * columns)]
            start = next_position + len(before)
            positions += [_text_positions(next_position, len(before)), _grid_positions(start, rows, columns)]
            next_position = start + max(rows, columns)
        pieces = render(question, steps)
        pieces[0] = "\n" + pieces[0]
        text_ids, marks = encode_pieces(self.tokenizer, pieces, self.mark_id)
        behind = [self.end_id, *text_ids, *self.closing_ids]
        positions.append(_text_positions(next_position, len(behind)))
        return Example(
            input_ids=torch.tensor(ids + behind),
            marks=torch.tensor(marks) + len(ids) + 1,
            position_ids=torch.cat(positions, dim=1),
            vision=vision,
        )


def _text_positions(start: int, length: int) -> torch.Tensor:
    """Text counts on in all three dimensions (time, height, width): (3, length)."""
    return torch.arange(start, start + length).expand(3, -1)


def _grid_positions(start: int, rows: int, columns: int) -> torch.Tensor:
    """A still image: time stands, height and width count its merged patches, (3, rows * columns)."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column]).flatten(1) + start


class SegmentedAttention(Qwen2_5_VLVisionAttention):
    """Attention inside each segment (window or image) of one long row of patches, in few large calls.

    Stock transformers without flash-attn makes one call per window, thousands per batch. A tower has few distinct
    window sizes, so all windows of one size are one batch. Exact: no padding, no mask.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        cu_seqlens: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        max_seqlen: int | None = None,
    ) -> torch.Tensor:
        qkv_P3HD = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1))
        q_PHD, k_PHD, v_PHD = qkv_P3HD.unbind(1)
        q_PHD, k_PHD = apply_rotary_pos_emb_vision(q_PHD, k_PHD, *position_embeddings)
        lengths = cu_seqlens.diff()
        out_PHD = torch.empty_like(v_PHD)
        for length in lengths.unique().tolist():
            starts = cu_seqlens[:-1][lengths == length]
            patches = starts[:, None] + torch.arange(length, device=starts.device)
            q, k, v = (x[patches].transpose(1, 2) for x in (q_PHD, k_PHD, v_PHD))
            attended = nn.functional.scaled_dot_product_attention(q, k, v, scale=self.scaling)
            out_PHD[patches] = attended.transpose(1, 2).to(out_PHD.dtype)
        return self.proj(out_PHD.flatten(1))
