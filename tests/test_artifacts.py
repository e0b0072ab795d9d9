"""Writes are whole or absent, also under SIGKILL and on a full disk; a run folder is finished, resumed or refused."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from mprm import artifacts
from mprm.artifacts import (
    atomic_file,
    atomic_folder,
    config_hash,
    file_hash,
    open_run,
    read_json,
    write_json,
    write_text,
)


def make_config(folder: Path, **changes: object) -> DictConfig:
    values = {
        "task": "experiment",
        "seed": 0,
        "name": "one",
        "runs": str(folder),
        "overwrite": False,
        "selector": {"alpha": 0.05, "ratio": 0.1},
        "trainer": {"epochs": 1, "num_workers": 0},
    }
    return OmegaConf.create({**values, **changes})


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
from pathlib import Path
from mprm.artifacts import atomic_folder, write_json
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


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"runs": "elsewhere"},
        {"task": "select"},
        {"overwrite": True},
        {"export": "file.jsonl"},
        {"logger": {"project": "x"}},
        {"trainer": {"num_workers": 2, "epochs": 1}},
        {"selector": {"ratio": 0.1, "alpha": 0.05}},
    ],
)
def test_config_hash_ignores_what_does_not_change_results(tmp_path: Path, changes: dict[str, object]) -> None:
    assert config_hash(make_config(tmp_path, **changes)) == config_hash(make_config(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"selector": {"alpha": 0.2, "ratio": 0.1}},
        {"trainer": {"epochs": 2, "num_workers": 0}},
        {"x": None},
    ],
)
def test_config_hash_sees_what_changes_results(tmp_path: Path, changes: dict[str, object]) -> None:
    assert config_hash(make_config(tmp_path, **changes)) != config_hash(make_config(tmp_path))


def test_config_hash_sees_through_spellings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative = make_config(tmp_path, seed=1, root="data/annotations")
    assert config_hash(relative) == config_hash(make_config(tmp_path, seed=1.0, root=f"{tmp_path}/data/annotations"))
    assert config_hash(relative) != config_hash(make_config(tmp_path, seed=True, root="data/annotations"))


def test_config_hash_holds_the_format_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = config_hash(make_config(tmp_path))
    monkeypatch.setattr(artifacts, "FORMAT_VERSION", artifacts.FORMAT_VERSION + 1)
    assert config_hash(make_config(tmp_path)) != before


def test_a_new_run_folder_says_what_it_is(tmp_path: Path) -> None:
    cfg = make_config(tmp_path, twice="${seed}")
    with open_run(cfg) as run:
        assert run.path == tmp_path / "one"
        assert run.config_hash == config_hash(cfg)
        assert not run.finished("select")
    assert entries(run.path) == [".lock", "config.yaml", "stages.json", "versions.json"]
    assert OmegaConf.load(run.path / "config.yaml")["twice"] == 0
    assert read_json(run.path / "versions.json")["torch"].startswith("2.")


def test_finished_stages_are_found_again_and_files_stay(tmp_path: Path) -> None:
    with open_run(make_config(tmp_path)) as run:
        write_text(run.path / "metrics.jsonl", "{}\n")
        run.finish("select", {"kept": 7})
    with open_run(make_config(tmp_path, task="train")) as run:
        assert run.finished("select")
        assert not run.finished("train")
        assert run.summary("select") == {"kept": 7}
        run.finish("train", {"loss": 0.5})
    with open_run(make_config(tmp_path)) as run:
        assert run.summary("select") == {"kept": 7}
        assert run.summary("train") == {"loss": 0.5}
        assert (run.path / "metrics.jsonl").exists()


def test_another_config_is_refused_and_named(tmp_path: Path) -> None:
    with open_run(make_config(tmp_path)) as run:
        run.finish("select", {})
    other = make_config(tmp_path, selector={"alpha": 0.2, "ratio": 0.1})
    with pytest.raises(ValueError, match=r"another config \(selector.alpha 0.05 -> 0.2\).*overwrite=true"):
        open_run(other)
    with open_run(make_config(tmp_path)) as run:
        assert run.finished("select")


def test_overwrite_empties_the_folder_of_another_config_only(tmp_path: Path) -> None:
    with open_run(make_config(tmp_path)) as run:
        write_text(run.path / "subset" / "manifest.json", "{}")
        run.finish("select", {})
    with open_run(make_config(tmp_path, overwrite=True)) as run:
        assert run.finished("select")
    with open_run(make_config(tmp_path, seed=1, overwrite=True)) as run:
        assert not run.finished("select")
        assert not (run.path / "subset").exists()
        assert OmegaConf.load(run.path / "config.yaml")["seed"] == 1


def test_a_folder_that_is_no_run_is_never_emptied(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is no run folder"):
        open_run(make_config(tmp_path, overwrite=True))
    assert (tmp_path / "one" / "thesis.tex").exists()


def test_an_unfinished_opening_is_completed(tmp_path: Path) -> None:
    with open_run(make_config(tmp_path)) as run:
        (run.path / "config.yaml").unlink()
        (run.path / "versions.json").unlink()
    with open_run(make_config(tmp_path)) as run:
        assert (run.path / "config.yaml").exists()
        assert (run.path / "versions.json").exists()


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    with open_run(make_config(tmp_path)) as run:
        (run.path / "subset").mkdir()
        (run.path / "subset" / ".tmp-1234-manifest.json").write_text("{")
        (run.path / ".tmp-1234-checkpoints").mkdir()
        (run.path / ".tmp-1234-checkpoints" / ".tmp-5678-weights").write_text("half")
    with open_run(make_config(tmp_path)) as run:
        assert entries(run.path) == [".lock", "config.yaml", "stages.json", "subset", "versions.json"]
        assert entries(run.path / "subset") == []


HOLDER = """
import sys
from omegaconf import OmegaConf
from mprm.artifacts import open_run
run = open_run(OmegaConf.create(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


def test_two_processes_can_not_share_a_run_folder(tmp_path: Path) -> None:
    cfg = make_config(tmp_path)
    command = [sys.executable, "-c", HOLDER, OmegaConf.to_yaml(cfg)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match=f"in use by process {holder.pid}; wait"):
            open_run(cfg)
        holder.kill()
    with open_run(cfg) as run:  # the lock of a dead process is no lock
        assert (run.path / ".lock").read_text() == str(os.getpid())


def test_a_further_rank_reads_and_never_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_run(make_config(tmp_path)) as first:
        first.finish("select", {"kept": 7})
        monkeypatch.setenv("LOCAL_RANK", "1")
        with open_run(make_config(tmp_path)) as second:
            assert second.summary("select") == {"kept": 7}
            second.finish("train", {})
            assert not first.finished("train")
