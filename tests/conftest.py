"""What several rooms' tests share."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import settings
from omegaconf import open_dict
from program import SERVER, server

from mprm.config import Config, validate

REPOSITORY = Path(__file__).resolve().parents[1]

# On a loaded machine an example takes longer than 200 ms.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


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


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Config]:
    """load("selector=bis", "seed=1"): what run.py makes of these overrides, its folders in the test's temporary one."""

    def load(*overrides: str) -> Config:
        folders = [f"runs={tmp_path / 'runs'}", f"cache={tmp_path / 'cache'}"]
        with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
            raw = compose("config", [*folders, *overrides], return_hydra_config=True)
        choices = dict(raw.hydra.runtime.choices)
        with open_dict(raw):
            del raw["hydra"]
        return validate(raw, choices)

    return load
