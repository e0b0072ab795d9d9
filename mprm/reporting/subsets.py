"""What the runs selected, reduced to counts: a full corpus has half a million rollouts, a comparison forty subsets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mprm.reporting.bubbles import column, eligible, places
from mprm.reporting.collect import read_manifest, read_parquet, read_signals
from mprm.reporting.compare import Row
from mprm.reporting.tables import COMPOSITION, Table

MAP_GRID = 20  # cells per unit in the small maps
MC_BINS = np.linspace(0, 1, 21)


@dataclass(frozen=True)
class Counts:
    """Rollouts by place in the BIS map, (MAP_GRID + 1, MAP_GRID + 1) [p_pos, R], and by mean MC score, (20,)."""

    places: np.ndarray
    mc: np.ndarray


@dataclass(frozen=True)
class Subset:
    """The rollouts that one or several settings selected, with the lowest of their seeds.

    also: the other settings. totals: statistics, from the manifest. keys: sorted int64, one per rollout.
    """

    label: str
    also: tuple[str, ...]
    totals: dict[str, Any]
    counts: Counts
    keys: np.ndarray


@dataclass(frozen=True)
class Corpus:
    """Annotations and the subsets of them. eligible is None when the cache of signals is gone."""

    totals: dict[str, Any]  # of all eligible rollouts
    eligible: Counts | None
    subsets: list[Subset]


def read_corpus(rows: tuple[Row, ...]) -> Corpus:
    """The subsets of all settings of a group, which share their annotations; equal ones once."""
    members = []
    for row in rows:
        manifest = read_manifest(row.folders[0])
        assert manifest is not None, row.folders[0]
        members.append((row, manifest))
    manifest = members[0][1]
    signals = read_signals(manifest)
    everything = count(eligible(signals)) if signals is not None else None
    return Corpus(manifest["totals"]["eligible"], everything, _subsets(members))


def _subsets(members: list[tuple[Row, dict[str, Any]]]) -> list[Subset]:
    numbers: dict[str, int] = {}  # of the sources
    found: dict[bytes, list[Subset]] = {}
    for row, manifest in members:
        kept = read_parquet(
            row.folders[0] / "subset" / "kept.parquet", ["source", "line", "p_pos", "reliability", "mean_mc"]
        )
        if kept is None:
            continue
        keys = rollout_keys(kept, numbers)
        found.setdefault(keys.tobytes(), []).append(
            Subset(row.label, (), manifest["totals"]["kept"], count(kept), keys)
        )
    return [_joined(same) for same in found.values()]


def _joined(same: list[Subset]) -> Subset:
    """One subset for the settings that selected the very same rollouts."""
    first = same[0]
    label = first.label if len(same) == 1 else f"{first.label} (and {len(same) - 1} more)"
    also = tuple(subset.label for subset in same[1:])
    return Subset(label, also, first.totals, first.counts, first.keys)


def rollout_keys(rows: pa.Table, numbers: dict[str, int]) -> np.ndarray:
    """One sorted int64 for each (source, line); `numbers` of the sources grow with every table."""
    source = rows["source"].combine_chunks()
    if not pa.types.is_dictionary(source.type):
        source = source.dictionary_encode()
    of_name = [numbers.setdefault(name, len(numbers)) for name in source.dictionary.to_pylist()]
    number = np.array(of_name, dtype=np.int64)[source.indices.to_numpy()]
    return np.sort((number << 32) + rows["line"].to_numpy())


def count(rows: pa.Table) -> Counts:
    """Place and mean MC score of every rollout, counted."""
    return Counts(places(rows, MAP_GRID), np.histogram(column(rows, "mean_mc"), MC_BINS)[0])


def composition_table(corpus: Corpus) -> Table:
    """Table 1 of arXiv 2602.04145 for every subset; all eligible rollouts first."""
    rows = [("all eligible", *_statistics(corpus.totals))]
    rows += [(subset.label, *_statistics(subset.totals)) for subset in corpus.subsets]
    note = (
        "Error steps: steps whose MC score is 0. Mixed: rollouts with a positive and a negative step. Settings that "
        "selected the very same rollouts share a row."
    )
    note += "".join(f" {s.label}: {'; '.join(s.also)}." for s in corpus.subsets if s.also)
    columns = ("subset", *(label for label, _, _ in COMPOSITION.values()))
    return Table("What each subset is made of", columns, tuple(rows), note, "all eligible")


def _statistics(totals: dict[str, Any]) -> tuple[str, ...]:
    values = [(totals.get(key), form, scale) for key, (_, form, scale) in COMPOSITION.items()]
    return tuple("-" if value is None else form.format(value * scale) for value, form, scale in values)
