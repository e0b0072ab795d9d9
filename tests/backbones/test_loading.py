"""Folders that are not whole are refused in one line, before anything is computed with them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from mprm.backbones.internvl import InternVL

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
    "the config is broken": (broken_config, r"^\S+config\.json is not JSON \(.*\); download it again$"),
    "it had another prompt": (another_prompt, r"^backbone\.system='', but .* was trained with 'Be kind\.'; give the"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("original", [False, True], ids=["hf", "original"])
def test_a_damaged_folder_is_one_line(internvl_folder: Path, tmp_path: Path, damage: str, original: bool) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(ORIGINAL if original else internvl_folder, folder)
    InternVL(path=str(folder)).load()
    harm, line = DAMAGES[damage]
    harm(folder)
    with pytest.raises(ValueError, match=line) as caught:
        InternVL(path=str(folder)).load()
    assert "\n" not in str(caught.value).strip()
