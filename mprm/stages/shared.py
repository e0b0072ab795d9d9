"""A training that another run did already: on the same subset, with the same settings, whatever the selector."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from mprm.artifacts import atomic_file, read_json
from mprm.config import Config
from mprm.run_folder import RunFolder, config_hash
from mprm.stages.devices import console

TRAINING = ("metrics.jsonl", "weights.safetensors")
EVALUATION = ("predictions.jsonl", "validation_predictions.jsonl", "results.json")


def training_key(cfg: Config, run: RunFolder) -> str:
    """SHA-256, in hex, of what a training depends on: kept and held-out rollouts, and the config but for the selector
    and the benchmark."""
    from pyarrow.parquet import read_table

    digest = hashlib.sha256(config_hash(cfg.raw, leave_out=("selector", "benchmark")).encode())
    digest.update(read_json(run.path / "subset" / "manifest.json")["data_hash"].encode())
    kept = read_table(run.path / "subset" / "kept.parquet", columns=["source", "line"])
    for source in kept["source"].unique().to_pylist():
        digest.update(f"{source}\n".encode())
    digest.update(kept["source"].combine_chunks().indices.to_numpy().tobytes())
    digest.update(kept["line"].to_numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def one_at_a_time(runs: Path, key: str) -> Iterator[None]:
    """Wait until no other process is at the same training; the next one finds it finished."""
    # A byte of one file for every training: the system lets go of it when the process ends, however it ends.
    with open(runs / ".trainings", "a+b") as file:
        byte = int(key[:8], 16)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):
            console.print("another run is at the same training; waiting for it")
            fcntl.lockf(file, fcntl.LOCK_EX, 1, byte)
        yield


def take_stage(run: RunFolder, stage: str, key: str, names: Sequence[str]) -> bool:
    """Take over the files that another run beside this one has made in a stage, if there is one with the key."""
    for path in sorted(run.path.parent.glob("*/stages.json")):
        done = read_json(path)["stages"].get(stage, {})
        if done.get("key") == key and path.parent != run.path:
            for name in names:
                if (path.parent / name).exists():
                    _copy(path.parent / name, run.path / name)
            run.finish(stage, done | {"shared_with": done.get("shared_with", path.parent.name), "seconds": 0.0})
            return True
    return False


def take_evaluation(run: RunFolder) -> bool:
    """Take over the evaluation of the run whose training this one has, if it was on the same benchmark."""
    other = run.path.parent / run.summary("train").get("shared_with", "")
    if other == run.path.parent or not (other / "stages.json").exists():
        return False
    evaluated = read_json(other / "stages.json")["stages"].get("evaluate")
    benchmarks = [yaml.safe_load((path / "config.yaml").read_text())["benchmark"] for path in (run.path, other)]
    if evaluated is None or benchmarks[0] != benchmarks[1]:
        return False
    for name in EVALUATION:
        _copy(other / name, run.path / name)
    run.finish("evaluate", evaluated | {"shared_with": other.name, "seconds": 0.0})
    return True


def _copy(source: Path, target: Path) -> None:
    """A second name for the file where the disk can give one: no run changes a file in place once it is finished."""
    with atomic_file(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
