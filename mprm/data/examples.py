"""Rollouts on disk to encoded examples, one at a time, in loader workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from datasets import Dataset

    from mprm.backbones.base import Processor
    from mprm.data.collate import Example


def open_images(paths: Sequence[Path]) -> list[Image.Image]:
    """Decoded images. Raises ValueError that names the file if one is missing or broken: nothing takes its place."""
    images: list[Image.Image] = []
    for path in paths:
        try:
            with Image.open(path) as image:
                image.load()
                images.append(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(
                f"image {path} can not be read ({error}); restore the file, or remove its rollouts"
            ) from error
    return images


class Examples:
    """Map-style view of a subset's memory-mapped rollouts.

    An item is asked for as (position, weight): the weight of the rollout's steps in the loss.
    Raises ValueError for an image that can not be read and for a rollout longer than max_length tokens.
    """

    def __init__(
        self, records: Dataset, image_path: Callable[[str], Path], processor: Processor, max_length: int
    ) -> None:
        self.records = records
        self.image_path = image_path
        self.processor = processor
        self.max_length = max_length

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, float]) -> Example:
        import torch

        position, weight = key
        record: dict[str, Any] = self.records[position]
        images = open_images([self.image_path(name) for name in record["images"]])
        try:
            example = self.processor.encode(images, record["question"], record["steps"])
        except ValueError as error:  # an image of a shape that the processor refuses
            raise ValueError(
                f"rollout {record['id']} can not be encoded: {error}; remove it and select again"
            ) from error
        if len(example.input_ids) > self.max_length:
            raise ValueError(
                f"rollout {record['id']} has {len(example.input_ids)} tokens, more than backbone.max_length="
                f"{self.max_length}; raise it, or remove that line of the source (counted from 0)"
            )
        mc = [float("nan") if score is None else score for score in record["scores"]]
        return replace(example, mc=torch.tensor(mc, dtype=torch.float32), weight=weight, id=record["id"])
