"""How far a training is, in one line of the terminal; a log file gets nothing of it."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from rich.progress import Progress

from mprm.terminal import bar
from mprm.training.batches import BatchPlan


class ProgressLine(pl.Callback):
    """'training, epoch 1 of 2, step 12 of 26'. All epochs are one plan: Lightning's own bar would say epoch 0 of 0."""

    def __init__(self, plan: BatchPlan, epochs: int) -> None:
        self.plan = plan
        self.epochs = epochs
        self.line: Progress | None = None  # made where it is shown: it can not be sent to a rank that is spawned

    def words(self, step: int) -> str:
        """What the line says after so many optimizer steps."""
        seen = min((step + 1) * self.plan.global_batch_size, len(self.plan.order))
        epoch = -(-seen * self.epochs // len(self.plan.order))
        return f"training, epoch {epoch} of {self.epochs}, step {step:,} of {self.plan.optimizer_steps:,}"

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.line = bar()
        if trainer.is_global_zero:
            step = trainer.global_step
            self.line.add_task(self.words(step), total=self.plan.optimizer_steps, completed=step)
            self.line.start()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        assert self.line is not None
        for task in self.line.task_ids:
            step = trainer.global_step
            self.line.update(task, description=self.words(step), completed=step)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert self.line is not None
        self.line.stop()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        if self.line is not None:
            self.line.stop()
