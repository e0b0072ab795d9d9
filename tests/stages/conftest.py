"""What tests of sweeps share."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from program import RUN, Program, forked_python, run_program, start_program

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
