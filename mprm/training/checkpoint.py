"""Checkpoints that are whole or not there, and the trained weights."""

from __future__ import annotations

import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from safetensors.torch import load_file, save_file
from torch import nn

from mprm.backbones.base import StepModel
from mprm.runs.artifacts import atomic_file, is_rank_zero, reading, remove

_STEP = re.compile(r"step-(\d+)\.ckpt")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint, written beside its place, synced and renamed; read without unpickling code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        with reading(path, "delete it, and the training goes on from the one before it, or from the start"):
            return torch.load(path, map_location=map_location or "cpu", weights_only=True)


def latest(folder: Path) -> tuple[Path | None, int]:
    """The newest checkpoint, a file or DeepSpeed's folder, and its optimizer step; (None, 0) when there is none.

    Both get their name by a rename when they are whole; a killed process leaves another name.
    """
    step, path = max(checkpoints(folder), default=(0, None))
    return path, step


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Optimizer step and path of every whole checkpoint."""
    return [(int(match[1]), path) for path in folder.glob("*.ckpt") if (match := _STEP.fullmatch(path.name))]


def recount(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Make a checkpoint count forward passes as a training does that has `accumulate` of them in an optimizer step.

    Lightning resumes by that count, which is another one for other devices or another trainer.max_tokens. What was
    done of a step in whose middle the checkpoint was written does not count: it is done again.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts.update(dict.fromkeys(counts, checkpoint["global_step"] * accumulate))


def prune(folder: Path, keep: int) -> None:
    """Remove all checkpoints but the newest `keep`."""
    for _, path in sorted(checkpoints(folder), reverse=True)[keep:]:
        remove(path)


def save_weights(model: nn.Module, path: Path) -> None:
    """The trained parameters in float32, by name; the frozen ones stay in the backbone's folder.

    Call it on every rank: DeepSpeed's float32 copies, of which the model has bfloat16 ones, are sharded, and each is
    gathered for the moment in which rank 0, which writes the file, copies it to the CPU.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            whole = _whole(parameter)
            if is_rank_zero():
                tensors[name] = whole.to("cpu", torch.float32).contiguous()
    if is_rank_zero():
        with atomic_file(path) as temporary:
            save_file(tensors, temporary)


def _whole(parameter: nn.Parameter) -> torch.Tensor:
    if not hasattr(parameter, "ds_id") and not hasattr(parameter, "_hp_mapping"):  # DeepSpeed's marks
        return parameter.detach()
    from deepspeed.utils import safe_get_full_fp32_param

    whole: torch.Tensor = safe_get_full_fp32_param(parameter)
    return whole


def load_weights(model: StepModel, path: Path) -> None:
    """Put trained parameters back; the model has a kappa head if they have.

    Raises ValueError if they belong to another backbone.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing; train first (task=train), or name another run")
    with reading(path):
        tensors = load_file(path)
    model.set_kappa("kappa.weight" in tensors)
    put_back(model, tensors, path)


def load_checkpoint(model: StepModel, path: Path) -> None:
    """load_weights for a checkpoint: a file, or the folder of DeepSpeed's shards.

    Raises ValueError if it is not there or belongs to another backbone.
    """
    if path.is_dir():
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        state = get_fp32_state_dict_from_zero_checkpoint(str(path), tag="checkpoint", exclude_frozen_parameters=True)
    elif path.is_file():
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
        except (RuntimeError, KeyError, UnpicklingError, EOFError):
            raise ValueError(f"checkpoint={path} is none, or not whole; give one of runs/NAME/checkpoints") from None
    else:
        raise ValueError(f"checkpoint={path} is not there; give one of runs/NAME/checkpoints")
    model.set_kappa("model.kappa.weight" in state)
    names = {f"model.{name}": name for name, p in model.named_parameters() if p.requires_grad}
    put_back(model, {name: state[full] for full, name in names.items() if full in state}, path)


def put_back(model: nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Copy trained parameters, from `path`, into the model's own, in their type."""
    parameters = dict(model.named_parameters())
    wanted = {name for name, parameter in parameters.items() if parameter.requires_grad}
    for name in sorted(wanted | set(tensors)):
        found = tuple(tensors[name].shape) if name in tensors else None
        if name not in parameters or found != tuple(parameters[name].shape):
            raise ValueError(f"{path} and this backbone differ in {name}; choose the backbone= it was trained from")
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
