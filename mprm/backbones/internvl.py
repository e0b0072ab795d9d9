"""InternVL2.5, 3 and 3.5: tiles of 448 pixels with a thumbnail, the `internvl2_5` conversation, and a language model of
transformers whatever its family.

Shape suffixes: T tiles, P patches of a tile, N image tokens, C channels, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from transformers import AutoTokenizer, InternVLForConditionalGeneration, PreTrainedTokenizerBase
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from mprm.backbones.chat import ChatModel, ChatProcessor
from mprm.backbones.internvl_original import load_original, name_mark, write_original
from mprm.backbones.loading import DTYPES, ChatBackbone, load_hf
from mprm.backbones.pixels import AS_BYTES
from mprm.backbones.sentencepiece import load_tokenizer
from mprm.runs.artifacts import read_json, write_json

ORIGINAL = "internvl_chat"  # the model_type of OpenGVLab's own folders
IMAGE_TOKEN = "<IMG_CONTEXT>"
# As transformers' processor, and so vLLM, looks for them. It wants a token for videos too, which no prompt here has.
NAMED_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": IMAGE_TOKEN,
    "video_token": "</img>",
}


@dataclass(frozen=True, kw_only=True)
class InternVL(ChatBackbone):
    """A folder in OpenGVLab's original format or in transformers' InternVL format."""

    model_types: ClassVar[tuple[str, ...]] = ("internvl", ORIGINAL)
    prompt_fields: ClassVar[tuple[str, ...]] = (*ChatBackbone.prompt_fields, "max_tiles")
    own_system: ClassVar[str] = (
        "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"  # noqa: RUF001
    )

    plain: ClassVar[tuple[str, str, str] | None] = (
        "GotOcr2ImageProcessorPil",
        '"<img>" + "<IMG_CONTEXT>" * (model.config.image_seq_length * len(vision["pixel_values"])) + "</img>"',
        'pixel_values=vision["pixel_values"]',
    )

    max_tiles: int = 6  # tiles per solution besides the thumbnail of each image

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tiles < 1:
            raise ValueError(f"backbone.max_tiles={self.max_tiles} is not positive; the published recipe uses 6")

    def load(self) -> tuple["InternVLProcessor", "InternVLStepModel"]:
        folder = self.folder()
        tokenizer = load_tokenizer(folder)
        if read_json(folder / "config.json")["model_type"] == ORIGINAL:
            hf = load_original(folder, tokenizer.convert_tokens_to_ids(IMAGE_TOKEN), DTYPES[self.dtype])
        else:
            hf = load_hf(InternVLForConditionalGeneration, folder, DTYPES[self.dtype])
        model = InternVLStepModel(hf, tokenizer, self)
        size, tokens = hf.config.vision_config.image_size[0], hf.config.image_seq_length
        processor = InternVLProcessor(tokenizer, model.mark_id, size, tokens, self.system, self.max_tiles)
        model.pixels.of(processor.images)
        return processor, model

    def export(self, model: ChatModel, processor: ChatProcessor, folder: Path, layout: str) -> None:
        """As ChatBackbone; original: OpenGVLab's layout, which the backbone's own folder must be in."""
        if layout == "original" and read_json((source := self.folder()) / "config.json")["model_type"] == ORIGINAL:
            write_original(model.fold(), source, folder)
            name_mark(folder, model.mark_id)
        else:
            super().export(model, processor, folder, layout)


class InternVLStepModel(ChatModel):
    def image_embeddings(self, vision: dict[str, torch.Tensor]) -> torch.Tensor:
        model, pixels_TCHW = self.hf.model, vision["pixel_values"]
        dtype = model.vision_tower.embeddings.cls_token.dtype
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_vision):
            patches_TPC = model.vision_tower(pixel_values=pixels_TCHW.to(dtype)).last_hidden_state[:, 1:]
        side = int(patches_TPC.shape[1] ** 0.5)
        grid = patches_TPC.unflatten(1, (side, side))
        merged_TNC = model.pixel_shuffle(grid, scale_factor=model.config.downsample_ratio).flatten(1, 2)
        return self.projector()(merged_TNC).flatten(0, 1)


class InternVLProcessor(ChatProcessor):
    """Every image is cut into tiles of so many tokens each; several images share the tiles."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        mark_id: int,
        tile_size: int,
        tokens_per_tile: int,
        system: str,
        max_tiles: int,
    ) -> None:
        super().__init__(tokenizer, mark_id, system, ("<img>", IMAGE_TOKEN, "</img>"))
        self.tokens_per_tile = tokens_per_tile
        self.images = GotOcr2ImageProcessorPil(  # transformers' name for this tiling
            size={"height": tile_size, "width": tile_size},
            crop_to_patches=True,
            max_patches=max_tiles,
            image_mean=IMAGENET_DEFAULT_MEAN,
            image_std=IMAGENET_DEFAULT_STD,
        )

    def shared(self, n_images: int) -> dict[str, int]:
        """How many tiles each of so many images may have, besides its thumbnail."""
        return {"max_patches": max(1, self.images.max_patches // n_images)}

    def image_grid(self, size: tuple[int, int], n_images: int) -> tuple[int, int]:
        n_tiles = self.images.get_number_of_image_patches(size[1], size[0], self.shared(n_images))
        return n_tiles, self.tokens_per_tile

    def vision(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Tiles of the images, each image's thumbnail behind its own where there are several, (T, C, H, W)
        uint8."""
        tiles = self.images(list(images), return_tensors="pt", **AS_BYTES, **self.shared(len(images)))
        return {"pixel_values": tiles["pixel_values"]}

    def save(self, folder: Path) -> None:
        super().save(folder)
        # A tokenizer learns the names of its tokens when it is loaded.
        AutoTokenizer.from_pretrained(folder, extra_special_tokens=NAMED_TOKENS).save_pretrained(folder)
        # Not by transformers' own processor: to make one takes torchvision, for the videos.
        processor = {"processor_class": "InternVLProcessor", "image_seq_length": self.tokens_per_tile}
        write_json(folder / "processor_config.json", processor)
