"""What a selection leaves behind: manifest, kept rows, dropped records; and the examples made of them for training."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mprm import __version__
from mprm.data.rollouts import Unusable, question_hash, record_hash
from mprm.data.visualprm400k import VisualPRM400K
from mprm.runs.artifacts import atomic_folder, file_hash, write_json
from mprm.selection.keep import Selector, keep
from mprm.selection.parallel import in_processes
from mprm.selection.remarks import nothing_left
from mprm.selection.signals import source_rows

EXAMPLES = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("question", pa.string()),
        ("images", pa.list_(pa.string())),
        ("image_names", pa.list_(pa.string())),
        ("steps", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float64())),
        ("n_correct", pa.list_(pa.int32())),
        ("n_total", pa.list_(pa.int32())),
        ("question_hash", pa.int64()),
        ("entropy", pa.float64()),
    ]
)
COUNTED = ("n_steps", "n", "n_pos", "n_words", "mean_mc", "p_pos", "n_unsampled", "n_unsampled_negative")
BATCH_BYTES = 8 * 2**20  # of annotations that are held at a time

# file; line, offset, length, record_hash, entropy (NaN: none)
Batch = tuple[Path, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def write_subset(
    folder: str | Path,
    dataset: VisualPRM400K,
    signals: pa.Table,
    selector: Selector,
    header: dict[str, Any],
    add_entropy: Callable[[pa.Table], pa.Table] | None = None,
) -> dict[str, Any]:
    """Select, and write the folder, which appears whole or not at all.

    manifest.json: `header`, and what is returned here. kept.parquet: the kept rows of the signals table in file order,
    with score, rank and tie_group. dropped.jsonl: source, line, reason of every dropped record. No annotation is read.

    add_entropy: adds the columns entropy and no_entropy to a table: to all signals for a selector that uses them, to
    the kept rows otherwise; None: nothing does.

    Returns:
        The manifest. Per source: records = lines that are not blank, dropped, eligible = ranked, kept, realised_ratio =
        kept / eligible. Under strict cleaning records = dropped + eligible; under published cleaning a rollout may be
        ranked and dropped. totals: statistics of all eligible and of the kept rollouts.
        no_entropy: kept rollouts without an entropy, by reason, if there are any.

    Raises:
        ValueError: nothing is left to train on.
    """
    if add_entropy is not None and selector.uses_entropy:
        signals = add_entropy(signals)
    kept = keep(signals, selector)
    dropped = Counter(signals["drop_reason"].drop_null().to_pylist())
    if kept.num_rows == 0:
        raise ValueError(nothing_left(dataset, signals))
    if add_entropy is not None and not selector.uses_entropy:
        kept = add_entropy(kept)
    manifest = {
        **header,
        "version": __version__,
        "data_hash": signals.schema.metadata[b"data_hash"].decode(),
        "dataset": {"name": type(dataset).__name__, **asdict(dataset)},
        "selector": {"name": type(selector).__name__, **asdict(selector)},
        "sources": _sources(signals, kept),
        "dropped": dict(dropped.most_common()),
        "totals": {"eligible": statistics(signals.select(COUNTED).filter(signals["ranked"])), "kept": statistics(kept)},
        "signals": signals.schema.metadata[b"path"].decode(),
    }
    if add_entropy is not None and kept["entropy"].null_count:
        manifest["no_entropy"] = dict(Counter(kept["no_entropy"].drop_null().to_pylist()).most_common())
    with atomic_folder(folder) as temporary:
        pq.write_table(kept, temporary / "kept.parquet")
        _write_dropped(temporary / "dropped.jsonl", signals)
        write_json(temporary / "manifest.json", manifest)
    return manifest


def statistics(table: pa.Table) -> dict[str, float]:
    """Table 1 of arXiv 2602.04145 for the rows of a signals table, of which there is at least one.

    rollouts, steps; steps_per_rollout; words_per_step; error_step_share: scored steps with score 0; mean_mc: over the
    scored steps; mixed_share: rollouts with a positive and a negative step; unsampled_share: steps of 0 of 0
    continuations; unsampled_negative_share: those of them that were taken for negatives.
    """
    n_steps, n, n_pos, n_words, mean_mc, p_pos, unsampled, negative = (table[name].to_numpy() for name in COUNTED)
    steps, scored = n_steps.sum(), n.sum()
    return {
        "rollouts": table.num_rows,
        "steps": int(steps),
        "steps_per_rollout": float(steps / table.num_rows),
        "words_per_step": float(n_words.sum() / steps),
        "error_step_share": float(1 - n_pos.sum() / scored),
        "mean_mc": float((mean_mc * n).sum() / scored),
        "mixed_share": float(((p_pos > 0) & (p_pos < 1)).mean()),
        "unsampled_share": float(unsampled.sum() / steps),
        "unsampled_negative_share": float(negative.sum() / steps),
    }


def unsampled_words(manifest: dict[str, Any]) -> str:
    """What share of the eligible steps had no continuation and what they were taken for; empty if there are none."""
    totals, settings = manifest["totals"]["eligible"], manifest["dataset"]
    negative, other = totals["unsampled_negative_share"], totals["unsampled_share"]
    if not other:
        return ""
    published = settings["cleaning"] == "published"
    setting = "cleaning=published" if published else f"unsampled={settings['unsampled']}"
    rest = "for what their score says" if published else "for no evidence"
    return (
        f"{other:.2%} of the steps have 0 of 0 continuations: {negative:.2%} are taken for negatives, "
        f"{other - negative:.2%} {rest} (dataset.{setting})"
    )


def _sources(signals: pa.Table, kept: pa.Table) -> dict[str, dict[str, float]]:
    ranked, dropped = signals["ranked"].to_numpy(), signals["drop_reason"].is_valid().to_numpy()
    kept_rows = source_rows(kept)
    sources = {}
    for source, rows in source_rows(signals).items():
        eligible, n_kept = int(ranked[rows].sum()), len(kept_rows.get(source, ()))
        sources[source] = {
            "records": len(rows),
            "dropped": int(dropped[rows].sum()),
            "eligible": eligible,
            "kept": n_kept,
            "realised_ratio": n_kept / eligible if eligible else 0.0,
        }
    return sources


def _write_dropped(path: Path, signals: pa.Table) -> None:
    columns = signals.filter(signals["drop_reason"].is_valid()).select(["source", "line", "drop_reason"])
    with open(path, "w", encoding="utf-8") as file:
        for batch in columns.to_batches(max_chunksize=4096):
            for row in batch.to_pylist():
                record = {"source": row["source"], "line": row["line"], "reason": row["drop_reason"]}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")


def write_examples(folder: str | Path, dataset: VisualPRM400K, rows: pa.Table) -> None:
    """Write the rollouts of some rows of a signals table as a memory-mapped Hugging Face dataset.

    Columns as in EXAMPLES; images: paths from the folder of images; image_names: as they stand in the record;
    entropy: null where the rows have none.

    Raises:
        ValueError: the annotations changed since the signals were computed.
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


