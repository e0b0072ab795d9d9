"""When a training writes checkpoints: by steps, by minutes, when it is told to end; and its weights when it is done."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher

from mprm.training.checkpoint import prune, save_weights
from mprm.training.recipe import Machine
from mprm.training.strategies import launched, part_ranks

TOLD = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # by SLURM; the last one by submitit, which starts a job again
INTERRUPTED = 130  # exit code
KEPT = 2  # checkpoints


class Ended(SystemExit):
    """A training that was told to end, on all ranks alike, behind its checkpoint."""


class Checkpoints(pl.Callback):
    """Writes checkpoints/step-N.ckpt, N optimizer steps being done, and keeps the last two.

    All ranks agree before every forward pass whether to write, so that they write together, DeepSpeed's shards too.
    Until a step is done the weights are those of the last one: a checkpoint may be written in the middle of a step,
    whose forward passes are computed again on resume.
    """

    def __init__(self, folder: Path, machine: Machine, start: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self.machine = machine
        self.start = start
        self.clock = clock
        self.handlers = {number: signal.getsignal(number) for number in TOLD}
        self.heard = 0
        self.seen = self.written = start

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.global_step != self.start:
            raise ValueError(
                f"{self.folder}: the training would go on from step {trainer.global_step}, but its checkpoint is of "
                f"step {self.start}; remove hpc_ckpt_*.ckpt, which Lightning looks for, from this folder"
            )
        self.written_at = self.clock()
        module.random_state = torch.get_rng_state()
        if in_main_thread():
            # Lightning's own handlers talk to other ranks, which may be at another place.
            for number in TOLD:
                signal.signal(number, self.hear)

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; the place to act is between two forward passes."""
        self.heard = number

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_index: int) -> None:
        step = trainer.global_step
        if step != self.seen:
            self.seen, module.random_state = step, torch.get_rng_state()
        overdue = trainer.is_global_zero and self.clock() - self.written_at >= 60 * self.machine.checkpoint_minutes
        told = max(self.heard, int(overdue))
        if trainer.world_size > 1:
            asked = torch.tensor(told, device=trainer.strategy.root_device)
            told = int(trainer.strategy.reduce(asked, reduce_op="max"))
        if (told or step % self.machine.checkpoint_every == 0) and step != self.written:
            if trainer.is_global_zero:
                prune(self.folder / "checkpoints", KEPT - 1)  # before, so that the disk never holds one more
            trainer.save_checkpoint(self.folder / "checkpoints" / f"step-{step}.ckpt", weights_only=False)
            self.written = step
            self.written_at = self.clock()
        if told in TOLD:
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
            part_ranks(trainer.strategy)
            raise Ended(code)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        save_weights(module.model, self.folder / "weights.safetensors")


def in_main_thread() -> bool:
    """The only one that may set signal handlers."""
    return threading.current_thread() is threading.main_thread()


def cluster() -> list[SLURMEnvironment]:
    """Lightning's plugin under SLURM: without its own checkpoints, from which any later training would go on."""
    started = launched()
    return [SLURMEnvironment(auto_requeue=False)] if started is not None and started[0] == "SLURM_NTASKS" else []


@contextmanager
def passing_on(trainer: pl.Trainer) -> Iterator[None]:
    """Pass signals on to ranks that this process spawns: it waits for them and trains nothing itself."""
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _MultiProcessingLauncher) or not in_main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda number, _: launcher.kill(number)) for number in TOLD}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
