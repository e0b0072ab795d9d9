"""What is said on the terminal: lines, one style of progress bar, and the next useful command."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mprm.runs.artifacts import is_rank_zero

if TYPE_CHECKING:  # imported by those tasks that show a table or a bar
    from rich.console import Console
    from rich.progress import Progress

Item = TypeVar("Item")

_silent = False


def console() -> Console:
    """Where tables are printed."""
    from rich.console import Console

    # A log file has no width of its own. [b] in a path is a path's, no mark for bold letters.
    return Console(width=None if sys.stdout.isatty() else 120, markup=False, emoji=False, quiet=_silent)


@contextmanager
def silence() -> Iterator[None]:
    """Nothing is said or printed until the block ends."""
    global _silent
    _silent = True
    try:
        yield
    finally:
        _silent = False


def say(line: str) -> None:
    """A line that only the terminal breaks, so that a path or a command in it is copied whole."""
    if not _silent:
        print(line, flush=True)


def command() -> str:
    """How this program was called: `python run.py`, or `mprm` as installed."""
    script = Path(sys.argv[0])
    return f"python {shlex.quote(sys.argv[0])}" if script.suffix == ".py" else script.name


def say_next(*overrides: str) -> None:
    """The next useful command."""
    if is_rank_zero():
        say(f"next: {command()} {shlex.join(overrides)}")


def retyped(task: str) -> list[str]:
    """The words of this command for another task on the same run; flags stand before the overrides."""
    kept = [word for word in sys.argv[1:] if not word.startswith(("export=", "redo=", "overwrite=", "check="))]
    if not any(word.startswith("task=") for word in kept):
        return [*kept, f"task={task}"]
    return [f"task={task}" if word.startswith("task=") else word for word in kept]


def bar() -> Progress:
    """What is being done, how far it is, and the time left, in one line that goes when it is done; no file gets it."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(20), TimeRemainingColumn(compact=True)
    shown = Progress(*columns, transient=True)  # on a console of its own: the jobs of a sweep have one, too
    shown.disable = not shown.console.is_terminal
    return shown


def tracked(items: Iterable[Item], total: int, description: str) -> Iterator[Item]:
    """The items, with a bar."""
    with bar() as shown:
        yield from shown.track(items, total, description=description)


def listed(counts: Mapping[str, int]) -> str:
    """Counts by reason, in words."""
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())
