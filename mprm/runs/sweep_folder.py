"""What a multirun leaves in RUNS/sweep: the list of its points, and a file for the state of each.

Files, because a launcher may run every point in a process of its own, on another machine, that outlives the first one.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from mprm.runs.artifacts import read_json, remove, write_json
from mprm.runs.run_folder import in_use, lock

FOLDER = "sweep"
STATES = ("waiting", "running", "done", "failed", "interrupted")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of a multirun, and how far it is.

    overrides: what was set for it. label: those of them in which it differs from other points. name: its run folder,
    None for a config that could not be composed. work: rollouts relative to all, what its duration grows with. state:
    one of STATES. reason: of a failure, one line. seconds: that its run took in this multirun, None before its end and
    for one that an earlier multirun finished.
    """

    overrides: str
    label: str
    name: str | None
    work: float = 1.0
    state: str = "waiting"
    reason: str = ""
    seconds: float | None = None


def lock_sweep(runs: Path) -> IO[str]:
    """Hold RUNS/sweep until the file is closed. Raises ValueError if another process holds it."""
    folder = runs / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return lock(folder, "give another runs=")


def write_points(runs: Path, points: list[Point]) -> None:
    """Begin a multirun: its points in order, with the states known beforehand. Older states and logs are removed."""
    for path in [*(runs / FOLDER).glob("[0-9]*.json"), *(runs / FOLDER).glob("[0-9]*.log")]:
        remove(path)
    write_json(runs / FOLDER / "points.json", [asdict(point) for point in points])


def record(runs: Path, overrides: str, state: str, reason: str = "", seconds: float | None = None) -> None:
    """Write the state of the point with these overrides."""
    outcome = {"state": state, "reason": reason, "seconds": seconds}
    write_json(runs / FOLDER / f"{_number(runs, overrides):03}.json", outcome)


def log_file(runs: Path, overrides: str) -> Path:
    """Where a point that runs in a process of its own writes what it says."""
    return runs / FOLDER / f"{_number(runs, overrides):03}.log"


def read_points(runs: Path) -> tuple[Point, ...]:
    """The points of the last multirun into `runs`, in order; () if there was none.

    A point that is neither finished nor being run by a living process is interrupted once its multirun has ended.
    """
    folder = runs / FOLDER
    swept = in_use(folder)
    points = []
    for number, planned in enumerate(_read(folder / "points.json", [])):
        point = Point(**planned | _read(folder / f"{number:03}.json", {}))
        if point.state in ("waiting", "running") and not swept:
            alive = point.name is not None and in_use(runs / point.name)
            point = Point(**asdict(point) | {"state": "running" if alive else "interrupted"})
        points.append(point)
    return tuple(points)


def _read(path: Path, otherwise: Any) -> Any:
    """A file of the state; `otherwise` when it is not there (yet) or damaged: then nothing is known."""
    try:
        return read_json(path)
    except ValueError:
        return otherwise


def _number(runs: Path, overrides: str) -> int:
    return [point["overrides"] for point in read_json(runs / FOLDER / "points.json")].index(overrides)
