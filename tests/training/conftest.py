"""A small corpus, an untrained tiny backbone, and one short training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from mprm.backbones.internvl import InternVL
from mprm.chartworld import tiny
from mprm.chartworld.corpus import ChartWorld
from mprm.data.examples import Examples
from mprm.data.order import Shuffled
from mprm.selection.baselines import Full
from mprm.selection.keep import keep
from mprm.selection.signals import build_signals
from mprm.selection.subset import write_examples
from mprm.training.fit import fit
from mprm.training.objectives import Hard
from mprm.training.recipe import Machine, Recipe


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> InternVL:
    folder = tmp_path_factory.mktemp("internvl")
    torch.manual_seed(0)
    tiny.build("internvl", folder)
    return InternVL(path=str(folder), max_tiles=1, max_length=512)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[ChartWorld, Path]:
    """A world of 64 rollouts and the folder of its selected examples."""
    folder = tmp_path_factory.mktemp("corpus")
    world = ChartWorld(root=str(folder / "world"), rollouts=64)
    signals = build_signals(world, folder / "cache")
    write_examples(folder / "examples", world, keep(signals, Full()))
    return world, folder / "examples"


Training = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def train(backbone: InternVL, corpus: tuple[ChartWorld, Path]) -> Training:
    """train(folder, micro_batch_size=8, ...) trains 20 rollouts for two epochs in steps of 8; returns metrics.jsonl."""

    def train(folder: Path, objective: Any = None, mirror: Any = None, **machine: Any) -> list[dict[str, Any]]:
        world, subset = corpus
        records = Dataset.load_from_disk(str(subset))
        processor, model = backbone.load()
        folder.mkdir(exist_ok=True)
        fit(
            model,
            Examples(records.select(range(20)), world.image_path, processor, 512),
            Examples(records.select(range(20, 30)), world.image_path, processor, 512),
            objective or Hard(),
            Shuffled(),
            Recipe(learning_rate=1e-3, epochs=2, global_batch_size=8),
            Machine(**{"micro_batch_size": 8, "checkpoint_every": 2, "validate_every": 2} | machine),
            folder,
            seed=0,
            mirror=mirror,
        )
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    return train
