"""Writes are whole or absent, also under SIGKILL and on a full disk."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mprm.runs import artifacts
from mprm.runs.artifacts import (
    atomic_file,
    atomic_folder,
    file_hash,
    read_json,
    weights_written,
    write_json,
    write_text,
)


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_write_text_replaces_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "a.txt", "old")
    write_text(tmp_path / "deep" / "a.txt", "neu, größer")
    assert (tmp_path / "deep" / "a.txt").read_text(encoding="utf-8") == "neu, größer"
    assert entries(tmp_path / "deep") == ["a.txt"]


def test_written_files_have_the_usual_permissions(tmp_path: Path) -> None:
    write_text(tmp_path / "atomic", "x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_write_json_refuses_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, None]})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"b": float("nan")})
    assert read_json(tmp_path / "a.json") == {"b": [1, None]}


def test_an_error_inside_atomic_file_keeps_the_old_content(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")

    def fail_halfway() -> None:
        with atomic_file(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail_halfway()
    assert (tmp_path / "a").read_text() == "old"
    assert entries(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    write_text(tmp_path / "a", "old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(artifacts.os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "a", "new")
    monkeypatch.undo()
    assert (tmp_path / "a").read_text() == "old"
    assert entries(tmp_path) == ["a"]


def test_atomic_folder_replaces_the_old_folder_whole(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / content).mkdir()
            (temporary / content / "file").write_text(content)
            assert temporary != tmp_path / "folder"
    assert entries(tmp_path) == ["folder"]
    assert entries(tmp_path / "folder") == ["new"]


def test_an_error_inside_atomic_folder_keeps_the_old_folder(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "file").write_text("old")

    def fail_halfway() -> None:
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "other").write_text("half")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail_halfway()
    assert entries(tmp_path) == ["folder"]
    assert entries(tmp_path / "folder") == ["file"]


WRITER = """
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from mprm.runs.artifacts import atomic_folder, write_json
target = Path(sys.argv[1])
for number in range(1_000_000):
    write_json(target / "file.json", {"number": number, "padding": ["x" * 100] * 500})
    with atomic_folder(target / "folder") as folder:
        for name in ("a", "b"):
            (folder / name).write_text(str(number) * 10_000)
    print(number, flush=True)
"""


def test_sigkill_while_writing_leaves_nothing_half_written(tmp_path: Path) -> None:
    for attempt in range(6):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "0\n"  # it is now rewriting both, over and over
            time.sleep(0.0071 * attempt)
            writer.kill()
        assert writer.returncode == -signal.SIGKILL
        assert len(json.loads((tmp_path / "file.json").read_text())["padding"]) == 500
        if (tmp_path / "folder").exists():  # absent when killed between its two renames
            a, b = ((tmp_path / "folder" / name).read_text() for name in "ab")
            assert a == b != ""


def test_file_hash_is_the_sha256_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_hash(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_weights_are_named_by_the_newest_file(tmp_path: Path) -> None:
    assert weights_written(tmp_path) == 0
    for name, seconds in (("a.safetensors", 5), ("b.safetensors", 3), ("config.json", 9), ("training_args.bin", 9)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (seconds, seconds))
    assert weights_written(tmp_path) == 5 * 10**9
    for name, seconds in (("pytorch_model.bin", 6), ("pytorch_model-00001-of-00002.bin", 7)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (seconds, seconds))
        assert weights_written(tmp_path) == seconds * 10**9


class Unnamed(Exception):
    """What safetensors raises: an error of its own, without the file."""


@pytest.mark.parametrize("write", [atomic_file, atomic_folder])
@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        Unnamed("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_names_the_file(tmp_path: Path, write: Callable[..., Any], error: Exception) -> None:
    with pytest.raises(OSError, match=r"(No space left|quota exceeded).*weights"), write(tmp_path / "weights"):
        raise error
    assert entries(tmp_path) == []


def test_torch_says_that_the_disk_is_full_in_other_words(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_file(tmp_path / "weights"):
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            finally:
                raise RuntimeError("unexpected pos 704 vs 598")

    with pytest.raises(OSError, match=r"No space left.*weights"):
        write()


def test_what_a_killed_process_left_of_a_folder_goes_and_a_living_ones_stays(tmp_path: Path) -> None:
    (tmp_path / ".tmp-12345678-world").mkdir()
    (tmp_path / ".tmp-12345678-world" / "half").touch()
    os.utime(tmp_path / ".tmp-12345678-world", (5, 5))
    with atomic_folder(tmp_path / "world") as of_another:
        os.utime(of_another, (5, 5))
        with atomic_folder(tmp_path / "world"):
            pass
        assert of_another.is_dir()
        (of_another / "whole").touch()
    assert entries(tmp_path) == ["world"]
    assert entries(tmp_path / "world") == ["whole"]