def read_examples(dataset: VisualPRM400K, rows: pa.Table) -> Iterator[pa.RecordBatch]:
    """The rollouts of some rows of a signals table in batches, columns as in EXAMPLES; raises as write_examples."""
    n_bytes = int(rows["length"].to_numpy().sum())
    return in_processes(partial(_read_batch, dataset), _batches(dataset, rows), n_bytes)


def _batches(dataset: VisualPRM400K, rows: pa.Table) -> list[Batch]:
    """Cut the rows into batches of about BATCH_BYTES of annotations of one file."""
    files = {file.stem: file for file in dataset.files()}
    if "record_hash" not in rows.column_names:
        raise ValueError(
            "the subset was selected by an earlier version, which kept no hash of its records; redo=select"
        )
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
        batches += [(files[source], *place) for place in places]
    return batches


def _read_batch(dataset: VisualPRM400K, batch: Batch) -> pa.RecordBatch:
    """Examples of one batch, read from their places in the annotation file."""
    file, *columns = batch
    source, examples = file.stem, []
    with open(file, "rb") as stream:
        for line, offset, length, expected, entropy in zip(*(column.tolist() for column in columns), strict=True):
            stream.seek(offset)
            record = stream.read(length)
            example = _example(dataset, source, line, record) if record_hash(record) == expected else None
            if example is None:
                raise ValueError(
                    f"{file} line {line} (from 0) or its images changed since the selection; give redo=select"
                )
            examples.append(example | {"entropy": None if math.isnan(entropy) else entropy})
    return pa.RecordBatch.from_pylist(examples, schema=EXAMPLES)


def _example(dataset: VisualPRM400K, source: str, line_number: int, line: bytes) -> dict[str, Any] | None:
    """A row of EXAMPLES, None for a record that can not be trained on."""
    try:
        record = dataset.read(line, source)
    except Unusable:
        return None
    if record.reason is not None:
        return None
    return {
        "id": f"{source}:{line_number}",
        "source": source,
        "question": record.question,
        "images": record.images,
        "image_names": record.image_names,
        "steps": record.texts,
        "scores": record.scores,
        "n_correct": record.correct,
        "n_total": record.total,
        "question_hash": question_hash(record.question, record.images),
    }
