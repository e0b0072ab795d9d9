"""From picture files of all kinds to the pixel values of both backbones.

Shape suffixes: P patches, D values of a patch.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from mprm.backbones.internvl import InternVL, InternVLProcessor
from mprm.backbones.qwen import QwenProcessor
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL
from mprm.batching.examples import Examples, open_images
from tests.encoding import encode, normalised

STEPS = ["red is 4.", "The answer is 4."]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZES = [(1, 1), (3, 200), (200, 3), (3, 3), (1, 200), (200, 1), (13, 2600), (27, 28), (29, 41), (1000, 500), (70, 640)]

Picture = Callable[[int, int], Image.Image]


def colourful() -> Image.Image:
    """Smooth enough for JPEG, different in every corner and channel."""
    row, column = np.mgrid[:64, :96]
    return Image.fromarray(np.stack([row * 4, column * 2, 255 - row * 2 - column], axis=2).astype(np.uint8))


def write(folder: Path) -> dict[str, tuple[Path, Image.Image]]:
    """Files of many kinds, each with the upright RGB picture that it shows.

    Transparent ones on white, as the tools of Qwen and vLLM put them; the published code shows the colours below.
    """
    rgb = colourful()
    white, (red, green, _) = Image.new("RGB", rgb.size, "white"), rgb.split()
    palette, exif = rgb.quantize(64), Image.Exif()
    shown_64 = palette.convert("RGB")
    exif[0x0112] = 6
    grey_16 = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    stored: dict[str, tuple[Image.Image, Image.Image, dict[str, Any]]] = {
        "grey.png": (rgb.convert("L"), rgb.convert("L"), {}),
        "grey16.png": (grey_16, rgb.convert("L"), {}),
        "grey16.tif": (grey_16.convert("I"), rgb.convert("L"), {}),
        "bit.png": (rgb.convert("1"), rgb.convert("1"), {}),
        "rgba.png": (Image.merge("RGBA", [*rgb.split(), red]), Image.composite(rgb, white, red), {}),
        "la.png": (Image.merge("LA", [red, green]), Image.composite(red.convert("RGB"), white, green), {}),
        "palette.png": (palette, palette, {}),
        "palette_transparent.png": (
            palette,
            Image.composite(shown_64, white, Image.fromarray(np.asarray(palette))),
            {"transparency": bytes(range(64))},
        ),
        "cmyk.jpg": (rgb.convert("CMYK"), rgb, {"quality": 98}),
        "turned.jpg": (rgb.transpose(Image.Transpose.ROTATE_90), rgb, {"exif": exif, "quality": 98}),
        "frames.png": (rgb, rgb, {"save_all": True, "append_images": [palette.convert("RGB")]}),
    }
    for name, (image, _, options) in stored.items():
        image.save(folder / name, **options)
    return {name: (folder / name, shown.convert("RGB")) for name, (_, shown, _) in stored.items()}


def test_both_backbones_see_what_any_file_shows(internvl: Any, qwen: Any, tmp_path: Path) -> None:
    files = write(tmp_path)
    assert len(files) == 11
    for name, (path, shown) in files.items():
        for processor, _ in (internvl, qwen):
            found, expected = (
                normalised(processor, encode(processor, images, "How?", STEPS).vision)
                for images in (open_images([path]), [shown])
            )
            assert found["pixel_values"].shape == expected["pixel_values"].shape, name
            difference = (found["pixel_values"] - expected["pixel_values"]).abs().mean()
            assert difference < (0.06 if name.endswith("jpg") else 1e-6), name
            assert expected["pixel_values"].std() > 0.2, name


@pytest.mark.parametrize("size", SIZES)
def test_tiles_of_tiny_and_narrow_pictures_are_the_resized_picture(
    internvl: Any, size: tuple[int, int], picture: Picture
) -> None:
    image = picture(*size)
    pixels_TCHW = normalised(internvl[0], internvl[0].vision([image]))["pixel_values"].numpy()
    assert pixels_TCHW.shape[1:] == (3, 56, 56)
    assert pixels_TCHW.dtype == np.float32
    assert len(pixels_TCHW) == internvl[0].image_grid(size, 1)[0]
    assert len(pixels_TCHW) in (1, 3, 4, 5, 6, 7)
    thumbnail = np.asarray(image.resize((56, 56), Image.Resampling.BICUBIC))
    expected = ((thumbnail / 255 - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1)
    np.testing.assert_allclose(pixels_TCHW[-1], expected, atol=1e-5)


def expected_patches(image: Image.Image, min_pixels: int, max_pixels: int) -> np.ndarray:
    """Patches (P, D) of 14 pixels, those of one merged 2 x 2 block in a row, each twice: a still of two frames."""
    height, width = smart_resize(image.height, image.width, 28, min_pixels, max_pixels)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    pixels = ((resized / 255 - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1)
    corners = [
        (top + row, left + column)
        for top in range(0, height, 28)
        for left in range(0, width, 28)
        for row in (0, 14)
        for column in (0, 14)
    ]
    patches = [pixels[:, top : top + 14, left : left + 14] for top, left in corners]
    return np.stack([np.stack([patch, patch], axis=1).ravel() for patch in patches])


@pytest.mark.parametrize(("min_pixels", "max_pixels"), [(784, 200_704), (3136, 1_003_520), (784, 784)])
def test_qwen_pixels_are_those_of_transformers(
    qwen_folder: Path, picture: Picture, min_pixels: int, max_pixels: int
) -> None:
    processor, _ = Qwen2_5_VL(path=str(qwen_folder), min_pixels=min_pixels, max_pixels=max_pixels).load()
    stock = Qwen2VLImageProcessorPil(min_pixels=min_pixels, max_pixels=max_pixels)
    images = [picture(*size) for size in SIZES]
    found = encode(processor, images, "How?", STEPS)
    theirs = stock(images, return_tensors="pt")
    assert found.vision["pixel_values"].dtype == torch.uint8
    seen = normalised(processor, found.vision)
    assert seen["image_grid_thw"].equal(theirs["image_grid_thw"])
    assert seen["pixel_values"].equal(theirs["pixel_values"])
    patches_PD = np.concatenate([expected_patches(image, min_pixels, max_pixels) for image in images])
    np.testing.assert_allclose(seen["pixel_values"].numpy(), patches_PD, atol=1e-5)
    assert int((found.input_ids == processor.image_id).sum()) * 4 == len(patches_PD)


def test_a_picture_too_narrow_for_qwen_is_one_line_that_names_the_rollout(
    internvl: Any, qwen: Any, picture: Picture, tmp_path: Path
) -> None:
    picture(401, 2).save(tmp_path / "a.png")
    record = {"id": "set:3", "images": ["a.png"], "question": "How?", "steps": STEPS, "scores": [1.0, 0.5]}
    record |= {"n_total": [16, 16], "question_hash": 7}

    def read(processor: Any) -> Any:
        records: Any = [record]
        examples = Examples(records, lambda name: tmp_path / name, processor)
        assert examples.layout(0).id == "set:3"
        return examples.__getitems__([(0, 1.0)])[0]

    with pytest.raises(ValueError, match=r"^rollout set:3 cannot be encoded: [^\n]*200[^\n]*; remove it and [^\n]*$"):
        read(qwen[0])
    assert read(internvl[0]).id == "set:3"
    picture(400, 2).save(tmp_path / "a.png")
    assert read(qwen[0]).id == "set:3"


def test_several_pictures_of_one_rollout_keep_their_order(
    qwen: Any, internvl: Any, internvl_folder: Path, picture: Picture
) -> None:
    sizes = [(56, 84), (3, 200), (140, 60)]

    def pixels(processor: QwenProcessor | InternVLProcessor, images: Sequence[Image.Image]) -> np.ndarray:
        return encode(processor, images, "How?", STEPS).vision["pixel_values"].numpy()

    images = [picture(*size) for size in sizes]
    assert np.array_equal(pixels(qwen[0], images), np.concatenate([pixels(qwen[0], [image]) for image in images]))
    two_tiles_each = InternVL(path=str(internvl_folder), max_tiles=2).load()[0]
    internvl_tiles = [pixels(two_tiles_each, [image]) for image in images]
    assert np.array_equal(pixels(internvl[0], images), np.concatenate(internvl_tiles))
