"""One training, from the selected rollouts to weights.safetensors, resumed where an earlier one stopped."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.multiprocessing.spawn import ProcessExitedException

from mprm.backbones.base import StepModel
from mprm.batching.examples import Examples
from mprm.batching.order import Order
from mprm.runs.artifacts import is_rank_zero
from mprm.terminal import say
from mprm.training.batches import BatchPlan
from mprm.training.checkpoint import AtomicCheckpointIO, latest, save_weights
from mprm.training.datamodule import Rollouts, Rows
from mprm.training.disk import announce_disk
from mprm.training.history import SKIPPED, History, Mirror, read_lines
from mprm.training.lengths import Measured
from mprm.training.memory import check, estimate
from mprm.training.module import Optimised, StepScoring
from mprm.training.objectives import Objective
from mprm.training.progress import ProgressLine
from mprm.training.recipe import Machine, Recipe
from mprm.training.saving import INTERRUPTED, Checkpoints, cluster, passing_on
from mprm.training.strategies import KeepTargets, build_strategy, check_checkpoint, check_world_size, part_ranks

# What Lightning and torchmetrics say and what is meant here: loaders without workers on the CPU, a frozen tower in eval
# mode, batches that begin where the checkpoint ends, a small validation with one class.
NOT_MEANT_HERE = (
    "does not have many workers|in eval mode|LeafSpec|ended before the epoch ended|exists and is not empty|"
    "No (negative|positive) samples in targets|handles gradient clipping internally"
)
PATCHES_PER_TOKEN = 4  # of the vision tower for an image token, in both families


def fit(
    model: StepModel,
    train: Measured | None,
    validation: Measured | None,
    objective: Objective,
    order: Order,
    recipe: Recipe,
    machine: Machine,
    folder: Path,
    seed: int,
    mirror: Mirror | None = None,
) -> dict[str, Any]:
    """Train `model` in place and write metrics.jsonl, checkpoints/ and weights.safetensors into `folder`.

    train, validation: None with recipe.epochs=0.
    Returns optimizer_steps, rollouts, the step it was resumed from and the number of skipped_steps.
    Raises ValueError if a rollout does not fit the machine's max_tokens or lacks the counts that the objective needs, a
    sample can not be read, or the training diverges.
    """
    torch.manual_seed(seed)  # a new kappa head
    model.set_kappa(objective.kappa)
    if recipe.epochs == 0:
        save_weights(model, folder / "weights.safetensors")
        return {"optimizer_steps": 0, "rollouts": 0, "resumed_from": 0, "skipped_steps": 0}
    assert train is not None, "there are epochs"
    assert validation is not None
    if objective.kappa:
        check_counts(train.examples, validation.examples)
    checkpoint, start = checkpoint_of(folder, machine)
    plan, validation_plan = make_plans(train, validation, objective, order, recipe, machine, seed)
    loaders = Rollouts(train.examples, validation.examples, plan, validation_plan, start, machine.num_workers)
    module = StepScoring(model, objective, recipe, plan.optimizer_steps)
    skipped = optimise(module, loaders, machine, folder, checkpoint, seed, mirror)
    return {
        "optimizer_steps": plan.optimizer_steps,
        "rollouts": len(plan.order),
        "resumed_from": start,
        "skipped_steps": skipped,
    }


def checkpoint_of(folder: Path, machine: Machine) -> tuple[Path | None, int]:
    """The checkpoint to go on from, and its optimizer step; (None, 0) without one.

    Raises ValueError if the machine can not load it, or is not what a launcher has started.
    """
    checkpoint, start = latest(folder / "checkpoints")
    check_world_size(machine)
    check_checkpoint(checkpoint, machine)
    return checkpoint, start


def optimise(
    module: Optimised,
    loaders: Rows,
    machine: Machine,
    folder: Path,
    checkpoint: Path | None,
    seed: int,
    mirror: Mirror | None = None,
) -> int:
    """Train the module's model in place, all of the loaders' plan or what is left of it behind the checkpoint.

    Writes metrics.jsonl, checkpoints/ and weights.safetensors into `folder`. Returns the number of steps skipped for a
    gradient that was not finite.
    Raises ValueError if the training does not fit the device or the disk or diverges, or a sample can not be read.
    """
    model, plan = module.model, loaders.plan
    if not machine.strategy.startswith("deepspeed"):
        train_in_float32(model)
    model.check_training()
    announce_memory(model, machine, plan.most_keys)
    announce_disk(model, machine, folder)
    module.skips = machine.non_finite == "skip"
    if loaders.start and is_rank_zero():
        say(f"resuming from step {loaders.start} of {plan.optimizer_steps}")
    pl.seed_everything(seed, verbose=False)
    trainer = build_trainer(machine, module.recipe, loaders, folder, mirror)
    model.train()  # transformers loads in eval mode, in which no layer is checkpointed
    run_trainer(trainer, module, loaders, checkpoint)
    part_ranks(trainer.strategy)
    skipped = sum(SKIPPED in line for line in read_lines(folder / "metrics.jsonl", plan.optimizer_steps))
    if skipped and is_rank_zero():
        say(f"skipped {skipped} of {plan.optimizer_steps} steps: their gradient was not finite")
    return skipped


def make_plans(
    train: Measured,
    validation: Measured,
    objective: Objective,
    order: Order,
    recipe: Recipe,
    machine: Machine,
    seed: int,
) -> tuple[BatchPlan, BatchPlan]:
    """The rows of the training and of a validation."""
    machine.check(recipe)
    usable = train.usable
    machine.check_longest(max(int(part.lengths.tokens[part.usable].max(initial=0)) for part in (train, validation)))
    entropy, question = train.examples.entropy[usable], train.lengths.question[usable]
    epochs = [usable[order.epoch(question, entropy, seed, epoch)] for epoch in range(recipe.epochs)]
    world_size = machine.devices * machine.num_nodes
    plan = BatchPlan(
        order=np.concatenate(epochs),
        n_scored=scored_steps(train.examples, objective),
        lengths=train.lengths,
        global_batch_size=recipe.global_batch_size,
        max_tokens=machine.max_tokens,
        world_size=world_size,
        micro_batch_size=objective.micro_batch_size if objective.normalise == "micro_batch" else None,
    )
    # All of it is one batch; without a backward pass twice the tokens fit.
    validation_plan = BatchPlan(
        order=validation.usable,
        n_scored=scored_steps(validation.examples, objective),
        lengths=validation.lengths,
        global_batch_size=max(1, len(validation.usable)),
        max_tokens=2 * machine.max_tokens,
        world_size=world_size,
    )
    return plan, validation_plan


def announce_memory(model: StepModel, machine: Machine, keys: int) -> None:
    """Print what a device needs; raises ValueError if that is more than it has."""
    memory = estimate(model, machine, machine.max_tokens, PATCHES_PER_TOKEN * machine.max_tokens, keys)
    if is_rank_zero():
        say(str(memory))
    is_here = machine.accelerator == "gpu" and torch.cuda.is_available()
    available = torch.cuda.get_device_properties(0).total_memory if is_here else None
    check(memory, available, machine)


def scored_steps(examples: Examples, objective: Objective) -> np.ndarray:
    """Steps that the objective trains on, per rollout: those with an MC score, for a kappa head with continuations."""
    columns = (examples.records[name] for name in ("scores", "n_total"))
    return np.array(
        [
            sum(s is not None and (n != 0 or not objective.kappa) for s, n in zip(scores, totals, strict=True))
            for scores, totals in zip(*columns, strict=True)
        ]
    )


def check_counts(*parts: Examples) -> None:
    """Raises ValueError if the continuations of a scored step were not counted, or do not make its score.

    The score 0 of 0 of 0 continuations is implied, not counted: the objective leaves it out."""
    for examples in parts:
        columns = (examples.records[name] for name in ("id", "scores", "n_correct", "n_total"))
        for rollout, *steps in zip(*columns, strict=True):
            for number, (score, correct, total) in enumerate(zip(*steps, strict=True)):
                implied = score == 0 and total == 0
                if score is not None and not implied and (not total or round(score * total) != correct):
                    raise ValueError(
                        f"rollout {rollout} has score {score} at step {number} (from 0), but {correct} of {total} "
                        "continuations; this objective trains on these counts: correct them, or use objective=soft"
                    )


def train_in_float32(model: StepModel) -> None:
    """Trained parameters as float32: at 1e-5 an update is below half a unit in the last place of a bfloat16 weight and
    would be rounded away. DeepSpeed keeps float32 copies of its own."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def run_trainer(trainer: pl.Trainer, module: Optimised, loaders: Rows, checkpoint: Path | None) -> None:
    """Lightning's fit without what it says on every run. Raises KeyboardInterrupt for Ctrl-C and SIGTERM."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f".*({NOT_MEANT_HERE}).*")
        try:
            with passing_on(trainer):
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


def build_trainer(machine: Machine, recipe: Recipe, loaders: Rows, folder: Path, mirror: Mirror | None) -> pl.Trainer:
    """Lightning's trainer for the machine. DeepSpeed writes sharded checkpoints itself; all others are atomic files."""
    plan = loaders.plan
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)  # device lists and advertisements
    sharded = machine.strategy.startswith("deepspeed")
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
        plugins=[KeepTargets(machine.precision) if sharded else AtomicCheckpointIO(), *cluster()],  # type: ignore[arg-type]
        callbacks=[
            Checkpoints(folder, machine, loaders.start),
            History(folder / "metrics.jsonl", plan, mirror),
            ProgressLine(plan, recipe.epochs),
        ],
    )
