"""Results of a long task, kept one by one and found again when the same command is started after a kill."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from mprm.runs.artifacts import reading, write_json_lines


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
        os.unlink(self.file.name)


@contextmanager
def journal(target: Path, settings: Any, cache_of: str | None = None) -> Iterator[Journal]:
    """The journal of a task that writes `target`.

    Args:
        settings: all that the results depend on, as JSON values.
        cache_of: what the results are, if the journal is never finished but a cache itself. It then waits for another
            process that is at it, and begins anew where it is damaged.

    Raises:
        ValueError: the journal was begun with other settings, is damaged, or another process is at it.
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
    if not whole:
        file.write(f"{header}\n".encode())
        file.flush()
        return {}
    first, *lines = whole.split(b"\n")[:-1]
    if first != header.encode():
        raise ValueError(
            f"{file.name} was begun with other settings or another input; finish it with those, delete it, or give "
            "another output="
        )
    with reading(file.name, "delete it: what it kept is then done again"):
        return dict(json.loads(line) for line in lines)
