"""What a training needs of the disk, told and checked before it starts."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import nn

from mprm.runs.artifacts import is_rank_zero
from mprm.terminal import say
from mprm.training.memory import readable
from mprm.training.recipe import Machine
from mprm.training.saving import KEPT


def disk_need(model: nn.Module, machine: Machine) -> tuple[int, int]:
    """Bytes of a checkpoint and of the final weights.

    A checkpoint holds what is trained, in float32, and two moments of it; DeepSpeed's in its own precision besides.
    """
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    besides = 0
    if machine.strategy.startswith("deepspeed"):
        besides = 2 if machine.precision.startswith("bf16") else 4
    return (12 + besides) * trained, 4 * trained


def announce_disk(model: nn.Module, machine: Machine, folder: Path) -> None:
    """Print what the training writes into `folder`; raises ValueError if that is more than the disk has left."""
    checkpoint, weights = disk_need(model, machine)
    need = KEPT * checkpoint + weights
    folder.mkdir(parents=True, exist_ok=True)
    written = sum(path.stat().st_size for path in (folder / "checkpoints").rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free + written  # an earlier attempt's checkpoints make room for this one's
    sizes = f"{KEPT} checkpoints of {readable(checkpoint)} and weights of {readable(weights)}, in all {readable(need)}"
    if is_rank_zero():
        say(f"disk: {sizes}; {readable(free)} are free")
    if need > free:
        raise ValueError(
            f"{folder} is on a disk with {readable(free)} free, the training writes {sizes}; free some, or give runs= "
            "on another disk"
        )
