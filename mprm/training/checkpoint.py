"""What a training leaves on disk: checkpoints, the trained weights, an exported model; each whole or not there."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from safetensors.torch import load_file, save_file
from torch import nn

from mprm.backbones.base import KAPPA, Backbone, StepModel
from mprm.backbones.loading import PROMPT
from mprm.runs.artifacts import (
    JUDGE_FILE,
    REWARD_FILE,
    atomic_file,
    atomic_folder,
    is_rank_zero,
    reading,
    remove,
    write_json,
    write_text,
)
from mprm.training.recipe import Machine
from mprm.training.strategies import INTERRUPTED, SIGNALS_TO_END, disconnect_ranks, in_main_thread

KEPT = 2  # checkpoints

_STEP = re.compile(r"step-(\d+)\.ckpt")


# ---- checkpoints


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint, written beside its place, synced and renamed; read without unpickling code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        with reading(path, "delete it, and the training goes on from the one before it, or from the start"):
            return torch.load(path, map_location=map_location or "cpu", weights_only=True)


def latest(folder: Path) -> tuple[Path | None, int]:
    """The newest whole checkpoint, a file or DeepSpeed's folder, and its optimizer step; (None, 0) without one."""
    step, path = max(checkpoints(folder), default=(0, None))
    return path, step


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Optimizer step and path of every whole checkpoint: what a killed process left half-written has another name."""
    return [(int(match[1]), path) for path in folder.glob("*.ckpt") if (match := _STEP.fullmatch(path.name))]


def prune(folder: Path, keep: int) -> None:
    """Remove all checkpoints but the newest `keep`."""
    for _, path in sorted(checkpoints(folder), reverse=True)[keep:]:
        remove(path)


def recount(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Make a checkpoint count `accumulate` forward passes per optimizer step: Lightning resumes by that count, which
    changes with the devices and trainer.max_tokens. The passes of an unfinished step do not count: they are done again,
    also where one is the last of the training.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    progress["is_last_batch"] = False
    for counts in (progress["total"], progress["current"]):
        counts.update(dict.fromkeys(counts, checkpoint["global_step"] * accumulate))


class Checkpoints(pl.Callback):
    """Writes checkpoints/step-N.ckpt after N optimizer steps, keeps the last two, and writes the weights at the end.

    All ranks agree before every forward pass whether to write, so that they write together: among CPUs, as no device
    must end its work for that. A checkpoint may be written in the middle of a step, whose forward passes are computed
    again on resume. It is not written between two updates on one global batch: the first of them prepares what the
    others need.
    """

    def __init__(self, folder: Path, machine: Machine, start: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self.machine = machine
        self.start = start
        self.clock = clock
        self.handlers = {number: signal.getsignal(number) for number in SIGNALS_TO_END}
        self.heard = 0  # the last signal, to be acted upon between two forward passes
        self.seen = self.written = start

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.global_step != self.start:
            raise ValueError(
                f"{self.folder}: the training would go on from step {trainer.global_step}, but its checkpoint is of "
                f"step {self.start}; remove hpc_ckpt_*.ckpt, which Lightning looks for, from this folder"
            )
        self.ranks = torch.distributed.new_group(backend="gloo") if trainer.world_size > 1 else None
        self.written_at = self.clock()
        module.random_state = torch.get_rng_state()
        if in_main_thread():
            # Lightning's own handlers talk to other ranks, which may be at another place.
            for number in SIGNALS_TO_END:
                signal.signal(number, self.hear)

    def hear(self, number: int, frame: FrameType | None) -> None:
        self.heard = number

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_index: int) -> None:
        step = trainer.global_step
        if step != self.seen:
            self.seen, module.random_state = step, torch.get_rng_state()
        if step % module.updates:
            return
        overdue = trainer.is_global_zero and self.clock() - self.written_at >= 60 * self.machine.checkpoint_minutes
        asked = torch.tensor(max(self.heard, int(overdue)))
        if self.ranks is not None:
            torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX, self.ranks)
        told = int(asked)
        every = self.machine.checkpoint_every
        if (told and step != self.written) or step // every > self.written // every:
            if trainer.is_global_zero:
                prune(self.folder / "checkpoints", KEPT - 1)  # before, so that the disk never holds one more
            trainer.save_checkpoint(self.folder / "checkpoints" / f"step-{step}.ckpt", weights_only=False)
            self.written = step
            self.written_at = self.clock()
        if told in SIGNALS_TO_END:
            self.leave(trainer, told)

    def leave(self, trainer: pl.Trainer, number: int) -> None:
        """End the training, or do what was to be done for this signal before: submitit has the job started again."""
        handler, code = self.handlers[signal.Signals(number)], INTERRUPTED
        if callable(handler):
            code = 0
            try:
                handler(number, None)
            except SystemExit as ended:  # of the first rank alone
                code = int(ended.code or 0)
            code = trainer.strategy.broadcast(code)
        self.heard = 0
        if code:
            disconnect_ranks(trainer.strategy)
            raise SystemExit(code)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        save_weights(module.model, self.folder / "weights.safetensors")


# ---- weights


def save_weights(model: nn.Module, path: Path) -> None:
    """The trained parameters in float32, by name; the frozen ones stay in the backbone's folder.

    Call it on every rank: DeepSpeed's float32 copies are sharded, and gathered one at a time for rank 0 to write.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            whole = parameter.detach()
            if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):  # DeepSpeed's marks
                from deepspeed.utils import safe_get_full_fp32_param

                whole = safe_get_full_fp32_param(parameter)
            if is_rank_zero():
                tensors[name] = whole.to("cpu", torch.float32).contiguous()
    if is_rank_zero():
        with atomic_file(path) as temporary:
            save_file(tensors, temporary)


def load_weights(model: StepModel, path: Path) -> None:
    """Put trained parameters back, and a kappa head with them. Raises ValueError if they are another backbone's."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; train first (task=train, a judge: task=egt), or name another run")
    with reading(path):
        tensors = load_file(path)
    model.set_kappa("kappa.weight" in tensors)
    _put_back(model, tensors, path)


def load_checkpoint(model: StepModel, path: Path) -> None:
    """load_weights for a checkpoint: a file, or the folder of DeepSpeed's shards."""
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
    _put_back(model, {name: state[full] for full, name in names.items() if full in state}, path)


def _put_back(model: nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
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


def export(
    model: StepModel,
    processor: Any,
    backbone: Backbone,
    folder: Path,
    layout: str,
    card: str | None = None,
    judge: Mapping[str, Any] | None = None,
) -> None:
    """Write the model into `folder`, in place of what is there; the model is not a step model any more.

    layout: hf, for transformers' AutoModelForImageTextToText, or original, OpenGVLab's, which the backbone's own folder
    must then be in; judge: how it is asked, if it is one. A kappa head has a file of its own, which others pass over.
    Raises ValueError if the backbone cannot write the layout.
    """
    with atomic_folder(folder) as temporary:
        backbone.export(model, processor, temporary, layout)
        if model.kappa is not None:
            save_file(model.kappa.state_dict(), temporary / KAPPA)
        write_json(temporary / PROMPT, backbone.prompt())
        if judge is not None:
            write_json(temporary / JUDGE_FILE, judge)
        if model.rates_answers:
            write_json(temporary / REWARD_FILE, {"scores": "answers"})
        if card is not None:  # not the backbone's own, which the original layout brings
            write_text(temporary / "README.md", card)
