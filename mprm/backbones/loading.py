"""Model folders on disk: what is wrong with one is said in one line."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils import logging

DECODER_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
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


def load_hf(model_class: Any, folder: Path, dtype: torch.dtype | None, max_length: int) -> PreTrainedModel:
    """transformers' model, its weights as stored or in `dtype`.

    Raises ValueError if weights are missing or a file is cut off: transformers would draw the missing ones at random;
    or if what is computed here of texts of max_length tokens is not what the language model says.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        hf, loaded = model_class.from_pretrained(folder, dtype=dtype or "auto", output_loading_info=True)
    except SafetensorError as error:
        raise ValueError(f"backbone.path={folder} has a broken safetensors ({error}); download it again") from None
    except OSError as error:
        raise ValueError(f"backbone.path={folder} has no weights ({error}); download them") from None
    if missing := sorted(loaded["missing_keys"]):
        raise ValueError(f"backbone.path={folder}: the weights have no {missing[0]}; download the folder anew")
    check_language_model(hf.model.language_model, folder, max_length)
    return hf


def check_language_model(model: Any, folder: Path, max_length: int) -> None:
    """Raises ValueError if attention.py and base.MarksOnly, which compute whole segments and a layer of four parts,
    would compute something else than the model."""
    kinds = set(getattr(model.config, "layer_types", None) or ["sliding_attention"])  # Mistral's has a window or none
    window = getattr(model.config, "sliding_window", None) if "sliding_attention" in kinds else None
    if window is not None and window < max_length:
        raise ValueError(
            f"backbone.path={folder}: its language model looks back {window} tokens (sliding_window), less than "
            f"backbone.max_length={max_length}, but here all of a solution is seen; give backbone.max_length={window}"
        )
    others = sorted(kinds - {"full_attention", "sliding_attention"})
    for layer in model.layers:
        others += sorted(dict(layer.named_children()).keys() ^ DECODER_LAYER)
        # Granite scales what it adds to the residual stream, GPT-OSS has a weight for attending to nothing.
        others += [name for name, value in vars(layer).items() if isinstance(value, float)]
        others += [name for name, _ in layer.self_attn.named_parameters(recurse=False)]
    if others:
        raise ValueError(
            f"backbone.path={folder}: the layers of its {type(model).__name__} differ from Llama's and Qwen2's in "
            f"{others[0]}, which would not be computed; choose a backbone with such layers"
        )


def check_dropout(hf: PreTrainedModel) -> None:
    """Raises ValueError if a training would leave out the attention's dropout."""
    dropout = getattr(hf.config.text_config, "attention_dropout", 0.0)
    if dropout:
        raise ValueError(
            f"backbone.path={hf.config.name_or_path}: its language model has attention_dropout={dropout}, which is not "
            "computed in training; set it to 0 in its config.json"
        )
