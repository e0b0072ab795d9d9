"""Rollouts on disk to encoded examples, one at a time, in loader workers: their text, their images, both together."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from PIL.ExifTags import Base
from PIL.Image import DecompressionBombError
from PIL.TiffImagePlugin import TiffImageFile

from mprm.batching.collate import Example
from mprm.data.records import PLACEHOLDER

if TYPE_CHECKING:
    from datasets import Dataset

    from mprm.backbones.base import Processor
    from mprm.backbones.chat import ChatProcessor

# ---- text
#
# The one prompt renderer: training, evaluation and reranking read the same text. The published code trained on steps
# joined by "<prm>" and two newlines inside a closed conversation, and evaluated on steps joined by the bare mark in an
# unclosed one. Here there is only the published training text, which a backbone wraps into its chat template:
#
#     <image>
#     Question: {question}
#     Process: {step 1}<prm>
#
#     {step 2}<prm>

MARK = "<prm>"


def neutralise(text: str) -> str:
    """The user's text without anything that reads as a mark or an image placeholder.

    "<image1>" and its variants become "[image 1]", "<image>" becomes "[image]" and "<prm>" becomes "[prm]".
    """
    text = PLACEHOLDER.sub(lambda match: f"[image {match[1]}]" if match[1] else "[image]", text)
    return text.replace(MARK, "[prm]")


def render(question: str, steps: list[str]) -> list[str]:
    """The text below the image line in one piece per step; a mark follows every piece, so that its position is known
    and never searched for among the tokens of the user's text."""
    texts = [neutralise(step) for step in steps]
    first = f"Question: {neutralise(question)}\nProcess: {texts[0]}"
    return [first, *(f"\n\n{text}" for text in texts[1:])]


# ---- images

# What Pillow's decoders raise on damaged files.
UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, RuntimeError, EOFError, struct.error, DecompressionBombError)

# EXIF orientation -> what makes the picture upright, as the people saw it who labelled it.
TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ON_THE_SIDE = (TURNS[5], TURNS[6], TURNS[7], TURNS[8])

# Pixels as a PNG stores them -> its transparent colour as one of the 8-bit pixels that Pillow makes of them.
COLOUR_KEYS: dict[str, Callable[[Any], Any]] = {
    "L;2": lambda grey: grey * 85,
    "L;4": lambda grey: grey * 17,
    "RGB;16B": lambda rgb: tuple(value >> 8 for value in rgb),
}


def open_images(paths: Sequence[Path]) -> list[Image.Image]:
    """Decoded images: RGB, 8 bits per channel, upright, on white; of an animation the first frame.

    Raises ValueError that names the file if one is missing, broken or too large: nothing takes its place.
    """
    images: list[Image.Image] = []
    for path in paths:
        with _named(path), Image.open(path) as image:
            turn = None if isinstance(image, TiffImageFile) else TURNS.get(_orientation(image))
            rescale = COLOUR_KEYS.get(str(image.tile[0].args)) if image.tile else None
            image.load()  # this turns a TIFF
            if rescale is not None and "transparency" in image.info:
                image.info["transparency"] = rescale(image.info["transparency"])
            rgb = on_white(image)
            images.append(rgb if turn is None else rgb.transpose(turn))
    return images


def image_fault(error: ValueError) -> str:
    """The reason for an error of open_images or of the look-up of a path: missing_image_file or unreadable_image."""
    cause = error.__cause__
    return "missing_image_file" if cause is None or isinstance(cause, FileNotFoundError) else "unreadable_image"


