"""One training, from the selected rollouts to weights.safetensors, resumed where an earlier one stopped."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from pytorch_lightning.plugins.precision import DeepSpeedPrecision
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy, Strategy

from mprm.backbones.base import StepModel
from mprm.data.examples import Examples
from mprm.data.order import Order
from mprm.training.batches import BatchPlan
from mprm.training.checkpoint import AtomicCheckpointIO, latest, save_weights
from mprm.training.datamodule import Rollouts
from mprm.training.history import History, Mirror
from mprm.training.module import StepScoring
from mprm.training.objectives import Objective
from mprm.training.recipe import Machine, Recipe


def fit(
    model: StepModel,
    train: Examples,
    validation: Examples,
    objective: Objective,
    order: Order,
    recipe: Recipe,
    machine: Machine,
    folder: Path,
    seed: int,
    mirror: Mirror | None = None,
) -> dict[str, Any]:
    """Train `model` in place and write metrics.jsonl, checkpoints/ and weights.safetensors into `folder`.

    Returns optimizer_steps, rollouts and the step it was resumed from.
    Raises ValueError if the global batch can not be cut for the machine, a sample can not be read, the weights are
    bfloat16 without DeepSpeed, or the training diverges.
    """
    orders = [order.epoch(len(train), seed, epoch) for epoch in range(recipe.epochs)]
    if not orders:
        save_weights(model, folder / "weights.safetensors")
        return {"optimizer_steps": 0, "rollouts": 0, "resumed_from": 0}
    accumulate = machine.accumulate(recipe.global_batch_size)
    plan = BatchPlan(
        order=np.concatenate(orders),
        n_scored=np.array([sum(score is not None for score in scores) for scores in train.records["scores"]]),
        global_batch_size=recipe.global_batch_size,
        micro_batch_size=machine.micro_batch_size,
        world_size=machine.devices * machine.num_nodes,
        fill_last=machine.strategy.startswith("deepspeed"),
    )
    if not plan.fill_last and any(p.requires_grad and p.dtype == torch.bfloat16 for p in model.parameters()):
        # At 1e-5 an update is below half a unit in the last place of a weight: it would be rounded away.
        raise ValueError(
            "backbone.dtype=bfloat16 loses small updates without DeepSpeed's float32 copies; "
            "give backbone.dtype=float32, or trainer=deepspeed_zero2"
        )
    checkpoint, start = latest(folder / "checkpoints")
    pl.seed_everything(seed, verbose=False)
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)  # device lists and advertisements
    trainer = build_trainer(machine, recipe, accumulate, plan, folder, mirror)
    loaders = Rollouts(train, validation, plan, start, machine.num_workers)
    module = StepScoring(model, objective, recipe, plan.optimizer_steps)
    with warnings.catch_warnings():
        # Said on every run, and meant here: loaders without workers on the CPU, a frozen tower in eval mode.
        warnings.filterwarnings("ignore", message=".*(does not have many workers|in eval mode|LeafSpec).*")
        try:
            trainer.fit(module, loaders, ckpt_path=checkpoint)
        except SystemExit:  # Lightning's answer to Ctrl-C
            if trainer.interrupted:
                raise KeyboardInterrupt from None
            raise
    if trainer.is_global_zero:
        save_weights(model, folder / "weights.safetensors")
    return {"optimizer_steps": plan.optimizer_steps, "rollouts": len(plan.order), "resumed_from": start}


def build_trainer(
    machine: Machine, recipe: Recipe, accumulate: int, plan: BatchPlan, folder: Path, mirror: Mirror | None
) -> pl.Trainer:
    """Lightning's trainer for the machine. DeepSpeed writes sharded checkpoints itself; all others are atomic files."""
    checkpoints = ModelCheckpoint(
        folder / "checkpoints", filename="{step}", save_top_k=1, every_n_train_steps=machine.checkpoint_every
    )
    sharded = machine.strategy.startswith("deepspeed")
    return pl.Trainer(
        accelerator=machine.accelerator,
        devices=machine.devices,
        num_nodes=machine.num_nodes,
        strategy=build_strategy(machine),
        precision=None if sharded else machine.precision,  # type: ignore[arg-type]
        max_epochs=1,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=recipe.gradient_clip,
        val_check_interval=min(machine.validate_every * accumulate, plan.micro_batches),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        enable_model_summary=False,
        plugins=[KeepTargets(machine.precision)] if sharded else [AtomicCheckpointIO()],  # type: ignore[arg-type]
        callbacks=[History(folder / "metrics.jsonl", plan, mirror), checkpoints, RichProgressBar()],
    )


class KeepTargets(DeepSpeedPrecision):
    """DeepSpeed's precision, but targets and weights stay float32 (the tower casts its pixels itself).

    The gradient is divided by the accumulated micro-batches once, by Lightning, and not by the engine again.
    """

    def convert_input(self, data: Any) -> Any:
        return data

    def backward(self, tensor: Any, model: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        super().backward(tensor, model, optimizer, *args, scale_wrt_gas=False, **kwargs)


def build_strategy(machine: Machine) -> str | Strategy:
    """The strategy by name. DDP on CPUs spawns its processes, so that it works under a multirun too."""
    if machine.strategy == "ddp_cpu":
        return DDPStrategy(process_group_backend="gloo", start_method="spawn")
    if machine.strategy in ("deepspeed_stage_2", "deepspeed_stage_3"):
        return DeepSpeedStrategy(stage=int(machine.strategy[-1]), offload_optimizer=machine.offload_optimizer)
    return machine.strategy
