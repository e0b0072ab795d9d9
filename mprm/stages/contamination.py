"""What training data and a benchmark share, and the list of what to leave out of a training."""

from __future__ import annotations

import csv
import os
from base64 import b64decode, b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from mprm.config import Config
from mprm.data.records import usable_records
from mprm.runs.artifacts import atomic_folder, write_json_lines
from mprm.runs.journal import journal
from mprm.stages.stage import Output
from mprm.terminal import console, listed, retyped, say, say_next, tracked

if TYPE_CHECKING:
    from mprm.reporting.report import Report

FORMAT_VERSION = 1  # of what is kept of a picture: raise it when that changes
CHUNK = 64  # pictures: what a kill can lose of each process


def contamination(cfg: Config) -> None:
    """Which questions and pictures the data set and the benchmark have in common."""
    from mprm.reporting.report import print_report, write_page, write_tables
    from mprm.selection import contamination as shared
    from mprm.selection.likeness import alike
    from mprm.selection.signals import build_signals

    shared.check_settings(cfg.similarity, cfg.distance, cfg.excluded)
    started = monotonic()
    signals = build_signals(cfg.dataset, cfg.cache)
    solutions, dropped = usable_records(cfg.benchmark, "benchmark")
    benchmark = shared.asked_by(solutions)
    training = shared.asked_in(cfg.dataset, signals, benchmark, cfg.similarity)
    ours = [cfg.dataset.image_folder.path(name) for name in training.pictures]
    theirs = [cfg.benchmark.image_folder.path(name) for name in benchmark.pictures]
    settings = [cfg.similarity, cfg.distance, sorted(cfg.excluded), signals.schema.metadata[b"inputs"].decode()]
    depends_on = [*settings, list(map(asdict, solutions)), list(map(_state, [*ours, *theirs]))]
    read = [cfg.benchmark.path, cfg.dataset.exclude, *cfg.dataset.files().values()]
    output = Output(cfg, "output", depends_on, read, "matches.csv")
    if output.is_made():
        return
    prints = fingerprints([*ours, *theirs], Path(cfg.cache))
    pairs = alike(prints[: len(ours)], prints[len(ours) :], cfg.distance)
    of_training, of_benchmark = shared.findings(training, benchmark, pairs)
    excluded = list(shared.excluded_records(signals, training, of_training, cfg.excluded))
    reasons = {"unreadable_image": int((prints["content"] == 0).sum())} | dropped
    lead = (
        f"{len(of_training):,} of {len(training.rows):,} questions of the training data resemble one of the "
        f"benchmark's {len(benchmark.shown):,}; {len(excluded):,} rollouts are on the exclude list"
    )
    if any(reasons.values()):
        lead += f"; not compared: {listed({reason: number for reason, number in reasons.items() if number})}"
    report = _report(lead, shared.counts_of(signals, training, benchmark, of_training, of_benchmark))
    with atomic_folder(output.target) as folder:
        write_json_lines(folder / "exclude.jsonl", excluded)
        with open(folder / "matches.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(shared.MATCH)
            writer.writerows(shared.matches(cfg.dataset, signals, training, benchmark, of_training))
        write_tables(report, folder)
        write_page(report, folder / "report.html")
    output.remember()
    print_report(report, console())
    say(f"wrote {cfg.output} in {monotonic() - started:.1f} s")
    say_next(*retyped("select", "dataset"), f"dataset.exclude={output.target / 'exclude.jsonl'}")


def fingerprints(paths: Sequence[Path], cache: Path) -> np.ndarray:
    """A likeness.PICTURE of every file, UNREADABLE where it holds none, (files,).

    CACHE/fingerprints.journal remembers them by path, size and modification time, over kills, too.
    """
    from mprm.batching import examples  # noqa: F401 - before the processes are forked, which then need not import torch
    from mprm.selection.likeness import PICTURE, UNREADABLE
    from mprm.selection.scan import in_processes

    states = [_state(path) for path in paths]
    with journal(cache / "fingerprints", [FORMAT_VERSION], cache_of="fingerprints of pictures") as kept:
        new = {state: path for state, path in zip(states, paths, strict=True) if state not in kept.done}
        waiting = list(new.items())
        chunks = [waiting[start : start + CHUNK] for start in range(0, len(waiting), CHUNK)]
        n_bytes = sum(path.stat().st_size for path in new.values())
        for found in tracked(in_processes(_fingerprints, chunks, n_bytes), len(chunks), "reading pictures"):
            kept.add(found)
        nothing = b64encode(UNREADABLE)
        return np.frombuffer(b"".join(b64decode(kept.done.get(state, nothing)) for state in states), PICTURE)


def _state(path: Path) -> str:
    """Stands for the content of a file."""
    status = os.stat(path)
    return xxhash.xxh3_128_hexdigest(f"{os.path.abspath(path)!a} {status.st_size} {status.st_mtime_ns}".encode())


def _fingerprints(pictures: Sequence[tuple[str, Path]]) -> dict[str, str]:
    """In base64, of those that can be read."""
    from mprm.batching.examples import open_images
    from mprm.selection.likeness import fingerprint

    found = {}
    for state, path in pictures:
        with suppress(ValueError, OSError):
            found[state] = b64encode(fingerprint(path, *open_images([path]))).decode()
    return found


def _report(lead: str, counts: dict[str, dict[str, dict[str, int]]]) -> Report:
    from mprm.reporting.report import Report, Table

    note = (
        "copy: the question and its picture, or the question where there is no picture. numbers: the template of the "
        "question with other numbers. picture: another question about the picture. question: the question about "
        "another picture. Near ones are among them. Each is counted once, by the first of these; matches.csv has all."
    )
    tables = []
    for name, by_source in counts.items():
        columns = ("source", *next(iter(by_source.values())))
        rows = [(source, *(f"{number:,}" for number in row.values())) for source, row in by_source.items()]
        title = f"{name.capitalize()} by source".replace("_", " ")
        tables.append(Table(title, columns, tuple(rows), note if name == list(counts)[-1] else "", name=name))
    return Report("What training data and benchmark share", lead, tables)
