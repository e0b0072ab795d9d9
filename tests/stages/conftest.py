"""What tests of sweeps share, and a trained run."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from program import RUN, Program, forked_python, run_program, start_program

from mprm.config import Config
from mprm.runs.artifacts import write_text
from mprm.training.checkpoint import save_weights

Started = Callable[..., contextlib.AbstractContextManager[Program]]
Execute = Callable[..., tuple[int, str, str]]


@pytest.fixture
def forking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes that joblib and submitit start are forked."""
    for name, value in forked_python(tmp_path).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def started() -> Started:
    """started(folder, "key=value"): a sweep in the folder, killed when the block ends; `before`: code to run first."""

    @contextlib.contextmanager
    def started(folder: Path, *arguments: str, before: str = "") -> Iterator[Program]:
        code = f"{before}; import runpy; runpy.run_path({RUN!r}, run_name='__main__')"
        process = start_program(*(["-c", code] if before else [RUN]), "-m", *arguments, cwd=folder)
        try:
            yield process
        finally:
            process.kill()

    return started


@pytest.fixture
def execute() -> Execute:
    """execute(folder, "key=value"): a sweep to its end; exit code and what it said and complained of."""

    def execute(folder: Path, *arguments: str) -> tuple[int, str, str]:
        done = run_program(RUN, "-m", *arguments, cwd=folder)
        return done.returncode, done.stdout, done.stderr

    return execute


@pytest.fixture
def run(load: Callable[..., Config], tmp_path: Path) -> Callable[..., Path]:
    """run("name", kappa, seed): the folder of a trained run."""

    def run(name: str, kappa: bool = False, seed: int = 0) -> Path:
        config = load("backbone=chartworld_internvl", f"name={name}", f"seed={seed}")
        torch.manual_seed(seed)
        model = config.backbone.load()[1]
        model.set_kappa(kappa)
        write_text(tmp_path / "runs" / name / "config.yaml", OmegaConf.to_yaml(config.raw, resolve=True))
        save_weights(model, tmp_path / "runs" / name / "weights.safetensors")
        return tmp_path / "runs" / name

    return run
