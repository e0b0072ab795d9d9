"""LLaVA-OneVision and SmolVLM: how they cut images, what stands for them in the prompt, and their turns."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jinja2 import Template
from PIL import Image
from transformers import Idefics3Config, LlavaOnevisionProcessor
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE, get_image_prompt_string

from mprm.backbones.llava_onevision import LlavaOneVision
from mprm.backbones.smolvlm import SmolVLM
from mprm.batching.collate import collate
from mprm.training.checkpoint import export
from tests.backbones.families import EDGE, FAMILIES, Family, _smolvlm, write
from tests.encoding import encode, normalised

AROUND, END = "<fake_token_around_image>", "<end_of_utterance>"
SIZES = [(56, 56), (57, 56), (300, 100), (100, 300), (640, 480), (3, 5), (900, 2), (2, 900), (112, 113), (1000, 333)]
Picture = Callable[[int, int], Image.Image]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}
    kinds = {**FAMILIES, "idefics3": Family(partial(_smolvlm, Idefics3Config), "smolvlm", {}, options=EDGE)}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            write(kinds[name], made[name])
        return made[name]

    return folder


@pytest.fixture(scope="module")
def onevision(folder: Any) -> Any:
    return LlavaOneVision(path=str(folder("llava_onevision")), system="Be kind.").load()


@pytest.fixture(scope="module")
def smolvlm(folder: Any) -> Any:
    return SmolVLM(path=str(folder("smolvlm")), longest_edge=112, system="Be kind.").load()


@pytest.mark.parametrize("family", ["onevision", "smolvlm"])
@pytest.mark.parametrize("sizes", [*([size] for size in SIZES), SIZES[2:5]], ids=str)
def test_there_is_a_token_for_every_feature(
    family: str, sizes: list[tuple[int, int]], picture: Picture, request: pytest.FixtureRequest
) -> None:
    processor, model = request.getfixturevalue(family)
    example = encode(processor, [picture(*size) for size in sizes], "Which?", ["red is 4."])
    assert example.input_ids.equal(processor.layout(sizes, "Which?", ["red is 4."]).input_ids)
    with torch.inference_mode():
        assert len(model.image_embeddings(model.pixels(example.vision))) == int(
            (example.input_ids == processor.image_id).sum()
        )


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_tokens_of_llava_onevision_are_as_many_as_transformers_counts(
    onevision: Any, size: tuple[int, int]
) -> None:
    processor, _ = onevision
    theirs = SimpleNamespace(
        image_processor=processor.images, num_image_tokens=16, vision_aspect_ratio=processor.config.vision_aspect_ratio
    )
    theirs._get_unpadded_features = partial(LlavaOnevisionProcessor._get_unpadded_features, theirs)
    count = LlavaOnevisionProcessor._get_number_of_features(theirs, size[1], size[0], 56, 56)
    assert processor.image_grid(size, 1) == (1, count)
    assert processor.image_grid(size, 2) == (1, 17)  # the whole image, and the end of its only row


def test_an_unpadded_grid_by_hand(onevision: Any) -> None:
    """100 x 50 pixels fill 1 x 2 tiles of 4 x 4 tokens; 100 x 30 fill 2.4 of 4 rows, one is left out on each side."""
    processor, _ = onevision
    assert processor.image_grid((100, 50), 1) == (1, 16 + 4 * (8 + 1))
    assert processor.image_grid((100, 30), 1) == (1, 16 + 2 * (8 + 1))
    assert processor.image_grid((100, 40), 1) == (1, 16 + 4 * (8 + 1))  # 3.2 rows: the half row of padding stays
    # 2 x 2 tiles show 64 tokens, twice the most, 32: 8 rows and columns over the root of 2.
    assert processor.image_grid((112, 112), 1) == (1, 16 + 5 * (5 + 1))


def test_fewer_tiles_are_what_transformers_does_with_the_exported_folder(
    folder: Any, picture: Picture, tmp_path: Path
) -> None:
    component = LlavaOneVision(path=str(folder("llava_onevision")), max_tiles=2)
    processor, model = component.load()
    assert processor.image_grid((112, 112), 1) == (1, 16 + 4 * (4 + 1))  # 2 x 2 tiles are too many, 1 shows it
    assert len(processor.vision([picture(112, 112)])["pixel_values"]) == 2
    example = encode(processor, [picture(120, 110)], "Which?", ["red is 4."])
    with torch.inference_mode():
        expected = model.eval()(collate([example])).logits_M2
        export(model, processor, component, tmp_path / "out", "hf")
        hf = type(model.hf).from_pretrained(tmp_path / "out").eval()
        logits = hf(input_ids=example.input_ids[None], **normalised(processor, example.vision)).logits[0, example.marks]
    torch.testing.assert_close(logits[:, model.verdict_ids], expected, atol=1e-5, rtol=0)
    found = type(processor.images).from_pretrained(tmp_path / "out")
    assert found.image_grid_pinpoints == processor.config.image_grid_pinpoints == [[56, 56], [56, 112], [112, 56]]


class WithoutVideos(LlavaOnevisionProcessor):
    """What AutoProcessor makes of the folder, but for the videos' part, which takes torchvision."""

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        num_image_tokens: int,
        vision_feature_select_strategy: str,
        vision_aspect_ratio: str,
        chat_template: str | None = None,
    ) -> None:
        counted = num_image_tokens, vision_feature_select_strategy, chat_template
        super().__init__(image_processor, tokenizer, None, *counted, vision_aspect_ratio=vision_aspect_ratio)


