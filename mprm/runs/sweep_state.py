"""The state of a sweep, in RUNS/sweep: the list of its jobs, and a file for what became of each.

Files, because a launcher may run every job in a process of its own, on another machine, that outlives the sweep's.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

from mprm.runs.artifacts import in_use, lock, read_json, remove, write_json

FOLDER = "sweep"
VERSION = 1
State = Literal["waiting", "running", "done", "failed", "interrupted"]


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
    folder = runs / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return lock(folder, "give another runs=")


def begin_sweep(runs: Path, jobs: list[SweepJob]) -> None:
    """Write the jobs in order, with the states that are known beforehand. An older sweep's states and logs go."""
    for path in [*(runs / FOLDER).glob("*.json"), *(runs / FOLDER).glob("[0-9]*.log")]:
        remove(path)
    write_json(runs / FOLDER / "jobs.json", {"version": VERSION, "jobs": [asdict(job) for job in jobs]})


def record(runs: Path, overrides: Sequence[str], state: State, reason: str = "", seconds: float | None = None) -> None:
    """Write the state of the job with these overrides."""
    outcome = {"state": state, "reason": reason, "seconds": seconds}
    write_json(runs / FOLDER / f"{_number(runs, overrides):03}.json", outcome)


def log_file(runs: Path, overrides: Sequence[str]) -> Path:
    """Where a job that runs in a process of its own writes what it says."""
    return runs / FOLDER / f"{_number(runs, overrides):03}.log"


def read_jobs(runs: Path) -> tuple[SweepJob, ...]:
    """The jobs of the last sweep into `runs`, in order; () if there was none, or its list is damaged.

    A job that is neither finished nor being run by a living process is interrupted once its sweep has ended. Raises
    ValueError if another version of mprm wrote them.
    """
    folder, jobs = runs / FOLDER, []
    swept = in_use(folder)
    for number, planned in enumerate(_planned(folder)):
        found = planned | _read(folder / f"{number:03}.json", {})
        job = SweepJob(**found | {"overrides": tuple(planned["overrides"])})
        if job.state in ("waiting", "running") and not swept:
            alive = job.name is not None and in_use(runs / job.name)
            job = replace(job, state="running" if alive else "interrupted")
        jobs.append(job)
    return tuple(jobs)


def _planned(folder: Path) -> list[dict[str, Any]]:
    plan = _read(folder / "jobs.json", {"version": VERSION, "jobs": []})
    if plan["version"] != VERSION or (folder / "points.json").exists():
        raise ValueError(f"{folder} is another version's; remove that folder (the runs beside it stay)")
    jobs: list[dict[str, Any]] = plan["jobs"]
    return jobs


def _read(path: Path, otherwise: Any) -> Any:
    """A file of the state; `otherwise` when it is not there (yet) or damaged: then nothing is known."""
    try:
        return read_json(path)
    except ValueError:
        return otherwise


def _number(runs: Path, overrides: Sequence[str]) -> int:
    return [job["overrides"] for job in _planned(runs / FOLDER)].index(list(overrides))
