"""What the user is told about a mistake: one line that names the key, the value and the remedy."""

import difflib
import re
import traceback
from argparse import ArgumentParser
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NoReturn, get_args, get_origin

import hydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}

# Other projects' names for keys.
ALIASES = {"lr": "learning_rate", "batch_size": "global_batch_size", "num_epochs": "epochs", "model": "path"}

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


def explain(error: Exception) -> tuple[str, int] | None:
    """One line and an exit code for an error that its message explains: 2 for the user's mistake, 1 for the machine's.

    None for everything else, which is a bug of ours and deserves its traceback. So does a ValueError that this project
    (or Hydra, reading the command line) did not raise itself: its message is not written for the user.
    """
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
