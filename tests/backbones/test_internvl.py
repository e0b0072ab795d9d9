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

from mprm.backbones.internvl import InternVLProcessor, normalise, tile, tile_grid
from mprm.data.collate import collate
from mprm.data.prompt import MARK

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
        example = oracle.encode([image], record["question_orig"], steps)
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
    example = processor.encode([picture(300, 100), picture(100, 300)], "Which?", STEPS)
    assert processor.max_tiles == 6
    assert example.vision["pixel_values"].shape[0] == 8  # three tiles and a thumbnail each
    line = "<img>" + "<IMG_CONTEXT>" * 16 + "</img>\n"
    assert (
        processor.tokenizer.decode(example.input_ids).partition("assistant\n")[2].startswith(f"{line}{line}Question:")
    )
    many = processor.encode([picture(300, 100)] * 8, "Which?", STEPS)
    assert many.vision["pixel_values"].shape[0] == 8  # one tile is the least


def test_step_logits_are_those_of_stock_transformers(internvl: Any, internvl_folder: Path, picture: Picture) -> None:
    processor, model = internvl
    stock = InternVLForConditionalGeneration.from_pretrained(internvl_folder)
    stock.resize_token_embeddings(processor.mark_id + 1, mean_resizing=False)
    stock.load_state_dict(model.hf.state_dict())
    verdicts = [processor.tokenizer.convert_tokens_to_ids(word) for word in ("No", "Yes")]
    rows = [
        processor.encode([picture(60, 50)], "What is red plus blue?", STEPS),
        processor.encode([picture(300, 100), picture(100, 300)], "Which?", STEPS[:2]),
    ]
    batch = collate(rows, processor.pad_id)
    lengths = torch.tensor([len(row.input_ids) for row in rows])
    with torch.inference_mode():
        logits = stock.eval()(
            input_ids=batch.input_ids_BL,
            attention_mask=(torch.arange(batch.input_ids_BL.shape[1]) < lengths[:, None]).long(),
            pixel_values=batch.vision["pixel_values"],
        ).logits
        ours = model.step_logits(batch)
    theirs = logits[batch.mark_row_M, batch.mark_column_M][:, verdicts]
    assert theirs.std() > 0.05
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
