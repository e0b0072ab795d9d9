"""Rollouts that no arm trains on: the validation split, by question."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mprm.artifacts import atomic_file


def held_out(signals: pa.Table, count: int) -> pa.Table:
    """At least `count` eligible rollouts (all rollouts of their questions), in table order.

    Questions are taken in the order of their hash, so every selector, ratio and seed holds out the same ones, of all
    sources and of natural composition. Rollouts share questions: a split by rollout would leak.
    """
    usable = signals["ranked"].to_numpy() & ~signals["drop_reason"].is_valid().to_numpy()
    eligible = np.flatnonzero(usable)
    if count == 0 or len(eligible) == 0:
        return signals.slice(0, 0)
    # rows that could not be read have no hash; they are not eligible
    hashed = signals["question_hash"].fill_null(0).to_numpy().view(np.uint64)[eligible]
    border = np.partition(hashed, min(count, len(hashed)) - 1)[min(count, len(hashed)) - 1]
    return signals.take(pa.array(eligible[hashed <= border]))


def write_held_out(path: str | Path, signals: pa.Table, count: int) -> None:
    """Write the held-out rows as Parquet, atomically."""
    with atomic_file(path) as temporary:
        pq.write_table(held_out(signals, count), temporary)
