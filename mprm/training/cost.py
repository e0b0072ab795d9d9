"""What a training needs of memory, disk and time, told and checked before it starts.

The states of the optimizer are arithmetic. Activations are measured: the largest row of the training goes forward and
backward on the device.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

import torch
from torch import nn

from mprm.runs.artifacts import is_rank_zero
from mprm.terminal import say
from mprm.training.checkpoint import KEPT
from mprm.training.module import TrainingModule
from mprm.training.planner import Part, Row
from mprm.training.recipe import Machine
from mprm.training.strategies import SUB_GROUP

GIB = 2**30

BUCKET = 200_000_000  # numbers in each of DeepSpeed's two buckets of gradients on their way (Lightning's setting)
GATHERED = 1_000_000_000  # numbers of gathered parameters that ZeRO-3 keeps (its default)

DEVICE_FLOPS = 4e14  # a second: four tenths of what an H100 or H200 can do in bfloat16
MOST_ON_A_CPU = 1e13  # floating-point operations of a row that is worth the wait


@dataclass(frozen=True)
class Memory:
    """Bytes per device."""

    parameters: int
    gradients: int
    optimizer: int
    step: int = 0  # copies in the optimizer's step, when the activations are gone
    activations: int | None = None  # None: not measured
    host: int = 0  # what optimizer offload keeps in the CPU memory of every node

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer + max(self.activations or 0, self.step)

    def __str__(self) -> str:
        found = {"parameters": self.parameters, "gradients": self.gradients, "optimizer": self.optimizer}
        if self.step > (self.activations or 0):
            found["copies in its step"] = self.step
        elif self.activations is not None:
            found["activations"] = self.activations
        parts = ", ".join(f"{name} {readable(size)}" for name, size in found.items())
        on_top = "; activations come on top" if self.activations is None else ""
        offloaded = f"; in the CPU memory of a node {readable(self.host)}" if self.host else ""
        return f"memory per device: {parts}, in all {readable(self.total)}{on_top}{offloaded}"


def announce(module: TrainingModule, train: Part, folder: Path, with_time: bool = False) -> None:
    """Print what the training needs of memory, of `folder`'s disk, and if wanted of time.

    Raises ValueError if that is more than the device has memory or the disk has left.
    """
    model, machine, plan = module.model, module.schedule.machine, train.plan
    rows = [row for step in range(plan.optimizer_steps) for row in plan.rows(step)]
    tokens, (most, largest) = sum(tokens for tokens, _ in rows), max(rows, key=lambda row: row[0])
    work = operations(model, model.recomputes)
    on_gpu = machine.accelerator == "gpu" and torch.cuda.is_available()
    on_cpu = machine.accelerator == "cpu" and with_time and work * most < MOST_ON_A_CPU
    available = torch.cuda.get_device_properties(0).total_memory if on_gpu else None
    memory, seconds = states(model, machine), None
    copies = sum(copy.numel() for copy in module.reference) * (machine.bytes if machine.is_deepspeed else 4)
    memory = replace(memory, parameters=memory.parameters + copies)
    check(memory, available, machine)
    if on_gpu or on_cpu:
        seconds, activations = rehearse(module, train, largest)
        memory = replace(memory, activations=activations)
    if is_rank_zero():
        say(str(memory))
    check(memory, available, machine)
    announce_disk(model, machine, folder)
    if not with_time:
        return
    if seconds is not None:
        time = _duration(seconds * tokens / most / machine.world_size)
        say(
            f"time: {time}, estimated from the largest row: {most:,} tokens forward and backward took "
            f"{seconds:.2f} s here; validation and evaluation come on top"
        )
        return
    total = work * tokens
    say(
        f"time: {_duration(total / machine.world_size / DEVICE_FLOPS)} on {machine.world_size} devices of "
        f"{DEVICE_FLOPS / 1e12:.0f} TFLOP/s each, not measured: {total / 1e12:,.2f} TFLOP, "
        f"{work // 1_000_000:,} million operations per token"
    )


def states(model: nn.Module, machine: Machine) -> Memory:
    """Memory of weights, gradients and optimizer.

    Plain training keeps trained weights, gradients and two moments in float32. ZeRO: weights in the type of the
    precision; gradients are summed in float32; the optimizer has float32 weights and two moments, divided over devices.
    A step copies nothing where it is fused. torch's loop holds three numbers for each of the largest weight, and what
    DeepSpeed gives to torch's AdamW is copied once, all of it or ZeRO-3's SUB_GROUP at a time.
    """
    weights = list(model.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    n_weights, n_trained = (sum(weight.numel() for weight in part) for part in (weights, trained))
    if not machine.is_deepspeed:
        frozen = sum(weight.nbytes for weight in weights if not weight.requires_grad)
        gradients = 4 * n_trained * (2 if machine.world_size > 1 else 1)  # DDP reduces copies of them
        moments = 8 * n_trained + 4 * len(trained)  # and a float32 count of steps beside every parameter
        copies = 0 if machine.is_fused else 12 * max((weight.numel() for weight in trained), default=0)
        return Memory(frozen + 4 * n_trained, gradients, moments, copies)
    parameters = n_weights * machine.bytes
    if machine.strategy == "deepspeed_stage_3":
        parameters = -(-parameters // machine.world_size) + min(n_weights, GATHERED) * machine.bytes
    share = -(-n_trained // machine.world_size)
    on_the_way = 2 * min(n_trained, BUCKET) * machine.bytes
    if machine.offload_optimizer:  # the summed gradients move with it
        return Memory(parameters, on_the_way, 0, host=(12 + 4) * share * machine.devices)
    updated = min(share, SUB_GROUP) if machine.strategy == "deepspeed_stage_3" else share
    return Memory(parameters, 4 * share + on_the_way, 12 * share, 4 * updated)


def operations(model: nn.Module, recomputed: float = 0.0) -> int:
    """Floating-point operations of a token and its gradient: of every number of a matrix two forward, two backward,
    two for its gradient if it is trained, and two for the share that is computed again. Neither attention counts, nor
    tables that are looked up in, nor a head over the same vocabulary, which marks alone reach."""
    tables = {part.weight.shape for part in model.modules() if isinstance(part, nn.Embedding)}
    matrices = [weight for weight in model.parameters() if weight.ndim >= 2 and weight.shape not in tables]
    return round(sum((4 + 2 * weight.requires_grad + 2 * recomputed) * weight.numel() for weight in matrices))


def rehearse(module: TrainingModule, train: Part, row: Row) -> tuple[float | None, int | None]:
    """Compute the row twice, leaving the module as it was: the seconds of the second time, and the bytes that it took
    beside weights and gradients, None on a CPU. (None, None) where DeepSpeed will shard what does not fit here.

    Raises ValueError if the row does not fit the device.
    """
    machine, parameters = module.schedule.machine, list(module.model.parameters())
    on_gpu = machine.accelerator == "gpu"
    local_rank = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    kept, random_state = [parameter.data for parameter in parameters], torch.get_rng_state()
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    hooks = []
    try:
        for parameter in parameters if machine.precision == "bf16-true" else trained:
            parameter.data = parameter.data.to(torch.bfloat16 if machine.precision == "bf16-true" else torch.float32)
        module.to(device).train()
        # Gradients are dropped as they come: states() counts them.
        hooks = [parameter.register_post_accumulate_grad_hook(_drop_gradient) for parameter in trained]
        before = torch.cuda.memory_allocated(device) if on_gpu else 0
        if on_gpu:
            torch.cuda.set_device(device)
            torch.cuda.reset_peak_memory_stats(device)
        batch = module.collate(train.examples.__getitems__(row)).to(device)
        for _ in range(2):
            started = monotonic()
            with torch.autocast(device.type, torch.bfloat16, enabled=machine.precision == "bf16-mixed"):
                loss = module.rehearse(batch)
            loss.backward()
            if on_gpu:
                torch.cuda.synchronize(device)
        taken = torch.cuda.max_memory_allocated(device) - before if on_gpu else None
        return monotonic() - started, taken
    except torch.OutOfMemoryError:
        if machine.is_deepspeed:
            return None, None
        tokens = train.plan.lengths.cost([position for position, _ in row])
        raise ValueError(
            f"trainer: a forward and backward pass of {tokens:,} tokens does not fit this device; {_remedy(machine)}"
        ) from None
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, data in zip(parameters, kept, strict=True):
            parameter.data = data
        module.to("cpu")
        for metric in module.curve.values():
            metric.reset()
        torch.set_rng_state(random_state)
        if on_gpu:
            torch.cuda.empty_cache()


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None


def check(memory: Memory, available: int | None, machine: Machine) -> None:
    """Raises ValueError if the training cannot fit into the `available` bytes of a device; None: not known."""
    if available is not None and memory.total > available:
        raise ValueError(
            f"trainer: needs about {memory.total / GIB:.1f} GiB per device, this one has {available / GIB:.1f} GiB; "
            f"{_remedy(machine)}"
        )


def _remedy(machine: Machine) -> str:
    sharding = "" if machine.strategy == "deepspeed_stage_3" else "trainer=deepspeed_zero3, "
    offload = "" if machine.offload_optimizer else "trainer.offload_optimizer=true (with DeepSpeed), "
    return f"lower trainer.max_tokens, use backbone.language_model=lora, {sharding}{offload}or more devices"


def disk_need(model: nn.Module, machine: Machine) -> tuple[int, int]:
    """Bytes of a checkpoint and of the final weights.

    A checkpoint holds what is trained, in float32, and two moments of it; DeepSpeed's in its own precision besides.
    """
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return (12 + machine.bytes * machine.is_deepspeed) * trained, 4 * trained


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


def readable(n_bytes: int) -> str:
    return f"{n_bytes / GIB:.1f} GiB" if n_bytes >= GIB else f"{n_bytes / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    if seconds > 5400:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.1f} minutes" if seconds > 90 else f"{seconds:.1f} seconds"
