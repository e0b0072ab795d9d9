"""InternVL2.5: tiles of 448 pixels with a thumbnail, the `internvl2_5` conversation, a Llama-shaped language model.

Shape suffixes: T tiles, N image tokens, D hidden size, L tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import AutoTokenizer, InternVLForConditionalGeneration, PreTrainedTokenizerBase

from mprm.backbones.base import StepHead, StepModel, add_mark, encode_pieces, single_token
from mprm.backbones.loading import check_folder
from mprm.data.collate import Example
from mprm.data.prompt import render

MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class InternVL:
    """Component `backbone`: a folder in transformers' InternVL format.

    path: the folder; system: system message, none when empty; max_tiles: tiles per solution besides the thumbnail;
    max_length: tokens, a longer solution is refused in training and skipped in evaluation; dtype: of the weights.
    """

    path: str | None = None
    system: str = ""
    max_tiles: int = 6
    max_length: int = 8192
    dtype: str = "float32"
    freeze_vision: bool = True
    gradient_checkpointing: bool = False
    no: str = "No"
    yes: str = "Yes"

    def __post_init__(self) -> None:
        if self.max_tiles < 1:
            raise ValueError(f"backbone.max_tiles={self.max_tiles} is not positive; the published recipe uses 6")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"backbone.dtype={self.dtype} is unknown; use float32 or bfloat16")

    def load(self) -> tuple["InternVLProcessor", "InternVLStepModel"]:
        """Processor and model. Raises ValueError if the folder is missing or is no InternVL."""
        folder = check_folder(self.path, "internvl")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        hf = InternVLForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, self.dtype))
        if self.gradient_checkpointing:
            hf.model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        mark_id = add_mark(tokenizer, hf)
        head = StepHead(hf.lm_head, single_token(tokenizer, self.no), single_token(tokenizer, self.yes))
        size = hf.config.vision_config.image_size[0]
        processor = InternVLProcessor(tokenizer, mark_id, size, hf.config.image_seq_length, self.system, self.max_tiles)
        return processor, InternVLStepModel(hf, head, self.freeze_vision)


class InternVLStepModel(StepModel):
    """InternVL with a step head."""

    def vision_tower(self) -> nn.Module:
        return self.hf.model.vision_tower

    def image_embeddings(self, vision: dict[str, torch.Tensor]) -> torch.Tensor:
        model, pixels_TCHW = self.hf.model, vision["pixel_values"]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_vision):
            patches_TPC = model.vision_tower(pixel_values=pixels_TCHW.to(model.dtype)).last_hidden_state[:, 1:]
        side = int(patches_TPC.shape[1] ** 0.5)
        grid = patches_TPC.unflatten(1, (side, side))
        merged_TNC = model.pixel_shuffle(grid, scale_factor=model.config.downsample_ratio).flatten(1, 2)
        return model.multi_modal_projector(merged_TNC).flatten(0, 1)


class InternVLProcessor:
    """Solutions to tensors, in the published training layout: system turn, EMPTY user turn, assistant turn."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        mark_id: int,
        tile_size: int,
        tokens_per_tile: int,
        system: str,
        max_tiles: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.mark_id = mark_id
        self.tile_size = tile_size
        self.tokens_per_tile = tokens_per_tile
        self.max_tiles = max_tiles
        self.pad_id = tokenizer.pad_token_id
        system_turn = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
        opening = f"{system_turn}<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"
        self.opening_ids = self._ids(opening)
        self.closing_ids = self._ids("<|im_end|>\n")
        self.context_id = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
        self.newline_ids = self._ids("\n")
        self.image_ids = (self._ids("<img>"), self._ids("</img>"))

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def encode(self, images: Sequence[Image.Image], question: str, steps: list[str]) -> Example:
        """Tiles and token ids of one solution; several images share max_tiles and come one line each."""
        budget = max(1, self.max_tiles // len(images))
        tiles = [tile(image, self.tile_size, budget) for image in images]
        ids = list(self.opening_ids)
        for number, image_tiles in enumerate(tiles):
            ids += self.newline_ids if number else []
            ids += [*self.image_ids[0], *[self.context_id] * (len(image_tiles) * self.tokens_per_tile)]
            ids += self.image_ids[1]
        pieces = render(question, steps)
        pieces[0] = "\n" + pieces[0]
        text_ids, marks = encode_pieces(self.tokenizer, pieces, self.mark_id)
        start = len(ids)
        ids += [*text_ids, *self.closing_ids]
        return Example(
            input_ids=torch.tensor(ids),
            marks=torch.tensor(marks) + start,
            position_ids=torch.arange(len(ids)),
            vision={"pixel_values": torch.from_numpy(np.concatenate([normalise(t) for t in tiles]))},
        )


def tile_grid(width: int, height: int, tile_size: int, max_tiles: int) -> tuple[int, int]:
    """Columns and rows whose aspect ratio is closest to the image's.

    On a tie the larger grid is taken only if the image has more than half its pixels (InternVL's rule).
    """
    grids = sorted(
        [(c, r) for c in range(1, max_tiles + 1) for r in range(1, max_tiles // c + 1)],
        key=lambda grid: grid[0] * grid[1],
    )
    best, best_distance = (1, 1), float("inf")
    for columns, rows in grids:
        distance = abs(width / height - columns / rows)
        large_enough = width * height > 0.5 * tile_size**2 * columns * rows
        if distance < best_distance or (distance == best_distance and large_enough):
            best, best_distance = (columns, rows), distance
    return best


def tile(image: Image.Image, size: int, max_tiles: int) -> np.ndarray:
    """Tiles of an image and, where there are several, a thumbnail behind them: (T, size, size, 3) uint8."""
    image = image.convert("RGB")
    columns, rows = tile_grid(image.width, image.height, size, max_tiles)
    whole = np.asarray(image.resize((columns * size, rows * size), Image.Resampling.BICUBIC))
    tiles = whole.reshape(rows, size, columns, size, 3).swapaxes(1, 2).reshape(-1, size, size, 3)
    if len(tiles) == 1:
        return tiles
    thumbnail = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
    return np.concatenate([tiles, thumbnail[None]])


def normalise(tiles_THWC: np.ndarray) -> np.ndarray:
    """ImageNet normalisation to (T, 3, H, W) float32."""
    scaled = (tiles_THWC.astype(np.float32) / 255 - MEAN) / STD
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
