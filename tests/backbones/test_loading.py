"""Folders that are not whole are refused in one line, before anything is computed with them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import InternVLConfig, InternVLForConditionalGeneration

from mprm.backbones.internvl import InternVL
from mprm.backbones.loading import check_language_model

ORIGINAL = Path(__file__).parents[1] / "oracle_data" / "internvl" / "checkpoint"


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "layers.1" in name and "norm" in name)
    save_file({key: value for key, value in tensors.items() if key != name}, folder / "model.safetensors")


def cut_off(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


def another_prompt(folder: Path) -> None:
    (folder / "mprm.json").write_text(json.dumps({"system": "Be kind."}))


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a tensor is missing": (
        without_a_tensor,
        r"^backbone\.path=\S+: the weights have no \S+norm\S*; download the folder",
    ),
    "a file is cut off": (cut_off, r"^backbone\.path=\S+ .*broken.*; download it again$"),
    "there are no weights": (without_weights, r"^backbone\.path=\S+ has no .*"),
    "the config is broken": (broken_config, r"^\S+config\.json cannot be read \(.*\); download it again$"),
    "it had another prompt": (another_prompt, r"^backbone\.system='', but .* was trained with 'Be kind\.'; give the"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("original", [False, True], ids=["hf", "original"])
def test_a_damaged_folder_is_one_line(internvl_folder: Path, tmp_path: Path, damage: str, original: bool) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(ORIGINAL if original else internvl_folder, folder)
    backbone = InternVL(path=str(folder), max_length=2048)
    backbone.load()
    harm, line = DAMAGES[damage]
    harm(folder)
    with pytest.raises(ValueError, match=line) as caught:
        backbone.load()
    assert "\n" not in str(caught.value).strip()


TEXT = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
TEXT |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 4, "eos_token_id": 4}
TURNED = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, "max_position_embeddings": 16}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
LONG |= {"original_max_position_embeddings": 16}
WINDOW = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}  # in the second layer
COMPUTED: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": None},
    "qwen3_moe": {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2},
    "qwen2 with positions turned otherwise in longer texts": TURNED | {"max_position_embeddings": 17},
    "qwen2 with a window in none of its layers": WINDOW | {"max_window_layers": 2},
    "qwen2 with a window that is wide enough": WINDOW | {"sliding_window": 17},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "qwen2": (
        WINDOW,
        "looks back 16 tokens .* backbone.max_length=17, .*; give backbone.max_length=16 or backbone.exact=fal",
    ),
    "mistral": ({"sliding_window": 16}, "looks back 16 tokens .*; give backbone.max_length=16 or "),
    "gemma3_text": (
        {},
        "Gemma3TextModel differ from Llama's .* in post_feedforward_layernorm, .*; give backbone.exact=false",
    ),
    "glm4": ({}, "Glm4Model differ .* in post_mlp_layernorm, "),
    "olmo2": ({}, "Olmo2Model differ .* in input_layernorm, "),
    "cohere": ({}, "CohereModel differ .* in post_attention_layernorm, "),
    "granite": ({}, "GraniteModel differ .* in residual_multiplier, "),
    "gpt_oss": ({"num_local_experts": 2}, "GptOssModel differ .* in sinks, "),
    "llama4_text": ({}, "Llama4TextModel differ .* in chunked_attention, "),
}


def language_model(kind: str, options: dict[str, Any]) -> Any:
    """The language model of an InternVL that has such a one."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"model_type": kind.split()[0], **TEXT, **options}
    return InternVLForConditionalGeneration(InternVLConfig(vision_config=vision, text_config=text)).model.language_model


@pytest.mark.parametrize("kind", COMPUTED)
def test_a_language_model_that_is_computed_as_it_is(kind: str) -> None:
    check_language_model(language_model(kind, COMPUTED[kind]), Path("DIR"), max_length=17)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_language_model_that_would_be_another_is_one_line(kind: str) -> None:
    options, line = REFUSED[kind]
    model = language_model(kind, options)
    with pytest.raises(ValueError, match=rf"^backbone\.path=DIR: .*{line}"):
        check_language_model(model, Path("DIR"), max_length=17)
    if "sliding_window" in options or options == TURNED:
        check_language_model(model, Path("DIR"), max_length=16)


@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])
def test_a_window_is_refused_when_the_folder_is_loaded(component: Any, tmp_path: Path, family: str) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(component(family).path, folder)
    config = json.loads((folder / "config.json").read_text())
    text = config["text_config"]
    text |= {"model_type": "mistral"} if family == "internvl" else {"use_sliding_window": True, "max_window_layers": 0}
    text.pop("layer_types", None)
    text["sliding_window"] = 100
    (folder / "config.json").write_text(json.dumps(config))
    backbone = replace(component(family), path=str(folder))
    with pytest.raises(ValueError, match=r"folder: its language model looks back 100 tokens"):
        replace(backbone, max_length=101).load()
    replace(backbone, max_length=100).load()


def test_dropout_of_the_attention_is_refused_in_training_only(internvl_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(internvl_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["attention_dropout"] = 0.1
    (folder / "config.json").write_text(json.dumps(config))
    _, model = InternVL(path=str(folder)).load()
    with pytest.raises(
        ValueError, match=r"^backbone\.path=\S+folder: .* attention_dropout=0\.1, .*; set it to 0 in its"
    ):
        model.check_training()
    config["text_config"]["attention_dropout"] = 0
    (folder / "config.json").write_text(json.dumps(config))
    InternVL(path=str(folder)).load()[1].check_training()
