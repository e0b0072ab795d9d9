"""One point of a multirun, in the sweeper's own process or in one of a launcher's."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from time import monotonic

from mprm.runs.artifacts import is_rank_zero
from mprm.runs.sweep_folder import Point, log_file, read_points, record
from mprm.stages import progress
from mprm.terminal import silence

Attempt = Callable[[], tuple[int, str]]  # runs the point: exit code, and the reason in one line where it is not 0

POLL_SECONDS = 1.0

in_sweeper = False  # are the points run one after the other, in the sweeper's own process?


def run_point(runs: Path, overrides: str, attempt: Attempt) -> None:
    """Run a point and record what became of it.

    In processes of its own what it says goes to a log file; else one line is said before it and one after.
    """
    join_process_group()
    if not is_rank_zero():
        with _aside(runs, overrides):
            exit_code, reason = attempt()
        if exit_code and _state(runs, overrides) != "failed":
            record(runs, overrides, "failed", reason)
        return
    if in_sweeper:
        points = read_points(runs)
        number = [point.overrides for point in points].index(overrides)
        print(f"{number + 1} of {len(points)}: {points[number].label}", flush=True)
    record(runs, overrides, "running")
    started = monotonic()
    with silence() if in_sweeper else _aside(runs, overrides):
        exit_code, reason = attempt()
    record(runs, overrides, "failed" if exit_code else "done", reason, round(monotonic() - started, 1))
    if in_sweeper:
        print(outcome(runs, overrides), flush=True)


def outcome(runs: Path, overrides: str) -> str:
    """What became of a point and how far the multirun is, in one line."""
    points = read_points(runs)
    point = next(point for point in points if point.overrides == overrides)
    became = point.reason if point.state == "failed" else _result(runs, point)
    took = "" if point.seconds is None else f" in {point.seconds:.0f} s"
    left = progress.time_left(points)
    return f"{point.state}{took}: {became} [{progress.counts(points)}{f'; {left}' if left else ''}]"


def join_process_group() -> None:
    """Tell the training which rank this is, if submitit started several processes for the point on one machine.

    In a SLURM job SLURM itself tells.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        import submitit

        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)


def _result(runs: Path, point: Point) -> str:
    known = point.name is not None and (runs / point.name / "stages.json").exists()
    return progress.result(runs / str(point.name)) if known else point.label


def _state(runs: Path, overrides: str) -> str:
    return next(point.state for point in read_points(runs) if point.overrides == overrides)


@contextmanager
def polling(look: Callable[[], None]) -> Iterator[None]:
    """Call `look` every second, in a thread of its own, until the block ends."""
    ended = Event()

    def watch() -> None:
        while not ended.wait(POLL_SECONDS):
            look()

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _aside(runs: Path, overrides: str) -> Iterator[None]:
    def end_with_other_ranks() -> None:
        """This process would wait for a rank that has failed, and no launcher ends it."""
        if _state(runs, overrides) == "failed":
            os._exit(1)

    with _into(log_file(runs, overrides)), polling(end_with_other_ranks):
        yield


@contextmanager
def _into(path: Path) -> Iterator[None]:
    """Everything that this process writes to its output goes to the file, its bars and its libraries' lines too."""
    before = [os.dup(1), os.dup(2)]
    with path.open("a", encoding="utf-8") as file:
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(before, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)
