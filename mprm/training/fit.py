"""One training of a step scorer or a judge: from examples to weights.safetensors, resumed where one stopped."""

from __future__ import annotations

import json
import logging
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from rich.progress import Progress
from torch.multiprocessing.spawn import ProcessExitedException

from mprm.runs.artifacts import is_rank_zero, write_text
from mprm.terminal import bar, say
from mprm.training.checkpoint import AtomicCheckpointIO, Checkpoints, latest, save_weights
from mprm.training.compiling import one_line_errors
from mprm.training.cost import announce
from mprm.training.lengths import Measured
from mprm.training.module import TrainingModule
from mprm.training.planner import BatchPlan, Loaders, plan_parts
from mprm.training.strategies import (
    INTERRUPTED,
    ShardedPrecision,
    build_strategy,
    check_checkpoint,
    check_world_size,
    cluster,
    disconnect_ranks,
    forwarding_signals,
)
from mprm.training.throughput import Throughput

Mirror = Callable[[dict[str, float]], None]

# What Lightning and torchmetrics say and what is meant here: loaders without workers on the CPU, a frozen tower in eval
# mode, batches that begin where the checkpoint ends, a small validation with one class, and trainings without one.
NOT_MEANT_HERE = (
    "does not have many workers|in eval mode|LeafSpec|ended before the epoch ended|exists and is not empty|"
    "No (negative|positive) samples in targets|handles gradient clipping internally|have no `validation_step`"
)
SKIPPED = "train/skipped"  # of a step whose gradient was not finite, and which has no other values


def fit(
    module: TrainingModule,
    train: Measured | None,
    validation: Measured | None,
    folder: Path,
    mirror: Mirror | None = None,
) -> dict[str, int]:
    """Train the module's model in place and write metrics.jsonl, checkpoints/ and weights.safetensors into `folder`.

    train: None with recipe.epochs=0; mirror: gets every line of metrics.jsonl.
    Returns optimizer_steps, the step it was resumed_from, and skipped_steps: those whose gradient was not finite.
    Raises ValueError if an example cannot be read or learnt, the training does not fit the machine's max_tokens, its
    device or its disk, or it diverges.
    """
    model, schedule = module.model, module.schedule
    machine = schedule.machine
    torch.manual_seed(schedule.seed)
    module.prepare()
    if schedule.recipe.epochs == 0:
        save_weights(model, folder / "weights.safetensors")
        return {"optimizer_steps": 0, "resumed_from": 0, "skipped_steps": 0}
    assert train is not None, "there are epochs"
    checkpoint, start = latest(folder / "checkpoints")
    check_world_size(machine)
    check_checkpoint(checkpoint, machine)
    parts = plan_parts(module, train, validation)
    plan = parts[0].plan
    if not machine.is_deepspeed:  # which keeps float32 copies of its own
        # At 1e-5 an update is below half a unit in the last place of a bfloat16 weight and would be rounded away.
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    model.check_training()
    with one_line_errors():
        module.setup("fit")
        announce(module, parts[0], folder)
        module.teardown("fit")
    if start and is_rank_zero():
        say(f"resuming from step {start} of {plan.optimizer_steps}")
    module.plan = plan
    pl.seed_everything(schedule.seed, verbose=False)
    trainer = build_trainer(module, plan, folder, start, mirror)
    model.train()  # transformers loads in eval mode, in which no layer is checkpointed
    with one_line_errors():
        run_trainer(trainer, module, Loaders(*parts, start, machine), checkpoint)
    disconnect_ranks(trainer.strategy)
    skipped = sum(SKIPPED in line for line in read_lines(folder / "metrics.jsonl", plan.optimizer_steps))
    if skipped and is_rank_zero():
        say(f"skipped {skipped} of {plan.optimizer_steps} steps: their gradient was not finite")
    return {"optimizer_steps": plan.optimizer_steps, "resumed_from": start, "skipped_steps": skipped}


def build_trainer(
    module: TrainingModule, plan: BatchPlan, folder: Path, start: int, mirror: Mirror | None
) -> pl.Trainer:
    """Lightning's trainer for the machine."""
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)  # device lists and advertisements
    recipe, machine = module.schedule.recipe, module.schedule.machine
    sharded = machine.is_deepspeed
    return pl.Trainer(
        accelerator=machine.accelerator,
        devices=machine.devices,
        num_nodes=machine.num_nodes,
        strategy=build_strategy(machine),
        precision=None if sharded else machine.precision,  # type: ignore[arg-type]
        max_epochs=1,
        accumulate_grad_batches=plan.accumulate,
        gradient_clip_val=recipe.gradient_clip,
        val_check_interval=min(machine.validate_every * plan.accumulate, plan.micro_batches),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        enable_model_summary=False,
        enable_checkpointing=False,  # Lightning's own
        enable_progress_bar=False,
        default_root_dir=folder,
        plugins=[ShardedPrecision(machine.precision) if sharded else AtomicCheckpointIO(), *cluster()],  # type: ignore[arg-type]
        callbacks=[
            Checkpoints(folder, machine, start),
            History(folder / "metrics.jsonl", plan, Throughput(module, plan), mirror),
        ],
    )


