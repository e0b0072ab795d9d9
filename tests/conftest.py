"""What several rooms' tests share."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from hypothesis import settings
from omegaconf import open_dict
from program import SERVER, hurry, server

from mprm.config import Config, validate
from mprm.main import open_loader
from mprm.stages.sweep import Composer

REPOSITORY = Path(__file__).resolve().parents[1]

# On a loaded machine an example takes longer than 200 ms.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
hurry()


def pytest_configure(config: pytest.Config) -> None:
    """The workers of pytest-xdist share one server of programs, which imports while they collect."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        os.environ[SERVER] = server()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked gpu on a machine without one; torch is imported only when such a test was collected."""
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if gpu_tests:
        import torch

        if not torch.cuda.is_available():
            for item in gpu_tests:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """What a test leaves in the environment goes with it: of Lightning's MASTER_PORT submitit's processes would die."""
    with mock.patch.dict(os.environ):
        yield


@cache
def composer() -> Composer:
    """Gives the configs that Hydra gives (tests/stages/test_sweep_plan.py), and reads the files once for all tests."""
    loader = open_loader(REPOSITORY / "conf", None)
    GlobalHydra.instance().clear()
    return Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Config]:
    """load("selector=bis", "seed=1"): what run.py makes of these overrides, its folders in the test's temporary one;
    typed: it refuses what the task does not use, and they win over what run= says."""

    def load(*overrides: str, typed: bool = False) -> Config:
        folders = [f"runs={tmp_path / 'runs'}", f"cache={tmp_path / 'cache'}"]
        raw = composer().compose([*folders, *overrides])
        choices = dict(raw.hydra.runtime.choices)
        with open_dict(raw):
            del raw["hydra"]
        return validate(raw, choices, overrides if typed else ())

    return load
