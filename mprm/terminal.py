"""What is said on the terminal: lines, progress bars, the next useful command, and one line for every mistake."""

from __future__ import annotations

import difflib
import re
import shlex
import sys
import traceback
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_args, get_origin

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


def retyped(task: str, *groups: str) -> list[str]:
    """The words of this command for another task on the same run; groups: of the overrides those of these alone. Flags
    stand before the overrides."""
    kept = [word for word in sys.argv[1:] if not word.startswith(("export=", "redo=", "overwrite=", "check="))]
    if groups:
        wanted = ("task", *groups)
        kept = [word for word in kept if "=" not in word or re.split("[.=@]", word.lstrip("+~"))[0] in wanted]
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


def say_without_image(what: str, number: int) -> None:
    """Say how many records name no image: where one was meant, its key has another name."""
    if number:
        say(f"{number:,} {what} name no image")


TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
TYPE_NAMES |= {dict[str, float]: "a number by name, {a: 2, b: 1},", dict[str, Any]: "keys with values, or leave it out"}

# Names for keys of other projects, and of earlier versions.
ALIASES = {"lr": "learning_rate", "batch_size": "global_batch_size", "num_epochs": "epochs", "model": "path"}
ALIASES |= {"gradient_checkpointing": "checkpoint_layers"}

PRETRAINING = (
    "task=pretrain is a program of its own now; give python -m tools.pretrain chartworld_internvl --output DIR "
    "in a checkout, see docs/chartworld.md"
)

# Place and message of the line that raised in a loader's worker process.
IN_WORKER = re.compile(
    r'Caught ValueError in DataLoader worker process.*File "([^"]+)", line [^\n]+\n +raise [^\n]+\n(?: +[\^~ ]+\n)?'
    r"ValueError: ([^\n]+)\s*\Z",
    re.DOTALL,
)

# A worker that died, as torch says it.
DEAD_WORKER = re.compile(r"DataLoader worker \(pid.*\) (?:is killed by signal|exited unexpectedly)")
FEWER_WORKERS = "Most often the machine's memory is full: give fewer trainer.num_workers; the same command resumes"


def explain(error: Exception) -> tuple[str, int] | None:
    """One line and an exit code for an error that its message explains: 2 for the user's mistake, 1 for the machine's.

    None for everything else, which is a bug of ours and deserves its traceback. So does a ValueError that this project
    (or Hydra, reading the command line) did not raise itself: its message is not written for the user.
    """
    import hydra  # which a training need not load
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf import DictConfig
    from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
    from yaml import YAMLError

    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = [str(option) for option in error.options]
        more = "; pip install -e '.[sweeps]' brings joblib and submitit" if group == "hydra/launcher" else ""
        return f"{group}={choice} is not one of {', '.join(options)}{did_you_mean(choice, options)}{more}", 2
    if isinstance(error, OverrideParseException):
        return f"'{error.override}' cannot be read; write key=value, a list as key=[a,b], odd characters in quotes", 2
    if isinstance(error, HydraException) and re.search(r"(?:override|Key) 'pretrain\b", str(error)):
        return PRETRAINING, 2
    if isinstance(error, HydraException) and isinstance(error.__cause__, ConfigKeyError | AttributeError):
        unknown = error.__cause__
        if isinstance(unknown, OmegaConfBaseException) and unknown.parent_node is not None:
            parent = unknown.parent_node
            known = [str(key) for key in parent if key not in ("hydra", "_target_")]
            nodes = {name: parent._get_node(name) for name in known}
            inner = [f"{name}.{key!s}" for name, node in nodes.items() if isinstance(node, DictConfig) for key in node]
            return unknown_key(str(unknown.full_key), known, inner), 2
    if isinstance(error, HydraException | YAMLError):
        return " ".join(str(error).split()), 2
    if isinstance(error, OSError):
        return " ".join(str(error).split()), 1
    if isinstance(error, RuntimeError) and DEAD_WORKER.match(str(error)):
        return f"{str(error).strip(' .')}. {FEWER_WORKERS}", 1
    if isinstance(error, ValueError):
        if from_worker := IN_WORKER.match(str(error)):
            # torch gives the traceback of a loader's process as text
            return (from_worker[2], 2) if Path(from_worker[1]).is_relative_to(Path(__file__).parent) else None
        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = any(Path(last.filename).is_relative_to(Path(module).parent) for module in (__file__, hydra.__file__))
        if ours and (last.line or "").startswith("raise"):  # not raised by C code, such as numpy's, that we called
            return " ".join(str(error).split()), 2
    return None


def refuse_flags(parser: ArgumentParser, message: str) -> NoReturn:
    """Takes the place of the parser's error(), which prints its usage on seven lines."""
    raise ValueError(f"{message}; flags (see --help) stand before the first key=value, as in python run.py -m seed=0,1")


def unknown_key(full_key: str, known: list[str], inner: Iterable[str] = ()) -> str:
    """inner: keys one level below the known ones, in which the user may have meant it."""
    parent, _, key = full_key.rpartition(".")
    place, more = (f"{parent} has", "; task=list shows all") if parent else ("the keys are", "")
    more += f"; +dataset@{full_key}=NAME adds a part" if parent == "dataset.parts" else ""
    named = [name for name in [*known, *inner] if name.rpartition(".")[2] == ALIASES.get(key, key)]
    meant = f" (did you mean {' or '.join(named)}?)" if named else did_you_mean(key, known)
    return f"{full_key} is not a known key{meant}; {place} {', '.join(known) or 'no keys'}{more}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def type_name(wanted: Any) -> str:
    if get_origin(wanted) is UnionType:
        return " or ".join(type_name(choice) for choice in get_args(wanted))
    if is_dataclass(wanted):
        return f"{', '.join(field.name for field in fields(wanted))} in it, each as text"
    return "a list, [a,b]" if get_origin(wanted) is list else TYPE_NAMES.get(wanted, str(wanted))
