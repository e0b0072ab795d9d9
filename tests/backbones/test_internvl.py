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

from mprm.backbones.internvl import InternVLProcessor
from mprm.batching.collate import collate
from mprm.batching.examples import MARK
from tests.encoding import encode, normalised

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
    pixels = normalised(oracle, example.vision)["pixel_values"].numpy()
    published = np.load(ORACLE / "pixel_values.npz")
    assert pixels.shape[0] == case["n_tiles"]
    np.testing.assert_allclose(pixels, published[published.files[number]], atol=1e-6)


def test_numbers_of_tiles_are_the_published_ones(oracle: InternVLProcessor) -> None:
    table = json.loads((ORACLE / "tile_grids.json").read_text())
    assert table["columns"] == ["width", "height", "max_num", "columns", "rows"]
    assert len(table["rows"]) > 100
    for width, height, max_tiles, columns, rows in table["rows"]:
        processor = InternVLProcessor(oracle.tokenizer, oracle.mark_id, 448, 256, "", max_tiles)
        n_tiles = columns * rows + (columns * rows > 1)
        assert processor.image_grid((width, height), 1) == (n_tiles, 256), (width, height, max_tiles)


def test_a_wide_image_becomes_tiles_from_left_to_right_and_a_thumbnail(oracle: InternVLProcessor) -> None:
    pixels = np.zeros((56, 168, 3), dtype=np.uint8)
    pixels[:, 56:112], pixels[:, 112:] = 100, 200
    tiles_THW = oracle.vision([Image.fromarray(pixels)])["pixel_values"][:, 0].numpy()
    assert tiles_THW.shape == (4, 56, 56)
    assert tiles_THW[:3, 28, 28].tolist() == [0, 100, 200]
    assert tiles_THW[3, 28, [0, 28, 55]].tolist() == pytest.approx([0, 100, 200], abs=10)


def test_several_images_share_the_tiles_and_come_one_line_each(internvl: Any, picture: Picture) -> None:
    processor, _ = internvl
    example = encode(processor, [picture(300, 100), picture(100, 300)], "Which?", STEPS)
    assert processor.images.max_patches == 6
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
        logits = hf(input_ids=example.input_ids[None], **normalised(processor, example.vision)).logits
        ours = model(collate([example])).logits_M2
    torch.testing.assert_close(ours, logits[0, example.marks][:, verdicts], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("sizes", [[(56, 56)], [(300, 100), (100, 300)], [(640, 480)] * 3, [(57, 900)]])
def test_a_layout_has_a_token_for_every_feature(internvl: Any, picture: Picture, sizes: list[tuple[int, int]]) -> None:
    processor, model = internvl
    example = encode(processor, [picture(*size) for size in sizes], "Which?", STEPS)
    assert example.input_ids.equal(processor.layout(sizes, "Which?", STEPS).input_ids)
    n_tokens = int((example.input_ids == model.hf.config.image_token_id).sum())
    assert n_tokens == len(example.vision["pixel_values"]) * processor.tokens_per_tile
    assert len(model.image_embeddings(model.pixels(example.vision))) == n_tokens
