"""What `task=pretrain` learns from: batches of solutions and claims, with images as the backbones see them.

Half of every batch is right solutions, learnt by next-token prediction; half is solutions with errors, where every
line is followed by " ?" and the model must continue with Yes or No. The verdicts are targets only: they never
stand in the input, or the model would copy the earlier ones. Where a claim stands varies, as it does in what real
models have seen: in either turn, with or without the words of the PRM prompt, an instruction and blank lines. Learnt
in one layout alone, claims are judged worse in another (LOG.md). The mark itself is never seen.

The first batches are readings alone, and the very first of them nothing but colours: learnt from the start together
with the heights, which are so much easier to see, colours are never seen at all (LOG.md).

All charts are of pretraining's part of the world, which no corpus, question or benchmark shows.

Batches are a function of (seed, step), so a run is the same with any number of workers and can be resumed.
Shape suffixes: B rows, L tokens.
"""

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from mprm.chartworld.solver import CLAIM, Skill, Solver, step_texts
from mprm.chartworld.world import IMAGE_SIZE, NAMES, PATCH, draw, question_text, sample_part
from tools import tiny

MAX_TOKENS = 112  # a longer row loses its tail
IGNORE = -100
RIGHT = Skill(misread=0.0, slip=0.0, look_again=0.0, illusion=0.0)
MOMENTS = {
    "internvl": (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "qwen2_5_vl": (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
}


class Stream(Dataset):
    """Batches by step: tokens (B, L), targets (B, L; IGNORE: nothing to learn), uint8 images (B, 56, 56, 3)."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        family: str,
        batch_size: int,
        seed: int,
        steps: int,
        colours: int = 0,
        readings: int = 0,
        part: str = "pretraining",
    ) -> None:
        self.tokenizer = tokenizer
        self.colours, self.readings, self.part = colours, readings, part
        self.batch_size = batch_size
        self.seed = seed
        self.steps = steps
        start, context, end = tokenizer.convert_tokens_to_ids(tiny.IMAGE_TOKENS[family])
        self.image_ids = [start, *[context] * (IMAGE_SIZE // (2 * PATCH)) ** 2, end]
        self.cache: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return self.steps

    def ids(self, text: str) -> list[int]:
        if text not in self.cache:
            self.cache[text] = self.tokenizer.encode(text, add_special_tokens=False)
        return self.cache[text]

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([self.seed, step])
        half, groups = self.batch_size // 2, 8
        if step < self.readings:
            parts = [self.reading(rng, half, by_place=True, heights=step >= self.colours)]
            parts.append(self.reading(rng, half, by_place=step < self.colours, heights=step >= self.colours))
            tokens, targets, images = (np.concatenate(column) for column in zip(*parts, strict=True))
            return torch.from_numpy(tokens), torch.from_numpy(targets), torch.from_numpy(images)
        rows = [self.group(rng, half, RIGHT, claims=False)]
        for _ in range(groups):
            skill = Skill(rng.uniform(0.05, 0.35), rng.uniform(0.05, 0.35), rng.uniform(0.1, 0.6), illusion=0.02)
            rows.append(self.group(rng, half // groups, skill, claims=True))
        tokens, targets, images = (np.concatenate(column) for column in zip(*rows, strict=True))
        return torch.from_numpy(tokens), torch.from_numpy(targets), torch.from_numpy(images)

    def reading(
        self, rng: np.random.Generator, count: int, by_place: bool, heights: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Readings of all bars: from left to right, when their colours are learnt, too, or in any order."""
        problems = sample_part(rng, count, self.part)
        tokens = np.full((count, MAX_TOKENS), self.tokenizer.pad_token_id, dtype=np.int64)
        targets = np.full((count, MAX_TOKENS), IGNORE, dtype=np.int64)
        for row in range(count):
            ids = self.opening("What is the sum of all bars?")
            bars = np.flatnonzero(problems.colour_PB[row] >= 0)
            for bar in bars if by_place else rng.permutation(bars):
                reading = self.ids(f"{NAMES[problems.colour_PB[row, bar]]} is {problems.height_PB[row, bar]}.")
                if by_place:
                    targets[row, len(ids) - 1] = reading[0]
                if heights:
                    targets[row, len(ids) + len(reading) - 3] = reading[-2]
                ids += [*reading, *self.ids("\n")]
            tokens[row, : len(ids)] = ids
        return tokens, targets, draw(problems)

    def opening(self, question: str, users: bool = True) -> list[int]:
        """Token ids up to the solution. Image and question stand in the user's turn, or, as in the PRM prompt, the user
        says nothing and they begin the assistant's."""
        shown = [*self.image_ids, *self.ids("\n"), *self.ids(question)]
        user, assistant = self.ids("<|im_start|>user\n"), self.ids("<|im_end|>\n<|im_start|>assistant\n")
        return [*user, *shown, *assistant] if users else [*user, *assistant, *shown, *self.ids("\n")]

    def group(
        self, rng: np.random.Generator, count: int, skill: Skill, claims: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        problems = sample_part(rng, count, self.part)
        trace, _ = Solver(problems, skill, rng).run()
        tokens = np.full((count, MAX_TOKENS), self.tokenizer.pad_token_id, dtype=np.int64)
        targets = np.full((count, MAX_TOKENS), IGNORE, dtype=np.int64)
        verdicts = (self.ids("No")[0], self.ids("Yes")[0])
        for row in range(count):
            asked, worded, blank, users = rng.random(4) < 0.5 if claims else [False, False, False, True]
            question = question_text(problems, row) + (" Is each line right?" if asked else "")
            ids = self.opening(f"Question: {question}" if worded else question, bool(users))
            ids += self.ids("Process:") if worded else []
            start, places = len(ids), []
            before = " " if worded else ""
            for text in step_texts(problems, trace, row):
                ids += self.ids(before + text + (CLAIM if claims else ""))
                places.append(len(ids) - 1)
                before = "\n\n" if blank else "\n"
            ids += [*self.ids("\n"), self.tokenizer.eos_token_id]
            length = min(len(ids), MAX_TOKENS)
            tokens[row, :length] = ids[:length]
            if not claims:
                targets[row, start - 1 : length - 1] = tokens[row, start:length]
                continue
            for place, right in zip(places, trace.correct_ST[row], strict=False):
                if place < length:
                    targets[row, place] = verdicts[int(right)]
        return tokens, targets, draw(problems)


def vision_inputs(images_BHWC: torch.Tensor, family: str) -> dict[str, torch.Tensor]:
    """What the family's processor makes of the world's images, batched on the device."""
    mean_C, std_C = (torch.tensor(x, device=images_BHWC.device) for x in MOMENTS[family])
    pixels_BCHW = ((images_BHWC.float() / 255 - mean_C) / std_C).permute(0, 3, 1, 2)
    if family == "internvl":
        return {"pixel_values": pixels_BCHW.contiguous()}
    # Patches ordered by blocks of 2 x 2; a still image is two equal frames.
    side = IMAGE_SIZE // (2 * PATCH)
    blocks = pixels_BCHW.unflatten(3, (side, 2, PATCH)).unflatten(2, (side, 2, PATCH))
    patches = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1)
    grid = torch.tensor([1, 2 * side, 2 * side], device=images_BHWC.device).expand(len(images_BHWC), 3)
    return {"pixel_values": patches.reshape(-1, 3 * 2 * PATCH * PATCH), "image_grid_thw": grid}


def position_ids(family: str, image_start_B: torch.Tensor, length: int) -> torch.Tensor:
    """Positions of rows with one image each, by the place of its first token: (B, L), or (3, B, L) for Qwen2.5-VL."""
    place_BL = torch.arange(length, device=image_start_B.device).expand(len(image_start_B), -1)
    if family == "internvl":
        return place_BL
    side = IMAGE_SIZE // (2 * PATCH)
    start_B1 = image_start_B[:, None]
    piece_BL = place_BL - start_B1  # of the image, where it is
    inside_BL = (piece_BL >= 0) & (piece_BL < side * side)
    text_BL = torch.where(piece_BL < 0, place_BL, place_BL + side - side * side)
    frame_row_column = (torch.zeros_like(piece_BL), piece_BL // side, piece_BL % side)
    return torch.stack([torch.where(inside_BL, start_B1 + at_BL, text_BL) for at_BL in frame_row_column])
