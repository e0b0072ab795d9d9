"""SmolVLM and Idefics3: an image in rows and columns of tiles, each named by tokens of its own, and once as a whole.

Shape suffixes: T tiles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from torch import nn
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from mprm.backbones.chat import ChatModel, ChatProcessor, Turns
from mprm.backbones.loading import DTYPES, ChatBackbone, load_hf
from mprm.backbones.pixels import AS_BYTES
from mprm.runs.artifacts import write_json

AROUND = "<fake_token_around_image>"
END = "<end_of_utterance>\n"


@dataclass(frozen=True, kw_only=True)
class SmolVLM(ChatBackbone):
    """A folder in transformers' SmolVLM or Idefics3 format."""

    model_types: ClassVar[tuple[str, ...]] = ("smolvlm", "idefics3")
    prompt_fields: ClassVar[tuple[str, ...]] = (*ChatBackbone.prompt_fields, "longest_edge")

    longest_edge: int = 1536  # pixels to which the longer side of every image is scaled; a multiple of the tower's

    def load(self) -> tuple["SmolVLMProcessor", "SmolVLMStepModel"]:
        folder = self.folder()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        hf = load_hf(AutoModelForImageTextToText, folder, DTYPES[self.dtype])
        tile = hf.config.vision_config.image_size
        if self.longest_edge < tile or self.longest_edge % tile:
            raise ValueError(
                f"backbone.longest_edge={self.longest_edge} is no multiple of {tile}, the side of a tile of "
                f"backbone.path={folder}; try {4 * tile}, or {tile} for no tiles"
            )
        model = SmolVLMStepModel(hf, tokenizer, self)
        images = SmolVLMImageProcessorPil(
            size={"longest_edge": self.longest_edge}, max_image_size={"longest_edge": tile}, do_pad=False
        )
        model.pixels.of(images)
        return SmolVLMProcessor(tokenizer, model.mark_id, self.system, images, hf.model.image_seq_len), model


class SmolVLMStepModel(ChatModel):
    def vision_tower(self) -> nn.Module:
        return self.hf.model.vision_model

    def projector(self) -> nn.Module:
        return self.hf.model.connector


class SmolVLMProcessor(ChatProcessor):
    """Turns are named "User:" and "Assistant:", and only the conversation begins with a token of its own."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        mark_id: int,
        system: str,
        images: SmolVLMImageProcessorPil,
        tokens_per_tile: int,
    ) -> None:
        turns = Turns(f"System: {{}}{END}", "User:", f"{END}Assistant:", END, tokenizer.bos_token)
        super().__init__(tokenizer, mark_id, system, (AROUND, "<image>", AROUND), turns)
        self.images, self.tokens_per_tile = images, tokens_per_tile

    def image_grid(self, size: tuple[int, int], n_images: int) -> tuple[int, int]:
        """Rows and columns of its tiles; none of an image that is seen as a whole only."""
        _, n_rows, n_columns = self.images.get_number_of_image_patches(size[1], size[0])
        return n_rows, n_columns

    def image_token_ids(self, grid: tuple[int, int]) -> list[int]:
        tile, text = "<image>" * self.tokens_per_tile, ""
        for row in range(1, grid[0] + 1):
            text += "".join(f"{AROUND}<row_{row}_col_{column}>{tile}" for column in range(1, grid[1] + 1)) + "\n"
        text += "\n" * (grid != (0, 0)) + f"{AROUND}<global-img>{tile}{AROUND}"
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def vision(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Tiles of the images, each image as a whole behind its own, (T, 1, C, H, W) uint8."""
        return {"pixel_values": self.images(list(images), return_tensors="pt", **AS_BYTES)["pixel_values"][0][:, None]}

    def save(self, folder: Path) -> None:
        super().save(folder)
        # Not by transformers' own processor: to make one takes torchvision, for the videos.
        processor = {"processor_class": "SmolVLMProcessor", "image_seq_len": self.tokens_per_tile}
        write_json(folder / "processor_config.json", processor)
