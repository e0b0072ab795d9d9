"""A trained step model as a folder that transformers, or the published evaluation script, reads by itself."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from mprm.backbones.base import Backbone, Processor, StepModel
from mprm.backbones.heads import KAPPA
from mprm.backbones.internvl_original import is_original, write_original
from mprm.backbones.loading import PROMPT
from mprm.backbones.parts import merge_adapters
from mprm.batching.prompt import MARK
from mprm.runs.artifacts import atomic_folder, write_json


def export(model: StepModel, processor: Processor, backbone: Backbone, folder: Path, layout: str) -> None:
    """Write the model into `folder`, in place of what is there; the model is not a step model any more.

    layout: hf, for transformers' AutoModelForImageTextToText, or original, OpenGVLab's, which the backbone's own folder
    must then be in. The weights have the type of the language model's. A kappa head has a file of its own, which other
    software passes over.
    Raises ValueError if the backbone's folder is no original.
    """
    source = backbone.folder()
    if layout == "original" and not is_original(source):
        raise ValueError(f"format=original: backbone.path={source} is not in OpenGVLab's format; use format=hf")
    hf = fold(model)
    with atomic_folder(folder) as temporary:
        if layout == "original":
            write_original(hf, source, temporary)
            name_mark(temporary, model.mark_id)
        else:
            logging.getLogger("DeepSpeed").disabled = True  # loaded by transformers, it tells that there is no GPU
            hf.save_pretrained(temporary)
            processor.save(temporary)
        if model.kappa is not None:
            save_file(model.kappa.state_dict(), temporary / KAPPA)
        write_json(temporary / PROMPT, backbone.prompt())


def fold(model: StepModel) -> PreTrainedModel:
    """The transformers model with all that was trained written into it: adapters, the mark's row, the verdicts' rows.

    Tied tables come apart: the head has learnt rows of its own, and the same rows of the embedding stay what they were.
    A judge has learnt in the LM head itself, and its tables stay tied.
    """
    merge_adapters(model)
    hf: Any = model.hf
    with torch.no_grad():
        table_VD = hf.get_input_embeddings().weight
        if hf.get_output_embeddings().weight is table_VD and not model.speaks:
            hf.get_output_embeddings().weight = nn.Parameter(table_VD.clone())
            hf.config.tie_word_embeddings = hf.config.text_config.tie_word_embeddings = False
        if model.mark_id >= len(table_VD):
            hf.resize_token_embeddings(model.mark_id + 1, mean_resizing=False)
            head_VD = hf.get_output_embeddings().weight
            head_VD[model.mark_id] = head_VD[: model.mark_id].mean(0)
        hf.get_input_embeddings().weight[model.mark_id] = model.mark_D
        if not model.speaks:
            hf.get_output_embeddings().weight[list(model.head.verdict_ids)] = model.head.weight.to(table_VD.dtype)
    return hf


def name_mark(folder: Path, mark_id: int) -> None:
    """Add the mark to the tokenizer's files of an original folder, each where it lists added tokens."""
    entry = {"content": MARK, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    for name, key in (
        ("added_tokens.json", None),
        ("tokenizer_config.json", "added_tokens_decoder"),
        ("tokenizer.json", "added_tokens"),
    ):
        path = folder / name
        if not path.is_file() or MARK in path.read_text(encoding="utf-8"):
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        if key is None:
            content[MARK] = mark_id
        elif key == "added_tokens":
            content[key].append({"id": mark_id, **entry, "special": True})
        else:
            content.setdefault(key, {})[str(mark_id)] = {**entry, "special": True}
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
