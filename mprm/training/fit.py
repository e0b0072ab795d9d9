"""One training, from the selected rollouts to weights.safetensors, resumed where an earlier one stopped."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from mprm.artifacts import is_rank_zero
from mprm.backbones.base import StepModel
from mprm.data.examples import Examples
from mprm.data.order import Order
from mprm.training.batches import BatchPlan
from mprm.training.checkpoint import AtomicCheckpointIO, latest, prune, save_weights
from mprm.training.datamodule import Rollouts, Rows
from mprm.training.history import History, Mirror
from mprm.training.lengths import Measured
from mprm.training.memory import check, estimate
from mprm.training.module import Optimised, StepScoring
from mprm.training.objectives import Objective
from mprm.training.progress import ProgressLine
from mprm.training.recipe import Machine, Recipe
from mprm.training.strategies import KeepTargets, build_strategy, check_checkpoint, check_world_size, part_ranks

# What Lightning and torchmetrics say and what is meant here: loaders without workers on the CPU, a frozen tower in eval
# mode, batches that begin where the checkpoint ends, a small validation with one class.
NOT_MEANT_HERE = (
    "does not have many workers|in eval mode|LeafSpec|ended before the epoch ended|exists and is not empty|"
    "No (negative|positive) samples in targets"
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
    Returns optimizer_steps, rollouts and the step it was resumed from.
    Raises ValueError if a rollout does not fit the machine's max_tokens or lacks the counts that the objective needs, a
    sample can not be read, or the training diverges.
    """
    torch.manual_seed(seed)  # a new kappa head
    model.set_kappa(objective.kappa)
    if recipe.epochs == 0:
        save_weights(model, folder / "weights.safetensors")
        return {"optimizer_steps": 0, "rollouts": 0, "resumed_from": 0}
    assert train is not None, "there are epochs"
    assert validation is not None
    if objective.kappa:
        check_counts(train.examples, validation.examples)
    checkpoint, start = checkpoint_of(folder, machine)
    plan, validation_plan = make_plans(train, validation, objective, order, recipe, machine, seed)
    loaders = Rollouts(train.examples, validation.examples, plan, validation_plan, start, machine.num_workers)
    module = StepScoring(model, objective, recipe, plan.optimizer_steps)
    optimise(module, loaders, machine, folder, checkpoint, seed, mirror)
    return {"optimizer_steps": plan.optimizer_steps, "rollouts": len(plan.order), "resumed_from": start}


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
) -> None:
    """Train the module's model in place, all of the loaders' plan or what is left of it behind the checkpoint.

    Writes metrics.jsonl, checkpoints/ and weights.safetensors into `folder`.
    Raises ValueError if the training does not fit the device or diverges, or a sample can not be read.
    """
    model, plan = module.model, loaders.plan
    if not machine.strategy.startswith("deepspeed"):
        train_in_float32(model)
    announce_memory(model, machine, plan.most_keys)
    if loaders.start and is_rank_zero():
        print(f"resuming from step {loaders.start} of {plan.optimizer_steps}", flush=True)
    pl.seed_everything(seed, verbose=False)
    trainer = build_trainer(machine, module.recipe, plan, folder, mirror)
    model.train()  # transformers loads in eval mode, in which no layer is checkpointed
    run_trainer(trainer, module, loaders, checkpoint)
    save_weights(model, folder / "weights.safetensors")
    if is_rank_zero():
        prune(folder / "checkpoints")
    part_ranks(trainer.strategy)


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
        print(memory, flush=True)
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
            trainer.fit(module, loaders, ckpt_path=checkpoint)
        except SystemExit as ended:
            # Ctrl-C and SIGTERM; submitit, which exits to start a job again, has another code
            if trainer.interrupted and ended.code in (1, None):
                raise KeyboardInterrupt from None
            raise


def build_trainer(machine: Machine, recipe: Recipe, plan: BatchPlan, folder: Path, mirror: Mirror | None) -> pl.Trainer:
    """Lightning's trainer for the machine. DeepSpeed writes sharded checkpoints itself; all others are atomic files."""
    checkpoints = ModelCheckpoint(
        folder / "checkpoints",
        filename="step-{step}",
        auto_insert_metric_name=False,
        save_top_k=1,
        every_n_train_steps=machine.checkpoint_every,
    )
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
        plugins=[KeepTargets(machine.precision)] if sharded else [AtomicCheckpointIO()],  # type: ignore[arg-type]
        callbacks=[History(folder / "metrics.jsonl", plan, mirror), checkpoints, ProgressLine(plan, recipe.epochs)],
        enable_progress_bar=False,
    )
