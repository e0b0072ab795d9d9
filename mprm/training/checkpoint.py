"""Checkpoints that are whole or not there, and the trained weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from safetensors.torch import load_file, save_file
from torch import nn

from mprm.artifacts import atomic_file

_STEP = re.compile(r"step=(\d+)\.ckpt$")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint, written beside its place, synced and renamed; read without unpickling code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)


def latest(folder: Path) -> tuple[Path | None, int]:
    """The newest checkpoint and its optimizer step; (None, 0) when there is none."""
    found = [(int(match[1]), path) for path in folder.glob("*.ckpt") if (match := _STEP.search(path.name))]
    step, path = max(found, default=(0, None))
    return path, step


def save_weights(model: nn.Module, path: Path) -> None:
    """The trained parameters, by name; the frozen ones stay in the backbone's folder."""
    tensors = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary)


def load_weights(model: nn.Module, path: Path) -> None:
    """Put trained parameters back. Raises ValueError if they belong to another backbone."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; train first (task=train), or name another run")
    tensors = load_file(path)
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        if name not in parameters or parameters[name].shape != tensor.shape:
            raise ValueError(
                f"{path} holds {name} {tuple(tensor.shape)}, which this backbone has not; choose its backbone="
            )
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
