"""One rank of a training, as torchrun would start it: `python one_rank.py JOB`, with the launcher's variables set."""

import json
import os
import signal
import sys
from itertools import count
from pathlib import Path
from typing import Any

import deepspeed
import torch
from datasets import Dataset
from deepspeed.accelerator import set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from pytorch_lightning.strategies import DeepSpeedStrategy

from mprm.backbones.internvl import InternVL
from mprm.batching.examples import Examples
from mprm.batching.order import Shuffled
from mprm.chartworld.corpus import ChartWorld
from mprm.training import fit as fit_module
from mprm.training import objectives
from mprm.training.lengths import measure_again
from mprm.training.module import StepScoring
from mprm.training.recipe import Machine, Recipe, Schedule
from mprm.training.strategies import Sharded, build_strategy


class OnCPU(Sharded):
    """Without Lightning's demand for CUDA: DeepSpeed itself runs on CPUs, over gloo.

    Its shared memory for inference on CPUs, minutes of C++ that no training calls, is not built.
    """

    def setup_environment(self) -> None:
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", 0)


def for_tests(machine: Machine) -> Any:
    """build_strategy's, on the CPU too. ZeRO-3 partitions all parameters here; it would keep such small ones whole."""
    strategy = build_strategy(machine)
    if isinstance(strategy, Sharded):
        assert isinstance(strategy.config, dict)
        strategy.config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        if machine.accelerator == "cpu":
            strategy.__class__ = OnCPU
    return strategy


def main(job: dict[str, Any]) -> None:
    """Train 20 rollouts for two epochs in steps of 8.

    The process is killed when it has done step `kill_at`. The last rank is told to end in its forward pass number
    `told_at`, and has a gradient without numbers in step `nan_at`.
    """

    def kill(line: dict[str, float]) -> None:
        if line["step"] == job["kill_at"]:
            os.kill(os.getpid(), signal.SIGKILL)

    records = Dataset.load_from_disk(job["subset"])
    world = ChartWorld(root=job["world"], rollouts=64)
    processor, model = InternVL(path=job["backbone"], max_tiles=1, max_length=512).load()
    train, validation = (
        measure_again(Examples(records.select(chosen), world.image_folder.path, processor), {}, 0)
        for chosen in (range(20), range(20, 30))
    )
    recipe = Recipe(learning_rate=1e-3, epochs=2, global_batch_size=8)
    machine, objective = Machine(**job["machine"]), getattr(objectives, job["objective"])()
    if int(os.environ["RANK"]) == machine.devices - 1:
        disturb(job)
    if machine.accelerator == "cpu":
        set_accelerator(CPU_Accelerator())  # where there is a GPU, DeepSpeed has chosen it as it was imported
    # As DeepSpeed begins it compiles an optimizer that is not used: half of this process would be torch's compiler.
    compile_ = torch.compile
    torch.compile = lambda function=None, dynamic=None, **_: (
        compile_(function, dynamic=True, backend="aot_eager") if dynamic else lambda function: function
    )
    fit_module.build_strategy = for_tests
    module = StepScoring(model, objective, Schedule(recipe, machine, Shuffled(), seed=0))
    fit_module.fit(module, train, validation, Path(job["folder"]), kill)
    if machine.compile:
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
        assert not torch._dynamo.utils.counters["graph_break"], torch._dynamo.utils.counters["graph_break"]


def disturb(job: dict[str, Any]) -> None:
    step, passes = StepScoring.training_step, count(1)

    def training_step(self: StepScoring, batch: Any, batch_index: int) -> torch.Tensor:
        loss = step(self, batch, batch_index)
        if next(passes) == job["told_at"]:
            os.kill(os.getpid(), signal.SIGUSR1)
        return loss * float("nan") if self.trainer.global_step + 1 == job["nan_at"] else loss

    StepScoring.training_step = training_step  # type: ignore[method-assign]


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)  # as run.py
