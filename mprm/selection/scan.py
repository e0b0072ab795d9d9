"""One pass over the annotation files, in chunks that all cores share."""

import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from math import comb, fsum
from multiprocessing import current_process, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mprm.data.lines import Unusable, is_blank, numbered_lines, rest_of_line
from mprm.data.mixture import excluded_lines
from mprm.data.rollouts import CheckedRollout, Dataset, question_hash, read_rollout, record_hash, scored

Task = TypeVar("Task")
Result = TypeVar("Result")

NAME = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("source", NAME),
        ("line", pa.int32()),
        *((name, pa.int64()) for name in ("offset", "length", "record_hash", "question_hash")),
        ("image_hashes", pa.list_(pa.int64())),
        *((name, pa.int32()) for name in ("n_question_words", "n_steps", "n_words", "n_unsampled")),
        *((name, pa.int32()) for name in ("n_unsampled_negative", "n", "n_pos")),
        *((name, pa.float64()) for name in ("p_pos", "reliability", "mean_mc", "min_mc")),
        *((name, pa.float64()) for name in ("p_right", "p_right_positive")),
        ("ranked", pa.bool_()),
        ("drop_reason", NAME),
    ]
)
NO_SIGNALS = (*[None] * 15, False)
RIGHT = 0.25  # success rate from which on a step is worth the label positive
MANY = 500  # continuations
CHUNK_BYTES = 32 * 2**20  # one chunk is one task, and one row group of the table

BYTES_PER_PROCESS = 32 * 2**20  # of annotations; what a further process must have to do to be worth its start
MAX_PROCESSES = 8

Chunk = tuple[str, Path, int, int]  # source, file, first byte, end


def scan(dataset: Dataset, files: Mapping[str, Path], path: Path) -> None:
    """Write the signals of every record of `files` to the Parquet file `path`, in order.

    The file's metadata `image_folders` is JSON: the image folders that were listed, with their modification times.
    """
    sizes = {source: file.stat().st_size for source, file in files.items()}
    chunks = [
        (source, file, start, start + CHUNK_BYTES)
        for source, file in files.items()
        for start in range(0, sizes[source], CHUNK_BYTES)
    ]
    listed: dict[str, int | None] = {}
    previous, first_line = None, 0
    excluded = excluded_lines(dataset)
    tables = in_processes(partial(_scan_chunk, dataset), chunks, sum(sizes.values()))
    with pq.ParquetWriter(path, SCHEMA, write_page_checksum=True) as writer:
        for (source, *_), (table, n_lines, chunk_listed) in zip(chunks, tables, strict=True):
            if source != previous:
                previous, first_line = source, 0
            lines = pa.array(table["line"].to_numpy() + np.int32(first_line))
            table = table.set_column(1, SCHEMA.field("line"), lines)
            writer.write_table(_without(table, excluded[source]) if source in excluded else table)
            first_line += n_lines
            listed |= chunk_listed
        writer.add_key_value_metadata({"image_folders": json.dumps(listed)})


def _without(table: pa.Table, excluded: Collection[int]) -> pa.Table:
    """The table, in which some lines have no signals and are dropped."""
    gone = pa.array([line in excluded for line in table["line"].to_pylist()], pa.bool_())
    columns = {name: table[name] for name in SCHEMA.names}
    for name in SCHEMA.names[SCHEMA.names.index("question_hash") : -2]:
        columns[name] = pc.if_else(gone, pa.scalar(None, SCHEMA.field(name).type), table[name])
    columns["ranked"] = pc.and_not(table["ranked"], gone)
    columns["drop_reason"] = pc.if_else(gone, "excluded", table["drop_reason"])
    return pa.table(columns).cast(SCHEMA)


def _scan_chunk(dataset: Dataset, chunk: Chunk) -> tuple[pa.Table, int, dict[str, int | None]]:
    """Signals of the lines that begin in the chunk, lines counted from its first; how many; image folders listed."""
    source, file, start, end = chunk
    rows: list[tuple[Any, ...]] = []
    n_lines = 0
    with open(file, "rb", buffering=2**20) as stream:
        if start:
            stream.seek(start - 1)
            rest_of_line(stream)  # it began in the chunk before
        for number, offset, length, line in numbered_lines(stream, end):
            n_lines = number + 1
            if not is_blank(line):
                try:
                    checked = read_rollout(dataset, line, source)
                    signals = (*_signals(checked), checked.fault)
                except Unusable as unusable:
                    signals = (*NO_SIGNALS, unusable.reason)
                rows.append((source, number, offset, length, record_hash(line), *signals))
    columns = zip(*rows, strict=True) if rows else [()] * len(SCHEMA)
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
    return table, n_lines, dataset.image_folder.modified


def _signals(checked: CheckedRollout) -> tuple[Any, ...]:
    """question_hash ... ranked of a rollout with at least one score."""
    rollout = checked.rollout
    scores = scored(rollout)
    positive = [score for score in scores if score > 0]
    n, n_pos = len(scores), len(positive)
    never: list[float | None] = []
    if 0 in rollout.n_total:
        never = [score for score, n in zip(rollout.scores, rollout.n_total, strict=True) if n == 0]
    if rollout.n_correct and rollout.n_total:
        measured = zip(rollout.scores, rollout.n_correct, rollout.n_total, strict=True)
        right = [p_right(score, k, n) for score, k, n in measured if score is not None]
    else:
        right = [p_right(score, None, None) for score in scores]
    right_positive = [p for p, score in zip(right, scores, strict=True) if score > 0]
    total = fsum(positive)  # exactly rounded, unlike sum, whose result depends on the Python version
    return (
        question_hash(rollout.question, checked.images),
        [question_hash("", [image]) for image in checked.images],
        rollout.question.count(" ") + rollout.question.count("\n") + 1,
        len(rollout.steps),
        checked.n_words,
        len(never),
        never.count(0.0),
        n,
        n_pos,
        n_pos / n,
        total / n_pos if n_pos else 1.0,
        total / n,
        min(scores),
        fsum(right) / n,
        fsum(right_positive) / n_pos if n_pos else 1.0,
        True,
    )


@lru_cache(maxsize=2**16)
def p_right(score: float, k: int | None, n: int | None) -> float:
    """P(success rate >= RIGHT | k of n continuations are right), the rate uniform in [0, 1] before: 1 - I_RIGHT(1 + k,
    1 + n - k), for whole numbers the probability of at most k heads in n + 1 throws. Without counts, or with so many
    that they decide, the score is the rate."""
    if k is None or not n or n > MANY:
        return float(score >= RIGHT)
    return fsum(comb(n + 1, i) * RIGHT**i * (1 - RIGHT) ** (n + 1 - i) for i in range(k + 1))


def in_processes(function: Callable[[Task], Result], tasks: list[Task], n_bytes: int) -> Iterator[Result]:
    """Yield function(task) of every task in order, in as many processes as `n_bytes` of annotations are worth.

    A few results are held at a time, however many tasks there are.
    """
    processes = min(n_bytes // BYTES_PER_PROCESS, _cores(), MAX_PROCESSES)
    if processes < 2 or current_process().daemon:  # a daemonic process may not start others
        yield from map(function, tasks)
        return
    # Forked on Linux, as torch forks its data workers: a new interpreter would import everything again.
    context = get_context("fork" if sys.platform == "linux" else None)
    window = 8 * processes
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with_parent) as pool:
        for start in range(0, len(tasks), window):
            yield from pool.map(function, tasks[start : start + window])


def _end_with_parent() -> None:
    """End this worker with the process that started it: one that is killed cannot say so, and workers wait on."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
