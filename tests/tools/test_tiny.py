"""The tiny backbones' tokenizer and size."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from mprm.chartworld.world import NAMES
from tools import tiny

FAMILIES = pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])


@FAMILIES
def test_numbers_colours_and_verdicts_are_one_token(family: str) -> None:
    tokenizer = tiny.build_tokenizer(family)
    words = [*(f" {number}" for number in range(33)), *(f" {name}" for name in NAMES), "Yes", "No", "\n\n", " ?"]
    words += [*tiny.CHAT_TOKENS, *tiny.IMAGE_TOKENS[family]]
    assert [word for word in words if len(tokenizer.encode(word, add_special_tokens=False)) != 1] == []


@FAMILIES
def test_any_text_survives_the_tokenizer_and_the_folder(family: str, tmp_path: Path) -> None:
    tokenizer = tiny.build_tokenizer(family)
    text = "Frage: 每 √ ü\tred is 4.\n\n\\frac{1}{2}"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    assert again.encode(text) == tokenizer.encode(text)
    assert tiny.build_tokenizer(family).get_vocab() == tokenizer.get_vocab()


@FAMILIES
def test_a_backbone_has_one_to_three_million_parameters(family: str, tmp_path: Path) -> None:
    tiny.build(family, tmp_path)
    parameters = sum(tensor.numel() for tensor in load_file(tmp_path / "model.safetensors").values())
    assert 1e6 < parameters < 3e6
