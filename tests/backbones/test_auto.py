"""backbone=auto: which family a folder is of, with which options, and what is refused; and what exact=false leaves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mprm.backbones.auto import FAMILIES, Auto, family_of
from mprm.backbones.other import OtherVLM
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL
from mprm.backbones.qwen3_vl import Qwen3VL, Qwen3VLMoE
from mprm.batching.collate import collate
from tests.encoding import encode

CHARTWORLD = Path(__file__).parents[2] / "mprm" / "chartworld" / "weights"
SYSTEM = "You are a helpful assistant."


def folder(path: Path, model_type: str, **prompt: Any) -> str:
    """A folder of that type; `prompt`: what it was trained with."""
    (path / "config.json").write_text(json.dumps({"model_type": model_type}))
    if prompt:
        (path / "mprm.json").write_text(json.dumps(prompt))
    return str(path)


def test_every_family_of_the_table_is_there_and_loads_that_type(tmp_path: Path) -> None:
    for model_type in FAMILIES:
        assert model_type in family_of(folder(tmp_path, model_type)).model_types


def test_what_is_not_given_is_the_familys_own(tmp_path: Path) -> None:
    qwen2_5 = Auto(path=folder(tmp_path, "qwen2_5_vl")).chosen
    assert qwen2_5 == Qwen2_5_VL(path=str(tmp_path), system=SYSTEM)
    qwen3 = Auto(path=folder(tmp_path, "qwen3_vl"), max_pixels=65_536, max_length=99).chosen
    assert qwen3 == Qwen3VL(path=str(tmp_path), max_pixels=65_536, max_length=99)
    assert (qwen3.system, qwen3.min_pixels) == ("", 1024)  # type: ignore[attr-defined]
    assert isinstance(Auto(path=folder(tmp_path, "qwen3_vl_moe")).chosen, Qwen3VLMoE)


def test_an_exported_folder_wants_the_prompt_that_it_was_trained_with(tmp_path: Path) -> None:
    path = folder(tmp_path, "qwen3_vl", system="Be kind.", no="No", yes="Yes", min_pixels=1024, max_pixels=4096)
    assert Auto(path=path).prompt() == json.loads((tmp_path / "mprm.json").read_text())
    assert Auto(path=path, system="Be kind.").folder() == tmp_path
    with pytest.raises(
        ValueError, match=r"^backbone\.max_pixels=9999, but .* was trained with 4096; give the backbone="
    ):
        Auto(path=path, max_pixels=9999).folder()
    with pytest.raises(ValueError, match=r"^backbone\.system='', but .* was trained with 'Be kind\.'; give the"):
        Auto(path=path, system="").folder()


def test_what_was_trained_one_by_one_is_used_so(tmp_path: Path) -> None:
    component = Auto(path=folder(tmp_path, "qwen3_vl"), exact=False)
    assert component.prompt()["exact"] is False
    assert "exact" not in Auto(path=str(tmp_path)).prompt()
    folder(tmp_path, "qwen3_vl", **component.prompt())
    assert component.folder() == tmp_path
    with pytest.raises(
        ValueError,
        match=r"^backbone\.exact=True, but backbone\.path=\S+ was trained with False; give backbone\.exact=false,",
    ):
        Auto(path=str(tmp_path)).folder()


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "another family's option": (
        "qwen3_vl",
        {"max_tiles": 3},
        r"^backbone\.max_tiles=3: Qwen3VL, the family of backbone\.path=\S+, has no such option; leave it out, or",
    ),
    "a wrong value": ("qwen3_vl", {"max_pixels": 5}, r"^backbone\.min_pixels=1024 is not in 1\.\.max_pixels=5; "),
    "an unknown family": (
        "gemma3",
        {},
        r"^backbone\.path=\S+ holds model_type 'gemma3', not one of internvl, .*qwen3_vl.*exact=false$",
    ),
    "no vision-language model": (
        "bert",
        {"exact": False},
        r"^backbone\.path=\S+ holds model_type 'bert', no vision-language model to this transformers; choose another",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_one_line(tmp_path: Path, case: str) -> None:
    model_type, options, line = REFUSED[case]
    with pytest.raises(ValueError, match=line) as caught:
        Auto(path=folder(tmp_path, model_type), **options).folder()
    assert "\n" not in str(caught.value)


def test_a_processor_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    """Whatever transformers says: no torchvision, no tokenizer, no chat template."""
    assert family_of(folder(tmp_path, "gemma3"), exact=False) is OtherVLM
    line = r"\Abackbone\.path=\S+: transformers' processor cannot be used \(\w+: .*\); install what it .*\Z"
    with pytest.raises(ValueError, match=line):
        Auto(path=str(tmp_path), exact=False).load()


@pytest.fixture
def alone() -> Callable[..., Any]:
    return lambda **options: Auto(path=str(CHARTWORLD / "qwen2_5_vl"), system="", exact=False, **options).load()


def test_one_by_one_nothing_is_written(alone: Callable[..., Any]) -> None:
    _, model = alone()
    with pytest.raises(ValueError, match=r"^backbone\.exact=false scores steps and writes no text, as a judge must; "):
        model.train_generation()


def test_dropout_of_the_attention_is_computed_one_by_one(alone: Callable[..., Any], picture: Any) -> None:
    processor, model = alone()
    batch = collate([encode(processor, [picture(56, 56)], "How?", ["red is 4."])])

    def different() -> bool:
        with torch.no_grad():
            return not model.train()(batch).logits_M2.equal(model(batch).logits_M2)

    assert not different()
    model.hf.config.text_config.attention_dropout = 0.5
    for layer in model.language_model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.check_training()
    assert different()
