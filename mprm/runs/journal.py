"""What long work keeps while it is under way: a task its results, one by one, for the same command after a kill; a
sweep, in RUNS/sweep, its jobs and what became of each, in files: a launcher's process may outlive the sweep's."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, cast

from mprm.runs.artifacts import in_use, lock, read_json, reading, remove, write_json, write_json_lines

SWEEP = "sweep"  # folder beside the runs
SWEEP_VERSION = 1
State = Literal["waiting", "running", "done", "failed", "interrupted"]


class Journal:
    """The results, by key, of a task that writes `target`: in TARGET.journal until finish(). Made by journal()."""

    def __init__(self, target: Path, file: IO[bytes], done: dict[str, Any]) -> None:
        self.target = target
        self.file = file
        self.done = done

    def add(self, results: dict[str, Any]) -> None:
        """Keep further results; each key is added once."""
        assert not self.done.keys() & results.keys(), "a result is added once"
        lines = [json.dumps([key, result], ensure_ascii=False) for key, result in results.items()]
        self.file.write("".join(f"{line}\n" for line in lines).encode())
        self.file.flush()
        os.fsync(self.file.fileno())
        self.done.update(results)

    def add_each(self, results: Iterable[tuple[str, Any]], at_once: int) -> None:
        """Keep results as they come; a kill loses fewer than `at_once` of them."""
        coming = iter(results)
        while fresh := dict(islice(coming, at_once)):
            self.add(fresh)

    def finish(self, records: Iterable[dict[str, Any]]) -> None:
        """Write `target` as JSON lines, whole or not at all, and remove the journal."""
        write_json_lines(self.target, records)
        self.remove()

    def remove(self) -> None:
        os.unlink(self.file.name)


@contextmanager
def journal(target: Path, settings: Any, cache_of: str | None = None) -> Iterator[Journal]:
    """The journal of a task that writes `target`.

    settings: all that the results depend on, as JSON values; cache_of: what the results are, if the journal is never
    finished but a cache itself. It then waits for another process that is at it, and begins anew where it is damaged.

    Raises ValueError if the journal was begun with other settings, is damaged, or another process is at it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f"{target.name}.journal")
    header = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    with open(path, "ab+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if cache_of is None:
                raise ValueError(
                    f"{path} is in use by another process; wait until it ends, or give another output="
                ) from None
            print(f"another run computes the same {cache_of}; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            done = _read(file, header)
        except ValueError:
            if cache_of is None:
                raise
            file.truncate(0)
            done = _read(file, header)
        yield Journal(target, file, done)


def _read(file: IO[bytes], header: str) -> dict[str, Any]:
    """The results kept so far; a line that a killed process left half-written is cut off."""
    file.seek(0)
    content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    file.truncate(len(whole))
    first, *lines = whole.split(b"\n")
    if not any(lines):  # nothing is lost: a command that failed at once does not bar the corrected one
        file.truncate(0)
        file.write(f"{header}\n".encode())
        file.flush()
        return {}
    if first != header.encode():
        raise ValueError(
            f"{file.name} was begun with other settings or another input; finish it with those, delete it, or give "
            "another output="
        )
    with reading(file.name, "delete it: what it kept is then done again"):
        return dict(json.loads(line) for line in lines[:-1])


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """One run of a sweep, and how far it is."""

    # what was set for it, as in a command; no two jobs of a sweep have the same
    overrides: tuple[str, ...]
    # the overrides in which it differs from other jobs
    label: str
    # its run folder; None if its task has none, or its config was refused
    name: str | None
    # rollouts relative to all: what its duration grows with
    work: float = 1.0
    state: State = "waiting"
    # of a failure, in one line
    reason: str = ""
    # that it took; None before its end, and if an earlier sweep finished it
    seconds: float | None = None


def lock_sweep(runs: Path) -> IO[str]:
    """Hold RUNS/sweep until the file is closed. Raises ValueError if another process holds it."""
    folder = runs / SWEEP
    folder.mkdir(parents=True, exist_ok=True)
    return lock(folder, "give another runs=")


def begin_sweep(runs: Path, jobs: list[SweepJob]) -> None:
    """Write the jobs in order, with the states that are known beforehand. An older sweep's states and logs go."""
    for path in [*(runs / SWEEP).glob("*.json"), *(runs / SWEEP).glob("[0-9]*.log")]:
        remove(path)
    write_json(runs / SWEEP / "jobs.json", {"version": SWEEP_VERSION, "jobs": [asdict(job) for job in jobs]})


def record(runs: Path, overrides: Sequence[str], state: State, reason: str = "", seconds: float | None = None) -> None:
    """Write the state of the job with these overrides."""
    write_json(_of_job(runs, overrides, "json"), {"state": state, "reason": reason, "seconds": seconds})


def log_file(runs: Path, overrides: Sequence[str]) -> Path:
    """Where a job that runs in a process of its own writes what it says."""
    return _of_job(runs, overrides, "log")


def read_jobs(runs: Path) -> tuple[SweepJob, ...]:
    """The jobs of the last sweep into `runs`, in order; () if there was none, or its list is damaged.

    A job that is neither finished nor being run by a living process is interrupted once its sweep has ended. Raises
    ValueError if another version of mprm wrote them.
    """
    folder, jobs = runs / SWEEP, []
    swept = in_use(folder)
    for number, planned in enumerate(_planned(folder)):
        with suppress(ValueError):  # not begun
            planned |= read_json(folder / f"{number:03}.json")
        job = SweepJob(**planned | {"overrides": tuple(planned["overrides"])})
        if job.state in ("waiting", "running") and not swept:
            alive = job.name is not None and in_use(runs / job.name)
            job = replace(job, state="running" if alive else "interrupted")
        jobs.append(job)
    return tuple(jobs)


def _planned(folder: Path) -> list[dict[str, Any]]:
    plan: dict[str, Any] = {"version": SWEEP_VERSION, "jobs": []}
    with suppress(ValueError):  # there is none, or it is damaged
        plan = read_json(folder / "jobs.json")
    if plan["version"] != SWEEP_VERSION or (folder / "points.json").exists():
        raise ValueError(f"{folder} is another version's; remove that folder (the runs beside it stay)")
    return cast(list[dict[str, Any]], plan["jobs"])


def _of_job(runs: Path, overrides: Sequence[str], suffix: str) -> Path:
    number = [job["overrides"] for job in _planned(runs / SWEEP)].index(list(overrides))
    return runs / SWEEP / f"{number:03}.{suffix}"
