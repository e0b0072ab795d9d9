"""What tests of sweeps share."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from program import RUN, run_program

REPOSITORY = Path(__file__).resolve().parents[2]
Started = Callable[..., contextlib.AbstractContextManager[subprocess.Popen[str]]]
Execute = Callable[..., tuple[int, str, str]]


@pytest.fixture
def started() -> Started:
    """started(folder, "key=value"): a sweep in the folder, killed when the block ends."""

    @contextlib.contextmanager
    def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, str(REPOSITORY / "run.py"), "-m", *arguments]
        # A shell starts what runs in its background with the signal ignored, and children inherit that.
        heard = signal.signal(signal.SIGINT, signal.default_int_handler)
        with subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            signal.signal(signal.SIGINT, heard)
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