def run_trainer(trainer: pl.Trainer, module: TrainingModule, loaders: Loaders, checkpoint: Path | None) -> None:
    """Lightning's fit without what it says on every run. Raises KeyboardInterrupt for Ctrl-C and SIGTERM."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f".*({NOT_MEANT_HERE}).*")
        try:
            with forwarding_signals(trainer):
                trainer.fit(module, loaders, ckpt_path=checkpoint)
        except SystemExit as ended:
            # Ctrl-C and SIGTERM; submitit, which exits to start a job again, has another code
            if ended.code == INTERRUPTED or (trainer.interrupted and ended.code in (1, None)):
                raise KeyboardInterrupt from None
            raise
        except ProcessExitedException as ended:  # of ranks that were spawned
            if ended.exit_code == INTERRUPTED:
                raise KeyboardInterrupt from None
            raise


class History(pl.Callback):
    """Appends to metrics.jsonl: step (optimizer steps), rollouts (seen), seconds (of training), what was logged, and
    how fast it was (speed/...).

    A resumed run cuts the lines written after its checkpoint and goes on counting. A terminal shows one line of
    progress; Lightning's own bar would say epoch 0 of 0, as all epochs are one plan.
    """

    def __init__(self, path: Path, plan: BatchPlan, throughput: Throughput, mirror: Mirror | None = None) -> None:
        self.path = path
        self.plan = plan
        self.throughput = throughput
        self.examples = len(np.unique(plan.order))
        self.mirror = mirror
        self.seconds_before = 0.0
        self.started = 0.0
        self.seen_step = 0
        self.line: Progress | None = None  # made where it is shown: it cannot be sent to a rank that is spawned

    def words(self, step: int) -> str:
        """The line of progress after so many optimizer steps."""
        epoch, epochs = (-(-seen // self.examples) for seen in (self.plan.seen(step + 1), len(self.plan.order)))
        return f"training, epoch {epoch} of {epochs}, step {step:,} of {self.plan.optimizer_steps:,}"

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.started = time.monotonic()
        self.seen_step = step = trainer.global_step
        if not trainer.is_global_zero:
            return
        lines = read_lines(self.path, up_to=step) if step else []
        self.seconds_before = lines[-1]["seconds"] if lines else 0.0
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))
        self.line = bar()
        self.line.add_task(self.words(step), total=self.plan.optimizer_steps, completed=step)
        self.line.start()

    def on_save_checkpoint(self, trainer: pl.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        self.throughput.pause()

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_index: int) -> None:
        if trainer.global_step == batch_index == 0:
            self.validated(trainer, module.validate())
        self.throughput.lap(waited=True)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        step = trainer.global_step
        if step == self.seen_step:
            self.throughput.lap(waited=False)
            return  # a micro-batch in the middle of a global batch
        self.seen_step = step
        values = {f"train/{name}": float(metric.compute()) for name, metric in module.curve.items()}
        values["train/gradient_norm"] = module.gradient_norm
        for metric in module.curve.values():
            metric.reset()
        if not math.isfinite(module.gradient_norm):
            values = {SKIPPED: 1.0}
        elif not math.isfinite(loss := values["train/loss"]):
            group = module.schedule.recipe.GROUP
            raise ValueError(f"train/loss is {loss} at step {step}: the training diverged; lower {group}.learning_rate")
        else:
            module.look(values)
        module.log_dict(values, prog_bar=True)
        self.throughput.lap(waited=False)
        values |= {"lr": float(trainer.optimizers[0].param_groups[0]["lr"])} | self.throughput.of_step(step - 1)
        self.write(trainer, values)
        self.throughput.lap(waited=False)
        if self.line is not None:
            self.line.update(self.line.task_ids[0], description=self.words(step), completed=step)
        if step % module.schedule.machine.validate_every == 0 or step == self.plan.optimizer_steps:
            self.validated(trainer, module.validate())

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self.validated(trainer, found)

    def validated(self, trainer: pl.Trainer, values: dict[str, float]) -> None:
        if values:
            self.write(trainer, values)
            self.throughput.pause()

    def write(self, trainer: pl.Trainer, values: dict[str, float]) -> None:
        if not trainer.is_global_zero:
            return
        seconds = self.seconds_before + time.monotonic() - self.started
        step, rollouts = trainer.global_step, self.plan.seen(trainer.global_step)
        line = {"step": step, "rollouts": rollouts, "seconds": round(seconds, 2), **values}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.mirror is not None:
            self.mirror(line)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.stop()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self.stop()

    def stop(self) -> None:
        if self.line is not None:
            self.line.stop()


def read_lines(path: Path, up_to: int) -> list[dict[str, Any]]:
    """Whole lines of optimizer steps 0..up_to; a last line that a killed process left half-written is none."""
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
