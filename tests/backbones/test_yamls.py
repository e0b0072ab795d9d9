"""Every YAML of a real backbone, on a tiny random model of its architecture: two steps of training, scores, export, and
the same scores from plain transformers and from the exported folder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from mprm.backbones.auto import Auto
from mprm.config import bind
from mprm.runs.run_folder import CHECKOUT
from mprm.training.checkpoint import export
from tests.backbones.families import FAMILIES, LANGUAGE_MODELS, Family, _internvl, write, write_language_model
from tests.backbones.test_families import plain_scores, scores, texts, train_two_steps
from tests.backbones.test_packed import encoded

INTERNLM2 = Family(_internvl, "internvl", {"model_type": "llama"})  # what transformers' format has in its place
ARCHITECTURES = {
    "auto": FAMILIES["qwen2_5_vl"],
    "internvl2_5_1b": FAMILIES["internvl"],
    "internvl2_5_2b": INTERNLM2,
    "internvl2_5_4b": FAMILIES["internvl"],
    "internvl2_5_8b": INTERNLM2,
    "internvl3_2b": FAMILIES["internvl"],
    "internvl3_8b": FAMILIES["internvl"],
    "llava_onevision_7b": FAMILIES["llava_onevision"],
    "qwen2_5_math_7b": LANGUAGE_MODELS["qwen2"],
    "qwen2_5_vl_3b": FAMILIES["qwen2_5_vl"],
    "qwen2_5_vl_7b": FAMILIES["qwen2_5_vl"],
    "qwen3_4b": LANGUAGE_MODELS["qwen3"],
    "qwen3_vl_2b": FAMILIES["qwen3_vl"],
    "qwen3_vl_4b": FAMILIES["qwen3_vl"],
    "qwen3_vl_8b": FAMILIES["qwen3_vl"],
    "smolvlm_2b": FAMILIES["smolvlm"],
}
FOLDER = CHECKOUT / "mprm" / "conf" / "backbone"


def test_no_yaml_is_forgotten() -> None:
    assert set(ARCHITECTURES) == {path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith("chartworld")}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_is_trained_used_and_exported(name: str, picture: Any, tmp_path: Path) -> None:
    architecture, folder, out = ARCHITECTURES[name], tmp_path / "folder", tmp_path / "out"
    is_text = not isinstance(architecture, Family)
    if isinstance(architecture, Family):
        write(architecture, folder)
    else:
        write_language_model(architecture, folder)
    node: Any = OmegaConf.load(FOLDER / f"{name}.yaml").backbone
    tiny_has = {"path": str(folder), "dtype": "float32", "max_length": 2048, "longest_edge": 112}
    node.update({key: value for key, value in tiny_has.items() if key == "path" or node.get(key)})
    component = bind(node)
    torch.manual_seed(0)
    processor, model = component.load()
    examples = texts(processor) if is_text else encoded(processor, picture)
    before = scores(model, examples)
    train_two_steps(model, examples)
    expected = scores(model, examples)
    assert (expected - before).abs().max() > 0.01
    export(model, processor, component, out, "hf")
    stock = AutoModelForCausalLM if is_text else AutoModelForImageTextToText
    torch.testing.assert_close(plain_scores(out, processor, examples, stock), expected, atol=1e-5, rtol=0)
    processor, model = Auto(path=str(out)).load()
    again = texts(processor) if is_text else encoded(processor, picture)
    torch.testing.assert_close(scores(model, again), expected, atol=1e-5, rtol=0)
