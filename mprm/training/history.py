"""The run's curve: one JSON line per optimizer step and per validation, and the progress bar."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from mprm.runs.artifacts import write_text
from mprm.training.batches import BatchPlan

Mirror = Callable[[dict[str, float]], None]

SKIPPED = "train/skipped"  # of a step whose gradient was not finite, and which has no other values


class History(pl.Callback):
    """Appends to metrics.jsonl: step (optimizer steps), rollouts (seen), seconds (of training), and what was logged.

    A resumed run cuts the lines written after its checkpoint and goes on counting. `mirror` gets every line, e.g. W&B.
    """

    def __init__(self, path: Path, plan: BatchPlan, mirror: Mirror | None = None) -> None:
        self.path = path
        self.plan = plan
        self.mirror = mirror
        self.seconds_before = 0.0
        self.started = 0.0
        self.seen_step = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.started = time.monotonic()
        self.seen_step = trainer.global_step
        if not trainer.is_global_zero:
            return
        lines = read_lines(self.path, up_to=trainer.global_step)
        if lines:
            self.seconds_before = lines[-1]["seconds"]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        if trainer.global_step == self.seen_step:
            return  # a micro-batch in the middle of a global batch
        self.seen_step = trainer.global_step
        curve = module.curve()
        values = {name: float(metric.compute()) for name, metric in curve.items()}
        values["train/gradient_norm"] = module.gradient_norm
        loss, step = values["train/loss"], trainer.global_step
        for metric in curve.values():
            metric.reset()
        if not math.isfinite(module.gradient_norm):
            values = {SKIPPED: 1.0}
        elif not math.isfinite(loss):
            raise ValueError(
                f"train/loss is {loss} at step {step}: the training diverged; lower {module.recipe.GROUP}.learning_rate"
            )
        module.log_dict(values, prog_bar=True)
        self.write(trainer, values | {"lr": float(trainer.optimizers[0].param_groups[0]["lr"])})

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self.write(trainer, values)

    def write(self, trainer: pl.Trainer, values: dict[str, float]) -> None:
        if not trainer.is_global_zero:
            return
        rollouts = min(trainer.global_step * self.plan.global_batch_size, len(self.plan.order))
        seconds = self.seconds_before + time.monotonic() - self.started
        line = {"step": trainer.global_step, "rollouts": rollouts, "seconds": round(seconds, 2), **values}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.mirror is not None:
            self.mirror(line)


def read_lines(path: Path, up_to: int) -> list[dict[str, Any]]:
    """Whole lines of optimizer steps 1..up_to; a last line that a killed process left half-written is none."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            if line["step"] <= up_to:
                lines.append(line)
        except (ValueError, KeyError, TypeError):
            break
    return lines
