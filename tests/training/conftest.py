"""A small corpus, an untrained tiny backbone, and one short training."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from pytorch_lightning.strategies import DDPStrategy, Strategy

from mprm.backbones.internvl import InternVL
from mprm.batching.examples import Examples
from mprm.batching.order import Shuffled
from mprm.chartworld.corpus import ChartWorld
from mprm.selection.examples import write_examples
from mprm.selection.selectors import Full
from mprm.selection.signals import build_signals
from mprm.selection.subset import keep
from mprm.training import fit as fit_module
from mprm.training.fit import fit
from mprm.training.lengths import measure_again
from mprm.training.module import StepScoring, learnt
from mprm.training.objectives import Hard
from mprm.training.recipe import Machine, Recipe, Schedule
from mprm.training.strategies import build_strategy
from tools import tiny


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> InternVL:
    folder = tmp_path_factory.mktemp("internvl")
    torch.manual_seed(0)
    tiny.build("internvl", folder)
    return InternVL(path=str(folder), max_tiles=1, max_length=512)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[ChartWorld, Path]:
    """A world of 64 rollouts, four of a question, and the folder of its selected examples."""
    folder = tmp_path_factory.mktemp("corpus")
    world = ChartWorld(root=str(folder / "world"), rollouts=64)
    signals = build_signals(world, folder / "cache")
    write_examples(folder / "examples", world, keep(signals, Full()))
    return world, folder / "examples"


Parts = Callable[[Any, range], Examples]
Training = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def part(corpus: tuple[ChartWorld, Path]) -> Parts:
    """part(processor, range(20)): these rollouts of the corpus, encoded by the processor."""
    world, subset = corpus
    records = Dataset.load_from_disk(str(subset))
    return lambda processor, numbers: Examples(records.select(numbers), world.image_folder.path, processor)


def forked(machine: Machine) -> str | Strategy:
    """build_strategy's; ranks on CPUs are forked, not spawned, which would import everything once more."""
    if machine.strategy == "ddp_cpu":
        return DDPStrategy(process_group_backend="gloo", start_method="fork")
    return build_strategy(machine)


@pytest.fixture(scope="session")
def train(backbone: InternVL, part: Parts) -> Training:
    """train(folder, max_tokens=256, ...) trains 20 rollouts for two epochs in steps of 8; returns metrics.jsonl.

    A rollout has 60 to 109 tokens: 109 hold one, or a few of one question, 4096 all of a step. relabel: gives a record,
    by its number, other scores.
    """

    def train(
        folder: Path,
        objective: Any = None,
        order: Any = None,
        mirror: Any = None,
        options: Any = None,
        recipe: Any = None,
        watch: Any = None,
        relabel: Any = None,
        spawned: bool = False,
        **machine: Any,
    ) -> list[dict[str, Any]]:
        torch.manual_seed(0)
        processor, model = replace(backbone, **(options or {})).load()
        if watch is not None:
            watch(model)
        folder.mkdir(exist_ok=True)
        schedule = Schedule(
            Recipe(**{"learning_rate": 1e-3, "epochs": 2, "global_batch_size": 8} | (recipe or {})),
            Machine(**{"max_tokens": 4096, "checkpoint_every": 2, "validate_every": 2} | machine),
            order or Shuffled(),
            seed=0,
        )
        trained, validated = (part(processor, numbers) for numbers in (range(20), range(20, 30)))
        if relabel is not None:
            trained.records = trained.records.map(relabel, with_indices=True, load_from_cache_file=False)
        measured, share = learnt(objective or Hard(), measure_again(trained, {}, 0))
        module = StepScoring(model, objective or Hard(), schedule, share)
        with pytest.MonkeyPatch.context() as patched:
            if not spawned:
                patched.setattr(fit_module, "build_strategy", forked)
            fit(module, measured, measure_again(validated, {}, 0), folder, mirror)
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    return train