def test_transformers_processor_reads_the_exported_folder(folder: Any, picture: Picture, tmp_path: Path) -> None:
    source = shutil.copytree(folder("llava_onevision"), tmp_path / "source")
    (source / "chat_template.json").write_text('{"chat_template": "{{ messages }}"}')
    component = LlavaOneVision(path=str(source))
    processor, model = component.load()
    export(model, processor, component, tmp_path / "out", "hf")
    text = "<|im_start|>user\n<image>\nWhich?<|im_end|>\n<|im_start|>assistant\n"
    theirs = WithoutVideos.from_pretrained(tmp_path / "out")
    assert theirs.chat_template == "{{ messages }}"
    found = theirs(images=[[picture(120, 30)]], text=[text], return_tensors="pt")
    assert found["input_ids"][0].equal(processor.ask([(120, 30)], "Which?").input_ids)
    seen = normalised(processor, processor.vision([picture(120, 30)]))
    assert found["pixel_values"][0].equal(seen["pixel_values"])


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_image_of_smolvlm_is_written_as_transformers_writes_it(
    smolvlm: Any, picture: Picture, size: tuple[int, int]
) -> None:
    processor, _ = smolvlm
    found = processor.images(picture(*size), return_row_col_info=True, return_tensors="pt")
    grid = found["rows"][0][0], found["cols"][0][0]
    assert processor.image_grid(size, 1) == grid
    text = get_image_prompt_string(*grid, 4, AROUND, "<image>", "<global-img>")
    assert processor.image_token_ids(grid) == processor.tokenizer.encode(text, add_special_tokens=False)


def test_an_image_that_is_seen_as_a_whole_only(folder: Any, picture: Picture) -> None:
    processor, _ = SmolVLM(path=str(folder("smolvlm")), longest_edge=56).load()
    assert processor.image_grid((300, 100), 1) == (0, 0)
    text = processor.tokenizer.decode(processor.image_token_ids((0, 0)))
    assert text == f"{AROUND}<global-img>{'<image>' * 4}{AROUND}"
    assert processor.vision([picture(300, 100), picture(9, 9)])["pixel_values"].shape == (2, 1, 3, 56, 56)


def test_the_turns_of_smolvlm_are_those_of_its_template(smolvlm: Any) -> None:
    processor, _ = smolvlm
    said = {"role": "system", "content": [{"type": "text", "text": "Be kind."}]}
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\nWhich?"}]}
    text = Template(DEFAULT_CHAT_TEMPLATE).render(messages=[said, asked], add_generation_prompt=True)
    image = processor.tokenizer.decode(processor.image_token_ids((2, 2)))
    found = processor.tokenizer.decode(processor.ask([(60, 60)], "Which?").input_ids)
    assert found == text.replace("<image>", image)
    laid_out = processor.tokenizer.decode(processor.layout([(60, 60)], "Which?", ["red is 4."]).input_ids)
    assert laid_out == (
        f"<|im_start|>System: Be kind.{END}\nUser:{END}\nAssistant:{image}\nQuestion: Which?\n"
        f"Process: red is 4.<prm>{END}\n"
    )
    assert processor.turn_end_id == processor.tokenizer.convert_tokens_to_ids(END)


def test_idefics3_is_read_too(folder: Any, stock: Any, picture: Picture) -> None:
    component = SmolVLM(path=str(folder("idefics3")), longest_edge=112)
    processor, model = component.load()
    images = [picture(60, 50)], [picture(200, 80), picture(20, 30)]
    examples = [encode(processor, one, "Which?", ["red is 4.", "So 4."]) for one in images]
    with torch.inference_mode():
        ours, theirs = model.eval()(collate(examples)).logits_M2, stock(model, component).logits(examples)
    assert theirs.std() > 0.03
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def test_what_no_layer_is_read_of_is_not_trained(folder: Any) -> None:
    _, model = replace(LlavaOneVision(path=str(folder("llava_onevision"))), vision="trained").load()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {
        *(f"hf.model.vision_tower.post_layernorm.{kind}" for kind in ("weight", "bias")),
        "hf.lm_head.weight",
    }


def test_wrong_settings_and_folders_are_one_line(folder: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^backbone\.max_tiles=0 is not positive; try 4, or 36 for all$"):
        LlavaOneVision(max_tiles=0)
    path = folder("smolvlm")
    for edge in (60, 28):
        with pytest.raises(
            ValueError, match=rf"^backbone\.longest_edge={edge} is no multiple of 56, .*; try 224, or 56"
        ):
            SmolVLM(path=str(path), longest_edge=edge).load()
    shutil.copytree(folder("llava_onevision"), tmp_path / "copy")
    for name in ("preprocessor_config.json", "processor_config.json"):
        (tmp_path / "copy" / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"copy: it has no preprocessor_config\.json; download the folder anew$"):
        LlavaOneVision(path=str(tmp_path / "copy")).load()
