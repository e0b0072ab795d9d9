"""LLaVA-OneVision: an image as a whole, and the tiles of a larger one side by side, without padding, row by row.

Shape suffixes: T tiles, I images, Q questions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from transformers import AutoTokenizer, LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from mprm.backbones.chat import ChatModel, ChatProcessor
from mprm.backbones.loading import DTYPES, ChatBackbone, load_hf, load_images
from mprm.backbones.pixels import AS_BYTES
from mprm.runs.artifacts import write_json


@dataclass(frozen=True, kw_only=True)
class LlavaOneVision(ChatBackbone):
    """A folder in transformers' LLaVA-OneVision format. The vector behind each row of an image (image_newline) counts
    as a part of the language model."""

    model_types: ClassVar[tuple[str, ...]] = ("llava_onevision",)
    prompt_fields: ClassVar[tuple[str, ...]] = (*ChatBackbone.prompt_fields, "max_tiles")
    own_system: ClassVar[str] = "You are a helpful assistant."

    max_tiles: int = 4  # of an image besides itself as a whole; of several images each is seen as a whole only

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tiles < 1:
            raise ValueError(f"backbone.max_tiles={self.max_tiles} is not positive; try 4, or 36 for all")

    def load(self) -> tuple["LlavaOneVisionProcessor", ChatModel]:
        folder = self.folder()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        hf = load_hf(LlavaOnevisionForConditionalGeneration, folder, DTYPES[self.dtype])
        config, side = hf.config, hf.config.vision_config.image_size
        grids = [[h, w] for h, w in config.image_grid_pinpoints if h * w <= self.max_tiles * side * side]
        config.image_grid_pinpoints = grids
        images = load_images(LlavaOnevisionImageProcessorPil, folder, image_grid_pinpoints=grids)
        model = ChatModel(hf, tokenizer, self)
        model.pixels.of(images)
        return LlavaOneVisionProcessor(tokenizer, model.mark_id, self.system, config, images), model


class LlavaOneVisionProcessor(ChatProcessor):
    """An image alone is seen as a whole and in tiles, of several images each as a whole."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        mark_id: int,
        system: str,
        config: LlavaOnevisionConfig,
        images: LlavaOnevisionImageProcessorPil,
    ) -> None:
        super().__init__(tokenizer, mark_id, system, ("", "<image>", ""))
        self.config, self.images = config, images

    def image_grid(self, size: tuple[int, int], n_images: int) -> tuple[int, int]:
        """1 and the number of its tokens: a base image, and either a newline or the tiles with a newline a row."""
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size
        if n_images > 1:
            return 1, side**2 + 1
        most = int(self.config.vision_aspect_ratio.removeprefix("anyres_max_"))
        rows, columns = unpadded(size, self.config.image_grid_pinpoints, vision.image_size, side)
        ratio = math.sqrt(rows * columns / (most * side**2))
        if ratio > 1.1:  # the grid is scaled down
            rows, columns = int(rows // ratio), int(columns // ratio)
        return 1, side**2 + rows * (columns + 1)

    def vision(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Tiles of the images, each image as a whole before its own, (T, C, H, W) uint8; the images' sizes, (I, 2);
        how many of them the question has, (Q,)."""
        found = self.images([list(images)], do_pad=False, **AS_BYTES)
        return {
            "pixel_values": torch.cat([torch.from_numpy(tiles) for tiles in found["pixel_values"]]),
            "image_sizes": torch.tensor(found["image_sizes"]),
            "batch_num_images": torch.tensor(found["batch_num_images"]),
        }

    def save(self, folder: Path) -> None:
        super().save(folder)
        vision, aspect = self.config.vision_config, self.config.vision_aspect_ratio
        counted = {"num_image_tokens": (vision.image_size // vision.patch_size) ** 2, "vision_aspect_ratio": aspect}
        counted |= {"vision_feature_select_strategy": self.config.vision_feature_select_strategy}
        # Not by transformers' own processor: to make one takes torchvision, for the videos.
        write_json(folder / "processor_config.json", {"processor_class": "LlavaOnevisionProcessor", **counted})


def unpadded(size: tuple[int, int], grids: list[list[int]], tile: int, side: int) -> tuple[int, int]:
    """Rows and columns of the tokens that show an image (width, height): it is scaled into the best of the `grids`,
    (height, width) in pixels, made of tiles of side x side tokens; what pads the tiles is left out."""
    best_height, best_width = select_best_resolution(size[::-1], grids)
    rows, columns = best_height // tile * side, best_width // tile * side
    width, height = size
    if width / height > columns / rows:
        rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
    else:
        columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
    return rows, columns