def image_refusal(images: Sequence[Path], processor: ChatProcessor | None = None) -> str | None:
    """missing_image_file, unreadable_image, or refused_image (a shape that the processor does not take), or None."""
    try:
        sizes = [image.size for image in open_images(images)]
    except ValueError as error:
        return image_fault(error)
    try:
        if processor is not None:
            processor.ask(sizes, "")
    except ValueError:
        return "refused_image"
    return None


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of the image that open_images gives, in pixels; reads the header only.

    Raises ValueError that names the file if it is missing or its header is broken.
    """
    with _named(path), Image.open(path) as image:
        width, height = image.size
        said_turned = isinstance(image, TiffImageFile) and Base.Orientation in image.tag_v2
        if TURNS.get(_orientation(image)) in ON_THE_SIDE and not said_turned:
            return height, width
        return width, height


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise ValueError(f"image {path} cannot be read ({error}); restore the file, or remove its records") from error


def _orientation(image: Image.Image) -> object:
    """EXIF (or XMP) orientation, 1 to 8 where it makes sense.

    Only what stands before the pixels counts, so that image_size need not decode them; PngImageFile.getexif would.
    Unreadable EXIF is none: viewers show such a picture as it is stored.
    """
    try:
        return Image.Image.getexif(image).get(Base.Orientation)
    except UNREADABLE:
        return None


def on_white(image: Image.Image) -> Image.Image:
    """The picture as RGB, on white where it is transparent: models were pretrained on such pictures.

    Grey of more than 8 bits, which Pillow's own conversion would clip to white, keeps its high byte.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of no known range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.array(image.convert("I"))
        low, high = int(grey.min()), int(grey.max())
        if not 0 <= low <= high < 2**16:
            raise ValueError(f"its grey values {low} to {high} are not those of 16 bits")
        if "transparency" in image.info:
            grey[grey == image.info["transparency"]] = 2**16 - 1
        # The high byte, which is also what Pillow keeps of 16-bit colours.
        image = Image.fromarray((grey >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


# ---- both

BLANK = Image.new("RGB", (28, 28), "white")


def image_tensors(images: Sequence[Image.Image], processor: Processor) -> dict[str, torch.Tensor]:
    """Image tensors of one solution, {} of one without images."""
    return processor.vision(images) if images else {}


def in_every_row(vision: list[dict[str, torch.Tensor]], processor: Processor) -> list[dict[str, torch.Tensor]]:
    """The image tensors of the solutions of a row that is trained on. Where none of them has an image, the first gets a
    blank one, which no token stands for: what sees images has a gradient, of zero, and all processes compute alike."""
    if any(vision):
        return vision
    with suppress(ValueError):  # a language model refuses images, and has no part that would see one
        vision = [processor.vision([BLANK]), *vision[1:]]
    return vision


class Examples:
    """Map-style view of a subset's memory-mapped rollouts.

    Raises ValueError for an image that cannot be read or is of a shape that the processor refuses.
    """

    def __init__(self, records: Dataset, image_path: Callable[[str], Path], processor: Processor) -> None:
        self.records = records
        self.image_path = image_path
        self.processor = processor

    def __len__(self) -> int:
        return len(self.records)

    @property
    def ids(self) -> list[str]:
        return list(self.records["id"])

    @property
    def images(self) -> list[list[str]]:
        return list(self.records["images"])

    def origin(self, position: int) -> dict[str, Any]:
        """Where the rollout stands in the annotations."""
        record = self.records[position]
        return {"id": record["id"], "source": record["source"], "line": int(record["id"].rpartition(":")[2])}

    @property
    def question(self) -> np.ndarray:
        """An integer per rollout, the same for the same images and question."""
        return np.asarray(self.records["question_hash"], dtype=np.int64)

    @property
    def entropy(self) -> np.ndarray:
        """Of every rollout, in nats; NaN where it was not computed."""
        return np.asarray(self.records["entropy"], dtype=np.float64)

    def layout(self, position: int) -> Example:
        """The rollout without its pixels: of its images only the headers are read."""
        return self._layout(self.records[position])

    def __getitems__(self, keys: Sequence[tuple[int, float]]) -> list[Example]:
        """The rollouts of one row, given by position and weight of their steps in the loss; those of one question share
        their images."""
        vision: dict[int, dict[str, torch.Tensor]] = {}
        records = [self.records[position] for position, _ in keys]
        for record in records:
            if record["question_hash"] not in vision:
                images = open_images([self.image_path(name) for name in record["images"]])
                with _refused(record):
                    vision[record["question_hash"]] = image_tensors(images, self.processor)
        vision = dict(zip(vision, in_every_row([*vision.values()], self.processor), strict=True))
        return [
            replace(self._layout(record), vision=vision[record["question_hash"]], weight=weight)
            for record, (_, weight) in zip(records, keys, strict=True)
        ]

    def _layout(self, record: dict[str, Any]) -> Example:
        sizes = [image_size(self.image_path(name)) for name in record["images"]]
        with _refused(record):
            example = self.processor.layout(sizes, record["question"], record["steps"])
        mc = [float("nan") if score is None else score for score in record["scores"]]
        return replace(
            example,
            mc=torch.tensor(mc, dtype=torch.float32),
            n=torch.tensor([total or 0 for total in record["n_total"]]),
            id=record["id"],
            group=record["question_hash"],
        )


@contextmanager
def _refused(record: dict[str, Any]) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"rollout {record['id']} cannot be encoded: {error}; remove it and select again") from error
