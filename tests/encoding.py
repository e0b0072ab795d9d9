"""One solution as tensors, images included."""

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from mprm.backbones.base import Processor
from mprm.batching.collate import Example


def encode(processor: Processor, images: Sequence[Image.Image], question: str, steps: list[str]) -> Example:
    example = processor.layout([image.size for image in images], question, steps)
    return replace(example, vision=processor.vision(images) if images else {})
