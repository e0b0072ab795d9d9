"""A trained step model as a folder that transformers, or the published evaluation script, reads by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from mprm.backbones.base import KAPPA, Backbone, StepModel
from mprm.backbones.loading import PROMPT
from mprm.runs.artifacts import atomic_folder, write_json


def export(model: StepModel, processor: Any, backbone: Backbone, folder: Path, layout: str) -> None:
    """Write the model into `folder`, in place of what is there; the model is not a step model any more.

    layout: hf, for transformers' AutoModelForImageTextToText, or original, OpenGVLab's, which the backbone's own folder
    must then be in. A kappa head has a file of its own, which other software passes over.
    Raises ValueError if the backbone cannot write the layout.
    """
    with atomic_folder(folder) as temporary:
        backbone.export(model, processor, temporary, layout)
        if model.kappa is not None:
            save_file(model.kappa.state_dict(), temporary / KAPPA)
        write_json(temporary / PROMPT, backbone.prompt())
