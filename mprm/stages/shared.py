"""A training that another run did already: on the same subset, with the same settings, whatever the selector."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mprm.config import Config
from mprm.data.visualprocessbench import Solution
from mprm.runs.artifacts import STAGES, atomic_file, file_hash, file_states, read_json, reading
from mprm.runs.run_folder import config_hash
from mprm.runs.stage_records import RunFolder
from mprm.terminal import say

LEFT_OUT = "left_out.jsonl"
TRAINING = (LEFT_OUT, "metrics.jsonl", "weights.safetensors")
EVALUATION = ("predictions.jsonl", "validation_predictions.jsonl", "results.json")


def training_key(cfg: Config, run: RunFolder) -> str:
    """SHA-256, in hex, of what a training depends on: kept and held-out rollouts, and the config but for the selector
    and the benchmark."""
    from pyarrow.parquet import read_table

    digest = hashlib.sha256(config_hash(cfg.raw, leave_out=("selector", "benchmark")).encode())
    digest.update(read_json(run.path / "subset" / "manifest.json")["data_hash"].encode())
    for name in ("subset/kept.parquet", "held_out.parquet"):
        with reading(run.path / name):
            rows = read_table(run.path / name, columns=["source", "line"])
            codes = rows["source"].combine_chunks()
        digest.update(json.dumps(codes.dictionary.to_pylist()).encode())
        digest.update(codes.indices.to_numpy().tobytes())
        digest.update(rows["line"].to_numpy().tobytes())
    return digest.hexdigest()


def key_of(inputs: Mapping[str, str]) -> str:
    """One hash for all of a stage's inputs."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def read_hash(records: Iterable[Any]) -> str:
    """SHA-256, in hex, of what was read of a file: its records, and those that were dropped, for what reason."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(asdict(record), sort_keys=True).encode())
    return digest.hexdigest()


def content_hash(cfg: Config, solutions: list[Solution]) -> str:
    """SHA-256, in hex, of texts, labels and images, whatever the files are called: what runs are compared by."""
    of_image = {
        name: file_hash(cfg.benchmark.image_folder.path(name))
        for name in {name for one in solutions for name in one.images}
    }
    records = sorted(
        json.dumps([one.source, [of_image[name] for name in one.images], one.question, one.steps, one.labels])
        for one in solutions
    )
    return hashlib.sha256("\n".join(records).encode()).hexdigest()


@contextmanager
def one_at_a_time(runs: Path, key: str) -> Iterator[None]:
    """Wait until no other process is at the same training; the next one finds it finished."""
    # A byte of one file for every training: the system lets go of it when the process ends, however it ends.
    with open(runs / ".trainings", "a+b") as file:
        byte = int(key[:8], 16)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):
            say("another run is at the same training; waiting for it")
            fcntl.lockf(file, fcntl.LOCK_EX, 1, byte)
        yield


def take_stage(run: RunFolder, stage: str, inputs: Mapping[str, str], names: Sequence[str]) -> bool:
    """Take over what another run beside this one has made of the same inputs in a stage, if there is one.

    One whose files are not what it left there, or that can not be read, is passed over.
    """
    for path in sorted(run.path.parent.glob(f"*/{STAGES}")):
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # a damaged record; of an earlier version
            record = read_json(path)
            done, states = record["stages"][stage], record["files"][stage]
            if record["inputs"][stage] != dict(inputs) or path.parent == run.path:
                continue
            if file_states(path.parent, names) != states:
                continue
            for name in states:
                _copy(path.parent / name, run.path / name)
            shared = {"shared_with": done.get("shared_with", path.parent.name), "seconds": 0.0}
            run.finish(stage, done | shared, states, inputs)
            return True
    return False


def _copy(source: Path, target: Path) -> None:
    """A second name for the file where the disk can give one: no run changes a file in place once it is finished."""
    with atomic_file(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
