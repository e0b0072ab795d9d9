"""The rollouts of a subset, read from their places in the annotations: for training, and in the published format."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mprm.data.lines import Unusable
from mprm.data.mixture import Mixture
from mprm.data.rollouts import Dataset, question_hash, read_rollout, record_hash
from mprm.runs.artifacts import atomic_file, atomic_folder, file_hash, write_json
from mprm.selection.scan import in_processes
from mprm.selection.signals import source_rows

EXAMPLES = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "source", "question")),
        *((name, pa.list_(pa.string())) for name in ("images", "image_names", "steps")),
        ("scores", pa.list_(pa.float64())),
        *((name, pa.list_(pa.int32())) for name in ("n_correct", "n_total")),
        ("question_hash", pa.int64()),
        ("entropy", pa.float64()),
    ]
)
BATCH_BYTES = 8 * 2**20  # of annotations that are held at a time

# source, file; line, offset, length, record_hash, entropy (NaN: none)
Batch = tuple[str, Path, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def write_examples(folder: str | Path, dataset: Dataset, rows: pa.Table) -> None:
    """Write the rollouts of some rows of a signals table as a memory-mapped dataset, columns as in EXAMPLES.

    images: paths from the folder of images; image_names: as they stand in the record, in a mixture the same as images,
    which name the part; entropy: null where there is none. Raises ValueError if the annotations changed since the
    signals were computed.
    """
    from datasets import DatasetInfo, Features  # takes longer than all else that a selection imports

    with atomic_folder(folder) as temporary:
        # What save_to_disk would write, without holding or copying the whole dataset.
        data = temporary / "data-00000-of-00001.arrow"
        with pa.OSFile(str(data), "wb") as sink, pa.ipc.new_stream(sink, EXAMPLES) as writer:
            for batch in read_examples(dataset, rows):
                writer.write_batch(batch)
        features = Features.from_arrow_schema(EXAMPLES)
        DatasetInfo(features=features).write_to_directory(str(temporary))
        write_json(
            temporary / "state.json",
            {
                "_data_files": [{"filename": data.name}],
                "_fingerprint": file_hash(data)[:16],
                "_format_columns": None,
                "_format_kwargs": {},
                "_format_type": None,
                "_output_all_columns": False,
                "_split": None,
            },
        )


def read_examples(dataset: Dataset, rows: pa.Table) -> Iterator[pa.RecordBatch]:
    """The rollouts of some rows of a signals table in batches, columns as in EXAMPLES; raises as write_examples."""
    n_bytes = int(rows["length"].to_numpy().sum())
    return in_processes(partial(_read_batch, dataset), _batches(dataset, rows), n_bytes)


def _batches(dataset: Dataset, rows: pa.Table) -> list[Batch]:
    """Cut the rows into batches of about BATCH_BYTES of annotations of one file."""
    files = dataset.files()
    columns = [rows[name].to_numpy() for name in ("line", "offset", "length", "record_hash")]
    has_entropy = "entropy" in rows.column_names
    columns.append(rows["entropy"].to_numpy() if has_entropy else np.full(rows.num_rows, np.nan))
    batches = []
    for source, where in source_rows(rows).items():
        line, offset, length, hashed, entropy = (column[where] for column in columns)
        cuts = np.flatnonzero(np.diff(np.cumsum(length) // BATCH_BYTES)) + 1
        places = zip(*(np.split(column, cuts) for column in (line, offset, length, hashed, entropy)), strict=True)
        if source not in files:
            raise ValueError(f"{source}.jsonl is gone from the annotations since the selection; give redo=select")
        batches += [(source, files[source], *place) for place in places]
    return batches


def _read_batch(dataset: Dataset, batch: Batch) -> pa.RecordBatch:
    """Examples of one batch, read from their places in the annotation file."""
    source, file, *columns = batch
    examples, mixed = [], isinstance(dataset, Mixture)
    with open(file, "rb") as stream:
        for line, offset, length, expected, entropy in zip(*(column.tolist() for column in columns), strict=True):
            stream.seek(offset)
            record = stream.read(length)
            try:
                checked = read_rollout(dataset, record, source) if record_hash(record) == expected else None
            except Unusable:
                checked = None
            if checked is None or checked.fault is not None:
                raise ValueError(
                    f"{file} line {line} (from 0) or its images changed since the selection; give redo=select"
                )
            rollout = checked.rollout
            uncounted = [None] * len(rollout.steps)
            examples.append(
                {
                    "id": f"{source}:{line}",
                    "source": source,
                    "question": rollout.question,
                    "images": checked.images,
                    "image_names": checked.images if mixed else rollout.images,
                    "steps": rollout.steps,
                    "scores": rollout.scores,
                    "n_correct": rollout.n_correct or uncounted,
                    "n_total": rollout.n_total or uncounted,
                    "question_hash": question_hash(rollout.question, checked.images),
                    "entropy": None if math.isnan(entropy) else entropy,
                }
            )
    return pa.RecordBatch.from_pylist(examples, schema=EXAMPLES)


def export_published(
    path: str | Path, examples: Iterable[Mapping[str, Any]], target: Callable[[float], float | None]
) -> dict[str, int]:
    """Write one JSON line per example, atomically: `image`, and `conversations` of question and marked steps with their
    targets. Returns how many were `written`, and `skipped`: the format has no place for a step never measured.

    target: what the objective trains a step of the given MC score towards, e.g. float(score > 0); None: nothing.
    """
    counts = {"written": 0, "skipped": 0}
    with atomic_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for example in examples:
            targets = [None if score is None else target(score) for score in example["scores"]]
            if None in targets:
                counts["skipped"] += 1
                continue
            images = example["image_names"]
            process = "\n\n".join(f"{step}<prm>" for step in example["steps"])
            conversation = [
                {"from": "human", "value": f"Question: {example['question']}\nProcess: {process}"},
                {"from": "gpt", "value": [float(value) for value in targets if value is not None]},
            ]
            record = {"image": images[0] if len(images) == 1 else list(images), "conversations": conversation}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            counts["written"] += 1
    return counts
