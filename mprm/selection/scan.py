"""One pass over the annotation files, in chunks that all cores share."""

import json
from collections.abc import Collection
from functools import partial
from math import fsum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mprm.data.rollouts import Unusable, is_blank, numbered_lines, question_hash, record_hash, rest_of_line
from mprm.data.visualprm400k import Record, VisualPRM400K
from mprm.selection.parallel import in_processes

SCHEMA = pa.schema(
    [
        ("source", pa.dictionary(pa.int32(), pa.string())),
        ("line", pa.int32()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("record_hash", pa.int64()),
        ("question_hash", pa.int64()),
        ("image_hashes", pa.list_(pa.int64())),
        ("n_steps", pa.int32()),
        ("n_words", pa.int32()),
        ("n_unsampled", pa.int32()),
        ("n_unsampled_negative", pa.int32()),
        ("n", pa.int32()),
        ("n_pos", pa.int32()),
        ("p_pos", pa.float64()),
        ("reliability", pa.float64()),
        ("mean_mc", pa.float64()),
        ("min_mc", pa.float64()),
        ("ranked", pa.bool_()),
        ("drop_reason", pa.dictionary(pa.int32(), pa.string())),
    ]
)
NO_SIGNALS = (*[None] * 12, False)
CHUNK_BYTES = 32 * 2**20  # one chunk is one task, and one row group of the table

Chunk = tuple[Path, int, int]


def scan(dataset: VisualPRM400K, files: list[Path], path: Path) -> None:
    """Write the signals of every record of `files` to the Parquet file `path`, in order.

    The file's metadata `image_folders` is JSON: the image folders that were listed, with their modification times.
    """
    sizes = [file.stat().st_size for file in files]
    chunks = [
        (file, start, start + CHUNK_BYTES)
        for file, size in zip(files, sizes, strict=True)
        for start in range(0, size, CHUNK_BYTES)
    ]
    listed: dict[str, int | None] = {}
    previous, first_line = None, 0
    excluded = dataset.excluded()
    tables = in_processes(partial(_scan_chunk, dataset), chunks, sum(sizes))
    with pq.ParquetWriter(path, SCHEMA, write_page_checksum=True) as writer:
        for (file, _, _), (table, n_lines, chunk_listed) in zip(chunks, tables, strict=True):
            if file != previous:
                previous, first_line = file, 0
            lines = pa.array(table["line"].to_numpy() + np.int32(first_line))
            table = table.set_column(1, SCHEMA.field("line"), lines)
            writer.write_table(_without(table, excluded[file.stem]) if file.stem in excluded else table)
            first_line += n_lines
            listed |= chunk_listed
        writer.add_key_value_metadata({"image_folders": json.dumps(listed)})


def _without(table: pa.Table, excluded: Collection[int]) -> pa.Table:
    """The table, in which some lines have no signals and are dropped."""
    gone = pa.array([line in excluded for line in table["line"].to_pylist()], pa.bool_())
    columns = {name: table[name] for name in SCHEMA.names}
    for name in SCHEMA.names[SCHEMA.get_field_index("question_hash") : -2]:
        columns[name] = pc.if_else(gone, pa.scalar(None, SCHEMA.field(name).type), table[name])
    columns["ranked"] = pc.and_not(table["ranked"], gone)
    columns["drop_reason"] = pc.if_else(gone, "excluded", table["drop_reason"])
    return pa.table(columns).cast(SCHEMA)


def _scan_chunk(dataset: VisualPRM400K, chunk: Chunk) -> tuple[pa.Table, int, dict[str, int | None]]:
    """Signals of the lines that begin in the chunk, lines counted from its first; how many; image folders listed."""
    file, start, end = chunk
    source = file.stem
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
                    record = dataset.read(line, source)
                    signals = (*_signals(record), record.reason)
                except Unusable as unusable:
                    signals = (*NO_SIGNALS, unusable.reason)
                rows.append((source, number, offset, length, record_hash(line), *signals))
    columns = zip(*rows, strict=True) if rows else [()] * len(SCHEMA)
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
    return table, n_lines, dataset.image_folder.modified if dataset.image_folder else {}


def _signals(record: Record) -> tuple[Any, ...]:
    """question_hash ... ranked of a record with at least one score."""
    scores = [score for score in record.scores if score is not None]
    positive = [score for score in scores if score > 0]
    n, n_pos = len(scores), len(positive)
    unsampled = (0, 0)
    if 0 in record.total:
        never = [score for score, n in zip(record.scores, record.total, strict=True) if n == 0]
        unsampled = len(never), never.count(0.0)
    total = fsum(positive)  # exactly rounded, unlike sum, whose result depends on the Python version
    return (
        question_hash(record.question, record.images),
        [question_hash("", [image]) for image in record.images],
        len(record.texts),
        record.n_words,
        *unsampled,
        n,
        n_pos,
        n_pos / n,
        total / n_pos if n_pos else 1.0,
        total / n,
        min(scores),
        True,
    )
