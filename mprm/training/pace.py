"""How long a training will take: told from one row of it, or from its arithmetic, before it starts."""

from __future__ import annotations

from time import monotonic

import torch

from mprm.backbones.base import StepModel
from mprm.batching.collate import collate
from mprm.training.batches import BatchPlan
from mprm.training.fit import train_in_float32
from mprm.training.lengths import Measured
from mprm.training.module import StepScoring
from mprm.training.objectives import Objective
from mprm.training.recipe import Machine, Recipe

DEVICE_FLOPS = 4e14  # a second: four tenths of what an H100 or H200 can do in bfloat16
MOST_ON_A_CPU = 1e13  # floating-point operations of a row that is worth the wait


def words(
    model: StepModel, train: Measured, plan: BatchPlan, objective: Objective, recipe: Recipe, machine: Machine
) -> str:
    """The time that the optimizer steps will take, and what it is told from. The model is used up."""
    rows = [row for step in range(plan.optimizer_steps) for ranks in plan.cut(step) for row in ranks]
    tokens = [plan.lengths.cost([position for position, _ in row]) for row in rows]
    largest = max(range(len(rows)), key=tokens.__getitem__)
    world_size = machine.devices * machine.num_nodes
    # Two operations per number and token forward, four backward, and forward again where layers are checkpointed.
    again = model.recomputes
    work = (8 if again else 6) * sum(weight.numel() for weight in model.parameters())
    here = machine.accelerator == "cpu" or torch.cuda.is_available()
    quick = machine.accelerator == "gpu" or work * tokens[largest] < MOST_ON_A_CPU
    if not here or not quick or machine.strategy.startswith("deepspeed"):
        seconds = work * sum(tokens) / world_size / DEVICE_FLOPS
        return (
            f"{_duration(seconds)} on {world_size} devices of {DEVICE_FLOPS / 1e12:.0f} TFLOP/s each, not measured: "
            f"{work * sum(tokens) / 1e12:,.2f} TFLOP, {work // 1_000_000:,} million operations per token"
        )
    took = _seconds(model, train, rows[largest], StepScoring(model, objective, recipe, plan.optimizer_steps), machine)
    seconds = took * sum(tokens) / tokens[largest] / world_size
    return (
        f"{_duration(seconds)}, told from the largest row: {tokens[largest]:,} tokens forward and backward took "
        f"{took:.2f} s here; validation and evaluation come on top"
    )


def _seconds(
    model: StepModel, train: Measured, row: list[tuple[int, float]], module: StepScoring, machine: Machine
) -> float:
    """Of a forward and a backward pass, the second time."""
    device = torch.device("cuda" if machine.accelerator == "gpu" else "cpu")
    train_in_float32(model)
    model.to(device).train()
    batch = collate(train.examples.__getitems__(row)).to(device)
    for _ in range(2):
        started = monotonic()
        with torch.autocast(device.type, torch.bfloat16, enabled=machine.precision == "bf16-mixed"):
            loss_M, _, _ = module.losses(batch)
        (loss_M * batch.weight_M).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
    return monotonic() - started


def _duration(seconds: float) -> str:
    if seconds > 5400:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.1f} minutes" if seconds > 90 else f"{seconds:.1f} seconds"
