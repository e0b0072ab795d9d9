"""How fast a training is and how much memory it takes: all that depends on the clock, per optimizer step.

A step ends where its loss is read, which waits for the device anyway: nothing here does. Validations and checkpoints
are not counted.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import torch

from mprm.training.planner import BatchPlan
from mprm.training.recipe import Machine

SPEED = "speed/"  # what such values are called by

# Dense teraflop/s in bfloat16, by a part of the device's name; the first that fits (NVIDIA's data sheets).
PEAK_TFLOPS = {
    **{"B200": 2250, "GH200": 990, "H200 NVL": 835, "H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989},
    **{"A100": 312, "L40S": 362, "RTX 4090": 165},
}


class Throughput:
    """Gives speed/tokens_per_second (of rows, over all devices), speed/rollouts_per_second, speed/mfu, speed/waiting
    and speed/peak_memory_gib of every optimizer step.

    MFU: operations (cost.operations: nothing counted twice that is computed again) over what the devices could do in
    bfloat16; only where that is known. waiting: share of the time in which no row was there, and the device had none
    to compute. Peak memory: of the first rank since the start, allocated on its GPU, or resident in its process.
    """

    def __init__(
        self, plan: BatchPlan, operations: int | None, machine: Machine, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """operations: per token; None where a row has more or fewer tokens than planned."""
        self.plan = plan
        self.operations = operations
        self.machine = machine
        self.clock = clock
        self.seconds = dict.fromkeys(("computing", "waiting", "other"), 0.0)
        self.since = 0.0
        self.computed: Any = None  # an event on the GPU: the end of the last row

    def begin(self) -> None:
        """A step begins."""
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        self.since = self.clock()

    def lap(self, spent: str) -> None:
        """The time since the last lap was spent like this: computing, waiting, other."""
        now = self.clock()
        busy = spent == "waiting" and self.computed is not None and not self.computed.query()
        self.seconds["computing" if busy else spent] += now - self.since
        self.since = now
        if spent == "computing" and on_cuda(self.machine):
            self.computed = torch.cuda.current_stream().record_event()

    def of_step(self, step: int) -> dict[str, float]:
        """Of the optimizer step that ends now, counted from 0."""
        seconds = max(self.seconds["computing"] + self.seconds["waiting"], 1e-9)
        found = {"rollouts_per_second": len(self.plan.chosen(step)) / seconds}
        if self.operations is not None:
            found["tokens_per_second"] = self.plan.tokens(step) / seconds
            if (peak := peak_tflops(self.machine)) is not None:
                device = found["tokens_per_second"] / self.machine.world_size
                found["mfu"] = device * self.operations / (peak * 1e12)
        found |= {"waiting": self.seconds["waiting"] / seconds, "peak_memory_gib": peak_memory(self.machine) / 2**30}
        return {f"{SPEED}{name}": float(f"{value:.4g}") for name, value in found.items()}


def on_cuda(machine: Machine) -> bool:
    return machine.accelerator == "gpu" and torch.cuda.is_available()


def peak_tflops(machine: Machine) -> float | None:
    """Of one device; None where nobody says."""
    if machine.peak_tflops is not None or not on_cuda(machine):
        return machine.peak_tflops
    name = torch.cuda.get_device_name()
    return next((tflops for part, tflops in PEAK_TFLOPS.items() if part in name), None)


def peak_memory(machine: Machine) -> int:
    """Bytes, the most so far."""
    if on_cuda(machine):
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB
