"""InternVL against stock transformers and against the published processing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoTokenizer, InternVLForConditionalGeneration

from mprm.backbones.base import encode
from mprm.backbones.internvl import InternVLProcessor, normalise, tile, tile_grid
from mprm.batching.collate import collate
from mprm.batching.examples import MARK

ORACLE = Path(__file__).parents[1] / "oracle_data" / "internvl"
CASES = json.loads((ORACLE / "cases.json").read_text())
CONFIG = Path(__file__).parents[2] / "conf" / "backbone" / "internvl2_5_8b.yaml"
STEPS = ["red is 4.", "blue is 7.", "The answer is 11."]

Picture = Callable[[int, int], Image.Image]


@pytest.fixture(scope="module")
def oracle() -> InternVLProcessor:
    """The processor of the published recipe, at the tile size of the oracle's checkpoint."""
    backbone = yaml.safe_load(CONFIG.read_text())["backbone"]
    tokenizer = AutoTokenizer.from_pretrained(ORACLE / "checkpoint")
    tokenizer.add_tokens([MARK], special_tokens=True)
    mark_id = tokenizer.convert_tokens_to_ids(MARK)
    return InternVLProcessor(tokenizer, mark_id, 56, 4, backbone["system"], backbone["max_tiles"])


@pytest.mark.parametrize("number", range(len(CASES)))
def test_token_ids_and_pixels_are_the_published_ones(oracle: InternVLProcessor, number: int) -> None:
    case = CASES[number]
    record, train = case["record"], case["train"]
    with Image.open(ORACLE / record["image"]) as image:
        steps = [step["step"] for step in record["steps_with_score"]]
        example = encode(oracle, [image], record["question_orig"], steps)
    assert example.input_ids.tolist() == train["input_ids"]
    assert len(example.marks) == len(train["labels_at_markers"])
    assert example.input_ids[example.marks].eq(oracle.mark_id).all()
    pixels = example.vision["pixel_values"].numpy()
    published = np.load(ORACLE / "pixel_values.npz")
    assert pixels.shape[0] == case["n_tiles"]
    np.testing.assert_allclose(pixels, published[published.files[number]], atol=1e-6)


def test_tile_grids_are_the_published_ones() -> None:
    table = json.loads((ORACLE / "tile_grids.json").read_text())
    assert table["columns"] == ["width", "height", "max_num", "columns", "rows"]
    assert len(table["rows"]) > 100
    for width, height, max_tiles, columns, rows in table["rows"]:
        assert tile_grid(width, height, 448, max_tiles) == (columns, rows), (width, height, max_tiles)


def test_a_square_image_is_cut_only_if_it_has_more_than_half_the_pixels_of_the_tiles() -> None:
    """One tile and two by two fit as well: 0.5 * 4 * 448 * 448 pixels are 633.6 by 633.6."""
    assert tile_grid(633, 633, 448, 6) == (1, 1)
    assert tile_grid(634, 634, 448, 6) == (2, 2)


def test_a_wide_image_becomes_tiles_from_left_to_right_and_a_thumbnail() -> None:
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, 10:20], pixels[:, 20:] = 100, 200
    tiles = tile(Image.fromarray(pixels), 10, 6)
    assert tiles.shape == (4, 10, 10, 3)
    assert [int(part[5, 5, 0]) for part in tiles[:3]] == [0, 100, 200]
    assert tiles[3, 5, [0, 5, 9], 0].tolist() == pytest.approx([0, 100, 200], abs=10)
    assert tile(Image.fromarray(pixels), 10, 1).shape == (1, 10, 10, 3)


def test_grey_palette_and_transparent_images_are_read_as_rgb(picture: Picture) -> None:
    for mode in ("L", "P", "RGBA", "LA", "1", "CMYK"):
        assert tile(picture(20, 20).convert(mode), 10, 1).shape == (1, 10, 10, 3)


def test_normalisation_is_that_of_imagenet() -> None:
    white = normalise(np.full((1, 2, 2, 3), 255, dtype=np.uint8))
    assert white.shape == (1, 3, 2, 2)
    assert white.dtype == np.float32
    np.testing.assert_allclose(white[0, :, 0, 0], [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], 1e-6)


def test_several_images_share_the_tiles_and_come_one_line_each(internvl: Any, picture: Picture) -> None:
    processor, _ = internvl
    example = encode(processor, [picture(300, 100), picture(100, 300)], "Which?", STEPS)
    assert processor.max_tiles == 6
    assert example.vision["pixel_values"].shape[0] == 8  # three tiles and a thumbnail each
    line = "<img>" + "<IMG_CONTEXT>" * 16 + "</img>\n"
    assert (
        processor.tokenizer.decode(example.input_ids).partition("assistant\n")[2].startswith(f"{line}{line}Question:")
    )
    many = encode(processor, [picture(300, 100)] * 8, "Which?", STEPS)
    assert many.vision["pixel_values"].shape[0] == 8  # one tile is the least


def test_step_logits_are_those_of_stock_transformers(
    internvl: Any, component: Any, stock: Any, picture: Picture
) -> None:
    processor, model = internvl
    examples = [
        encode(processor, [picture(60, 50)], "What is red plus blue?", STEPS),
        encode(processor, [picture(300, 100), picture(100, 300)], "Which?", STEPS[:2]),
    ]
    with torch.inference_mode():
        ours = model(collate(examples)).logits_M2
        theirs = stock(model, component("internvl")).logits(examples)
    assert theirs.std() > 0.05
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def test_the_head_is_that_of_the_stock_language_model(
    internvl: Any, component: Any, stock: Any, picture: Picture
) -> None:
    """Logits of the verdicts out of the whole model, head included, as a user of transformers would call it."""
    processor, model = internvl
    example = encode(processor, [picture(60, 50)], "What is red plus blue?", STEPS)
    verdicts = [processor.tokenizer.convert_tokens_to_ids(word) for word in ("No", "Yes")]
    hf = stock(model, component("internvl")).hf
    assert isinstance(hf, InternVLForConditionalGeneration)
    with torch.inference_mode():
        logits = hf(input_ids=example.input_ids[None], pixel_values=example.vision["pixel_values"]).logits
        ours = model(collate([example])).logits_M2
    torch.testing.assert_close(ours, logits[0, example.marks][:, verdicts], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("sizes", [[(56, 56)], [(300, 100), (100, 300)], [(640, 480)] * 3, [(57, 900)]])
def test_a_layout_has_a_token_for_every_feature(internvl: Any, picture: Picture, sizes: list[tuple[int, int]]) -> None:
    processor, model = internvl
    example = encode(processor, [picture(*size) for size in sizes], "Which?", STEPS)
    assert example.input_ids.equal(processor.layout(sizes, "Which?", STEPS).input_ids)
    n_tokens = int((example.input_ids == model.hf.config.image_token_id).sum())
    assert n_tokens == len(example.vision["pixel_values"]) * processor.tokens_per_tile
    assert len(model.image_embeddings(example.vision)) == n_tokens
