"""The one rule for what a command is told to write: nothing is lost unless overwrite=true says so.

An output that the same command finished with the same inputs is left as it is, which is said. Anything else that is
there is refused, or replaced with overwrite=true; an input of the command, or a file of a run, is never replaced.
CACHE/outputs remembers what was finished; without that cache an output is refused, never taken for another.
(report.html and its figures are made of the runs, and made again whenever they are asked for.)
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mprm.config import Config
from mprm.runs.artifacts import STAGES, file_hash, file_states, left_by, read_json, write_json
from mprm.runs.config_hash import FORMAT_VERSION
from mprm.terminal import say


@dataclass(frozen=True)
class Output:
    """The output that a key of the config names."""

    cfg: Config
    key: str
    # all that it depends on, as JSON values, the contents of the inputs included (content())
    settings: Any
    # files and folders that the command reads
    inputs: Sequence[str | Path | None]
    # of an output that is a folder: a file that every such folder holds; no other folder is replaced
    mark: str | None = None

    @property
    def target(self) -> Path:
        return Path(getattr(self.cfg, self.key))

    def is_made(self) -> bool:
        """Has this very command finished it already? Says so.

        Raises ValueError if something else is there and may not be replaced.
        """
        target, given, mark = self.target, f"{self.key}={self.target}", self.mark
        for source in (Path(one) for one in self.inputs if one is not None):
            if _is_same(source, target) or (mark and source.resolve().is_relative_to(target.resolve())):
                raise ValueError(f"{given} is an input of this command, or holds one ({source}); give another")
        if not target.exists():
            return False
        if target.is_dir() == (mark is None):
            raise ValueError(f"{given} is a {'folder; give a file' if mark is None else 'file; give a folder'}")
        if left_by(target) is not None or (target / STAGES).exists():
            raise ValueError(f"{given} belongs to a run; give another")
        if mark and (not any(target.iterdir()) or list(target.glob("*.journal"))):  # or begun, and not finished
            return False
        if self.cfg.overwrite:
            if mark and not (target / mark).is_file():
                raise ValueError(f"{given} holds files that no task={self.cfg.task} wrote; give another folder")
            return False
        if self._remembered() == self._memory():
            say(f"{given} was written by this very command: nothing to do")
            return True
        kind = "folder" if mark else "file"
        raise ValueError(f"{given} is there already; give another {kind}, or overwrite=true to replace it")

    def remember(self) -> None:
        """Note that it is finished."""
        write_json(self._place(), self._memory())

    def _memory(self) -> dict[str, Any]:
        target, settings = self.target, json.dumps([FORMAT_VERSION, self.settings], sort_keys=True)
        digest = hashlib.sha256(settings.encode()).hexdigest()
        states = file_states(target.parent, [target.name])
        return {"output": str(target.resolve()), "settings": digest, "files": states}

    def _remembered(self) -> Any:
        try:
            return read_json(self._place())
        except ValueError:  # none, or damaged
            return None

    def _place(self) -> Path:
        name = hashlib.sha256(os.fsencode(self.target.resolve())).hexdigest()[:16]
        return Path(self.cfg.cache) / "outputs" / f"{name}.json"


def content(path: str | Path | None) -> str | None:
    """Hash of an input, None for what is no file, which its reader will say."""
    return file_hash(path) if path is not None and Path(path).is_file() else None


def _is_same(a: Path, b: Path) -> bool:
    """By whatever name, links included."""
    return a.resolve() == b.resolve() or (a.exists() and b.exists() and os.path.samefile(a, b))
