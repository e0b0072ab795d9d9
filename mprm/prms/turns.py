"""PRMs that are asked step by step: each step is a turn of the user, which the assistant answers with "+" or "-".

The first turn has the images and the question, too. What a PRM said of earlier steps is not handed back to it: as in
the published code it always reads "+" there. Its score is the softmax over "+" and "-" at the place that predicts the
answer.

Shape suffixes: those of chat.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from mprm.backbones.chat import ChatModel, ChatProcessor, encode_text
from mprm.backbones.internvl import InternVL
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL
from mprm.batching.collate import Example
from mprm.prms.prm import RIGHT, WRONG, StepwisePRM, set_verdicts

QUESTION = "### Question:\n"


@dataclass(frozen=True, kw_only=True)
class VisualPRM(StepwisePRM):
    """OpenGVLab's VisualPRM-8B and -8B-v1.1 (arXiv 2503.10291): an InternVL in the original format."""

    system: str = ""  # system message, none when empty
    max_tiles: int = 12  # tiles of every image, besides its thumbnail

    def load(self) -> tuple[TurnsProcessor, ChatModel]:
        processor, model = InternVL(**self.loaded_as, max_tiles=self.max_tiles).load()
        set_verdicts(model, processor.tokenizer, WRONG, RIGHT)
        return TurnsProcessor(processor, self.system, images_first=False), model


@dataclass(frozen=True, kw_only=True)
class QwenVLPRM(StepwisePRM):
    """Qwen-VL-PRM-3B and -7B (arXiv 2509.23250): a Qwen2.5-VL."""

    system: str = ""  # system message, none when empty
    min_pixels: int = 200_704  # the area to which an image is scaled lies between them
    max_pixels: int = 1_003_520

    def load(self) -> tuple[TurnsProcessor, ChatModel]:
        backbone = Qwen2_5_VL(**self.loaded_as, min_pixels=self.min_pixels, max_pixels=self.max_pixels)
        processor, model = backbone.load()
        set_verdicts(model, processor.tokenizer, WRONG, RIGHT)
        return TurnsProcessor(processor, self.system, images_first=True), model


class TurnsProcessor:
    """Solutions to tensors: a mark is the last token before an answer.

    images_first: before the words "### Question:", or else between them and the question, each on a line of its own.
    """

    def __init__(self, images: ChatProcessor, system: str, images_first: bool) -> None:
        tokenizer = images.tokenizer
        self.tokenizer, self.images, self.images_first = tokenizer, images, images_first
        self.begin_id, end_id, plus_id = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", RIGHT])
        system_ids, self.newline_ids, ask_ids = encode_text(tokenizer, [f"system\n{system}", "\n", "assistant\n"])
        if encode_text(tokenizer, [f"assistant\n{RIGHT}"])[0] != [*ask_ids, plus_id]:
            raise ValueError(f"the tokenizer joins {RIGHT!r} with the line break before it; choose another backbone=")
        system_turn = [self.begin_id, *system_ids, end_id, *self.newline_ids] if system else []
        self.opening_ids = tokenizer("")["input_ids"] + system_turn  # InternLM2's begins every text with a token
        self.ask_ids = [end_id, *self.newline_ids, self.begin_id, *ask_ids]
        self.answered_ids = [plus_id, end_id, *self.newline_ids]

    def layout(self, sizes: Sequence[tuple[int, int]], question: str, steps: list[str]) -> Example:
        """Text between two special tokens is encoded in one piece, as the published code encodes the whole."""
        begin, rest = "user\n", f"{question}\n\n### Solution Process:\n{steps[0]}"
        if self.images_first or not sizes:
            rest = QUESTION + rest
        else:
            begin, rest = begin + QUESTION, f"\n{rest}"
        first = [begin, rest] if sizes else ["", begin + rest]
        begin_ids, *turns_ids = encode_text(self.tokenizer, [*first, *(f"user\n{step}" for step in steps[1:])])
        grids = [self.images.image_grid(size, 1) for size in sizes]
        ids = [*self.opening_ids, self.begin_id, *begin_ids]
        marks: list[int] = []
        for number, grid in enumerate(grids):
            ids += self.newline_ids if number and not self.images_first else []
            ids += self.images.image_token_ids(grid)
        for turn_ids in turns_ids:
            ids += ([*self.answered_ids, self.begin_id] if marks else []) + turn_ids + self.ask_ids
            marks.append(len(ids) - 1)
        return Example(torch.tensor(ids), torch.tensor(marks), self.images.positions(ids, grids), vision={})

    def vision(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Every image by itself: how large one is read does not depend on the others."""
        seen = [self.images.vision([image]) for image in images]
        return {name: torch.cat([one[name] for one in seen]) for name in (seen[0] if seen else {})}
