"""The one rule for what a command is told to write: nothing that is there is lost, unless overwrite=true says so.

An output that this very command finished, with the same inputs, is left as it is, which is said. Anything else that is
there is refused, or replaced with overwrite=true; an input of the command, or a file of a run, is never replaced. What
was finished is remembered in CACHE/outputs; without that cache an output is refused, never taken for another.
(report.html and what lies beside it are made of the runs, and made again whenever they are asked for.)
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mprm.config import Config
from mprm.runs.artifacts import STAGES, file_hash, file_states, left_by, read_json, write_json
from mprm.terminal import say


def is_made(cfg: Config, key: str, settings: Any, inputs: Iterable[str | Path | None], mark: str | None = None) -> bool:
    """Is the output that the config's `key` names what this very command has finished already?

    Args:
        settings: all that the output depends on, as JSON values, the contents of the inputs included (content()).
        inputs: files and folders that the command reads.
        mark: of an output that is a folder: a file that every such folder holds. No other folder is replaced.

    Raises ValueError if something else is there and may not be replaced.
    """
    target = Path(getattr(cfg, key))
    for source in (Path(one) for one in inputs if one is not None):
        if _is_same(source, target) or (mark and source.resolve().is_relative_to(target.resolve())):
            raise ValueError(f"{key}={target} is an input of this command, or holds one ({source}); give another")
    if not target.exists():
        return False
    if target.is_dir() == (mark is None):
        raise ValueError(f"{key}={target} is a {'folder; give a file' if mark is None else 'file; give a folder'}")
    if left_by(target) is not None or (target / STAGES).exists():
        raise ValueError(f"{key}={target} belongs to a run; give another")
    if mark and (not any(target.iterdir()) or list(target.glob("*.journal"))):  # or begun, and not finished
        return False
    if cfg.overwrite:
        if mark and not (target / mark).is_file():
            raise ValueError(f"{key}={target} holds files that no task={cfg.task} wrote; give another folder")
        return False
    if _remembered(cfg, target) == _memory(target, settings):
        say(f"{key}={target} was written by this very command: nothing to do")
        return True
    kind = "folder" if mark else "file"
    raise ValueError(f"{key}={target} is there already; give another {kind}, or overwrite=true to replace it")


def remember(cfg: Config, key: str, settings: Any) -> None:
    """Note that the output is finished."""
    target = Path(getattr(cfg, key))
    write_json(_place(cfg, target), _memory(target, settings))


def content(path: str | Path | None) -> str | None:
    """Hash of an input, None for what is no file, which its reader will say."""
    return file_hash(path) if path is not None and Path(path).is_file() else None


def _is_same(a: Path, b: Path) -> bool:
    """By whatever name, links included."""
    return a.resolve() == b.resolve() or (a.exists() and b.exists() and os.path.samefile(a, b))


def _memory(target: Path, settings: Any) -> dict[str, Any]:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return {"output": str(target.resolve()), "settings": digest, "files": file_states(target.parent, [target.name])}


def _remembered(cfg: Config, target: Path) -> Any:
    try:
        return read_json(_place(cfg, target))
    except ValueError:  # none, or damaged
        return None


def _place(cfg: Config, target: Path) -> Path:
    name = hashlib.sha256(os.fsencode(target.resolve())).hexdigest()[:16]
    return Path(cfg.cache) / "outputs" / f"{name}.json"
