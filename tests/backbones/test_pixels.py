"""Pixels that travel as bytes: every byte becomes what transformers' image processor would have made of it."""

import numpy as np
import pytest
import torch
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from mprm.backbones.pixels import Pixels

HALF = [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    "options",
    [
        {"image_mean": IMAGENET_DEFAULT_MEAN, "image_std": IMAGENET_DEFAULT_STD},
        {"image_mean": OPENAI_CLIP_MEAN, "image_std": OPENAI_CLIP_STD},
        {"image_mean": HALF, "image_std": HALF},
        {"image_mean": HALF, "image_std": HALF, "do_normalize": False},
        {"image_mean": HALF, "image_std": HALF, "do_rescale": False},
    ],
)
def test_every_byte_is_what_the_image_processor_makes_of_it(options: dict[str, object]) -> None:
    images = GotOcr2ImageProcessorPil(size={"height": 16, "width": 16}, **options)
    bytes_CHW = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(16, 16), (3, 16, 16))
    theirs = images([torch.from_numpy(bytes_CHW.copy())], input_data_format="channels_first", return_tensors="pt")
    pixels = Pixels()
    pixels.of(images)
    found = pixels({"pixel_values": torch.from_numpy(bytes_CHW.copy())[None]})["pixel_values"]
    assert found.dtype == torch.float32
    assert found.equal(theirs["pixel_values"].float())


def test_what_a_processor_has_computed_itself_stays() -> None:
    given = {"pixel_values": torch.rand(1, 3, 2, 2), "image_sizes": torch.tensor([[2, 2]])}
    assert Pixels()(given) is given
    assert Pixels()({}) == {}
