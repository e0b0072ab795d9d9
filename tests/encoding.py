"""One solution as tensors, images included; and what transformers' models take of these."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from mprm.backbones.base import Processor
from mprm.backbones.pixels import Pixels
from mprm.backbones.qwen import Patches
from mprm.batching.collate import Example


def encode(processor: Processor, images: Sequence[Image.Image], question: str, steps: list[str]) -> Example:
    example = processor.layout([image.size for image in images], question, steps)
    return replace(example, vision=processor.vision(images) if images else {})


def seen(processor: Any, examples: Sequence[Example]) -> list[Example]:
    """With pixels in float32, which stock models take, too."""
    return [replace(example, vision=normalised(processor, example.vision)) for example in examples]


def normalised(processor: Any, vision: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Image tensors with pixels in float32, as a model has them before its tower."""
    if "pixel_values" not in vision or vision["pixel_values"].dtype != torch.uint8:
        return vision
    pixels = Patches(processor.images.temporal_patch_size) if "image_grid_thw" in vision else Pixels()
    pixels.of(processor.images)
    return pixels(vision)
