"""What Qwen2-VL, Qwen2.5-VL and Qwen3-VL share: images at their own resolution, M-RoPE positions, and a vision tower
whose attention stays inside an image.

Shape suffixes: N image tokens, L tokens of a solution, P patches, H heads, D size of a head or patch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize
from transformers.vision_utils import get_vision_position_ids

from mprm.backbones.attention import attend, make_ready
from mprm.backbones.chat import ChatModel, ChatProcessor
from mprm.backbones.loading import DTYPES, ChatBackbone, load_hf
from mprm.backbones.pixels import AS_BYTES, Pixels
from mprm.batching.collate import Segments, rows


@dataclass(frozen=True, kw_only=True)
class QwenVL(ChatBackbone):
    """A folder in transformers' format. A family says which class loads it and which step model it becomes."""

    prompt_fields: ClassVar[tuple[str, ...]] = (*ChatBackbone.prompt_fields, "min_pixels", "max_pixels")
    own_system: ClassVar[str] = "You are a helpful assistant."
    plain: ClassVar[tuple[str, str, str] | None] = (
        "Qwen2VLImageProcessorPil",
        '"<|vision_start|>" + "<|image_pad|>" * (int(vision["image_grid_thw"].prod()) // 4) + "<|vision_end|>"',
        "mm_token_type_ids=(ids == model.config.image_token_id).int(), **vision",
    )
    hf_class: ClassVar[Any]
    step_model: ClassVar[Callable[..., "QwenStepModel"]]
    colours: ClassVar[tuple[list[float], list[float]]] = (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)  # mean and deviation

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
        hf = load_hf(self.hf_class, folder, DTYPES[self.dtype])
        model = self.step_model(hf, tokenizer, self)
        vision = hf.config.vision_config
        images = Qwen2VLImageProcessorPil(
            patch_size=vision.patch_size,
            temporal_patch_size=vision.temporal_patch_size,
            merge_size=vision.spatial_merge_size,
            image_mean=self.colours[0],
            image_std=self.colours[1],
            size={"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels},
        )
        model.pixels.of(images)
        return QwenProcessor(tokenizer, model.mark_id, images, self.system), model


class Deferred(nn.Module):
    """Mixed into the projector's parts. The tower calls them itself, in its own type and without gradient: there they
    hand the patches on, and merge() does the work."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def merge(self, patches_PD: torch.Tensor) -> torch.Tensor:
        """Embeddings of image tokens, (N, D)."""
        merged_ND: torch.Tensor = super().forward(patches_PD.to(next(self.parameters()).dtype))
        return merged_ND


class PatchEmbedding(nn.Conv3d):
    """Takes the place of the tower's: a convolution over patches that do not overlap is a linear layer."""

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)


class SegmentedAttention(nn.Module):
    """Takes the place of the tower's attention: all images, or all windows, in few large calls. Without flash-attn
    stock transformers makes one call for each, thousands per batch."""

    sees: str = "images"  # or windows
    num_heads: int
    scaling: float
    qkv: nn.Module
    proj: nn.Module

    def forward(
        self,
        hidden_states: torch.Tensor,
        cu_seqlens: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        segments: dict[str, Segments],
        max_seqlen: int | None = None,
    ) -> torch.Tensor:
        qkv_P3HD = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1))
        q_PHD, k_PHD, v_PHD = qkv_P3HD.unbind(1)
        q_PHD, k_PHD = apply_rotary_pos_emb_vision(q_PHD, k_PHD, *position_embeddings)
        attended: torch.Tensor = self.proj(attend(q_PHD, k_PHD, v_PHD, segments[self.sees], self.scaling).flatten(1))
        return attended


class Patches(Pixels):
    """A still image is seen as so many frames that are alike: patches (P, D)."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def shown(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels[:, :, None].expand(-1, -1, self.frames, -1, -1).flatten(1)


class QwenStepModel(ChatModel):
    """Qwen2-VL as it stands; the later families change what they do differently."""

    def __init__(self, hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: ChatBackbone) -> None:
        visual: Any = hf.model.visual
        visual.patch_embed.proj.__class__ = PatchEmbedding
        for block in visual.blocks:
            block.attn.__class__ = SegmentedAttention
        for merger in (visual.merger, *getattr(visual, "deepstack_merger_list", [])):
            merger.__class__ = type(f"Deferred{type(merger).__name__}", (Deferred, type(merger)), {})
        super().__init__(hf, tokenizer, options)
        self.pixels = Patches(visual.patch_embed.temporal_patch_size)

    def vision_tower(self) -> nn.Module:
        return self.hf.model.visual

    def projector(self) -> nn.Module:
        return self.hf.model.visual.merger

    def tower_output(self, vision: dict[str, torch.Tensor], **layout: Any) -> Any:
        """What the tower gives for the images; without gradient where it is frozen."""
        visual, grid_thw = self.hf.model.visual, vision["image_grid_thw"]
        pixels_PD = vision["pixel_values"].to(visual.patch_embed.proj.weight.dtype)
        for segments in layout["segments"].values():
            make_ready(segments, pixels_PD)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_vision):
            return visual(pixels_PD, grid_thw=grid_thw, **layout)

    def image_embeddings(self, vision: dict[str, torch.Tensor]) -> torch.Tensor:
        visual = self.hf.model.visual
        layout = image_layout(vision["image_grid_thw"], visual.spatial_merge_size, vision["pixel_values"].device)
        merged_ND: torch.Tensor = visual.merger.merge(self.tower_output(vision, **layout).last_hidden_state)
        return merged_ND


def image_layout(grid_thw: torch.Tensor, merge: int, device: torch.device) -> dict[str, Any]:
    """What the tower would work out image by image on every call: patch positions, and the segments of its attention.
    Images of one size share theirs, so a batch costs a concatenation. The grids are on the host."""
    positions = [patch_positions(tuple(grid), merge) for grid in grid_thw.tolist()]
    images = rows([len(position_P2) for position_P2 in positions], causal=False).to(device, non_blocking=True)
    return {
        "position_ids": torch.cat(positions).to(device, non_blocking=True),
        "cu_seqlens": images.query_border,
        "segments": {"images": images},
    }


@lru_cache(maxsize=4096)
def patch_positions(grid_thw: tuple[int, ...], merge: int) -> torch.Tensor:
    """Row and column of every patch of an image, those of one token together, (P, 2)."""
    return get_vision_position_ids(torch.tensor([grid_thw]), merge)


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
        """Patches of the images, (P, C, H, W) uint8, each once; and the grid of every image, (images, 3)."""
        found = self.images(list(images), return_tensors="pt", temporal_patch_size=1, **AS_BYTES)
        side = self.images.patch_size
        pixels_PCHW = found["pixel_values"].to(torch.uint8).unflatten(1, (-1, side, side))
        return {"pixel_values": pixels_PCHW, "image_grid_thw": found["image_grid_thw"]}
