"""Rollouts that no arm trains on: the validation split, by question and image."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mprm.runs.artifacts import atomic_file


def held_out(signals: pa.Table, count: int) -> pa.Table:
    """At least `count` eligible rollouts, in table order, that share neither question nor image with any other.

    Rollouts that share a question or an image, directly or through others, are a group, and a group is held out whole:
    a split by rollout would leak. Groups are taken in the order of their first rollout's question hash, so every
    selector, ratio and seed holds out the same ones, of all sources and of natural composition. Those of more than
    `count` rollouts, such as all questions about one picture, are passed over, even if too few are left; where there
    is no smaller one, the smallest is taken.
    """
    usable = signals["ranked"].to_numpy() & ~signals["drop_reason"].is_valid().to_numpy()
    eligible = np.flatnonzero(usable)
    if count == 0 or len(eligible) == 0:
        return signals.slice(0, 0)
    rows = signals.take(pa.array(eligible))
    _, first, group, size = np.unique(_groups(rows), return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(rows["question_hash"].to_numpy().view(np.uint64)[first], kind="stable")
    order = order[size[order] <= max(count, size.min())]
    taken = order[: 1 + np.searchsorted(np.cumsum(size[order]), count)]
    return rows.filter(pa.array(np.isin(group, taken)))


def _groups(rows: pa.Table) -> np.ndarray:
    """For every row the number of the first row that it is connected with by questions and images."""
    images = rows["image_hashes"].combine_chunks()
    row = np.concatenate([np.arange(len(rows)), pc.list_parent_indices(images).to_numpy()])
    hashed = np.concatenate([rows["question_hash"].to_numpy(), pc.list_flatten(images).to_numpy()])
    _, node = np.unique(hashed, return_inverse=True)
    group = np.arange(len(rows))
    while True:
        least = np.full(node.max() + 1, len(rows))
        np.minimum.at(least, node, group[row])
        joined = group.copy()
        np.minimum.at(joined, row, least[node])
        joined = joined[joined]  # what the row that it was joined to has been joined to
        if np.array_equal(joined, group):
            return group
        group = joined


def write_held_out(path: str | Path, signals: pa.Table, count: int) -> int:
    """Write the held-out rows as Parquet, atomically; returns how many they are."""
    with atomic_file(path) as temporary:
        found = held_out(signals, count)
        pq.write_table(found, temporary)
    return len(found)
