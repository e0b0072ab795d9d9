"""Model folders on disk: what is wrong with one is said in one line."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

PROMPT = "mprm.json"  # of an exported folder: the options of the prompt it was trained with


def check_folder(path: str | None, model_types: tuple[str, ...]) -> Path:
    """The folder as a Path. Raises ValueError if it is not given, not there, or holds another architecture."""
    if path is None:
        raise ValueError(f"backbone.path is not set; give the folder of the downloaded {model_types[0]} weights")
    folder = Path(path)
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(f"backbone.path={path} has no config.json; give the folder of the downloaded weights")
    try:
        found = json.loads(config.read_text()).get("model_type")
    except ValueError as error:
        raise ValueError(f"{config} is not JSON ({error}); download it again") from None
    if found not in model_types:
        wanted = " or ".join(repr(name) for name in model_types)
        raise ValueError(f"backbone.path={path} holds model_type {found!r}, not {wanted}; choose another backbone=")
    return folder


def check_prompt(folder: Path, options: dict[str, Any]) -> None:
    """Raises ValueError if an exported folder was trained with other options, with which it would score wrongly."""
    if not (folder / PROMPT).is_file():
        return
    for name, trained in json.loads((folder / PROMPT).read_text()).items():
        if options.get(name) != trained:
            raise ValueError(
                f"backbone.{name}={options.get(name)!r}, but backbone.path={folder} was trained with {trained!r}; give "
                f"the backbone= it was trained with, or delete its {PROMPT} to train it anew"
            )


def load_hf(model_class: Any, folder: Path, dtype: torch.dtype | None) -> PreTrainedModel:
    """transformers' model, its weights as stored or in `dtype`.

    Raises ValueError if weights are missing or a file is cut off: transformers would draw the missing ones at random.
    """
    try:
        hf, loaded = model_class.from_pretrained(folder, dtype=dtype or "auto", output_loading_info=True)
    except SafetensorError as error:
        raise ValueError(f"backbone.path={folder} has a broken safetensors ({error}); download it again") from None
    except OSError as error:
        raise ValueError(f"backbone.path={folder} has no weights ({error}); download them") from None
    if missing := sorted(loaded["missing_keys"]):
        raise ValueError(f"backbone.path={folder}: the weights have no {missing[0]}; download the folder anew")
    return hf
