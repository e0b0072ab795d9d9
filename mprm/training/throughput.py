"""How fast a training is and how much memory it takes, per optimizer step: all of it depends on the clock.

A step ends where its loss is read, which waits for the device anyway: nothing here does.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import torch

from mprm.training.cost import operations
from mprm.training.module import TrainingModule
from mprm.training.planner import BatchPlan
from mprm.training.recipe import Machine

# Dense teraflop/s in bfloat16, by a part of the device's name; the first that fits (NVIDIA's data sheets).
PEAK_TFLOPS = {
    **{"B200": 2250, "GH200": 990, "H200 NVL": 835, "H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989},
    **{"A100": 312, "L40S": 362, "RTX 4090": 165},
}


class Throughput:
    """The time between two laps; none is counted after a pause(), as for a validation or a checkpoint."""

    def __init__(self, module: TrainingModule, plan: BatchPlan, clock: Callable[[], float] = time.monotonic) -> None:
        self.plan = plan
        self.machine = module.schedule.machine
        self.operations = operations(module.model) if module.rows_are_planned else None
        self.clock = clock
        self.computing = self.waiting = 0.0  # seconds of this step
        self.since: float | None = None
        self.computed: Any = None  # on a GPU, an event behind the last row

    def pause(self) -> None:
        self.since = None

    def lap(self, waited: bool) -> None:
        """A row was waited for, or computed. Waiting is when the device, too, had none to compute."""
        now, before = self.clock(), self.since
        if before is not None and waited and (self.computed is None or self.computed.query()):
            self.waiting += now - before
        elif before is not None:
            self.computing += now - before
        self.since = now
        if not waited and self.machine.accelerator == "gpu":
            self.computed = torch.cuda.current_stream().record_event()

    def of_step(self, step: int) -> dict[str, float]:
        """Of the optimizer step that ends now, counted from 0: what docs/train.md says, by name."""
        seconds = max(self.computing + self.waiting, 1e-9)
        found = {"rollouts_per_second": len(self.plan.chosen(step)) / seconds, "waiting": self.waiting / seconds}
        if self.operations is not None:
            found["tokens_per_second"] = sum(tokens for tokens, _ in self.plan.rows(step)) / seconds
            if peak := peak_tflops(self.machine):
                of_device = found["tokens_per_second"] / self.machine.world_size
                found["mfu"] = of_device * self.operations / (peak * 1e12)
        resident = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux counts in KiB
        on_gpu = self.machine.accelerator == "gpu"
        found["peak_memory_gib"] = (torch.cuda.max_memory_allocated() if on_gpu else resident) / 2**30
        self.computing = self.waiting = 0.0
        return {f"speed/{name}": float(f"{value:.4g}") for name, value in found.items()}


def peak_tflops(machine: Machine) -> float | None:
    """Of one device; None where nobody says."""
    card = torch.cuda.get_device_name() if machine.accelerator == "gpu" else ""
    return machine.peak_tflops or next((tflops for part, tflops in PEAK_TFLOPS.items() if part in card), None)
