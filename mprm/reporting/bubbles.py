"""Rollouts in the BIS map (share of positive steps, reliability), counted by place and drawn as bubbles."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes


def places(rows: pa.Table, cells: int) -> np.ndarray:
    """Rollouts by rounded (p_pos, reliability): counts (cells + 1, cells + 1), `cells` of them per unit."""
    counts = np.zeros((cells + 1, cells + 1), dtype=np.int64)
    x, y = (np.rint(rows[name].to_numpy() * cells).astype(np.int64) for name in ("p_pos", "reliability"))
    np.add.at(counts, (x, y), 1)
    return counts


def area(count: Any, largest: int, unit: float = 1) -> Any:
    """Bubble area in points^2, by the logarithm of the count: counts span five orders of magnitude."""
    return unit * (10 + 190 * np.log1p(count) / math.log1p(largest))


def draw_small_bubbles(axes: Axes, counts: np.ndarray, largest: int, unit: float, **looks: Any) -> None:
    """The same with areas rounded to counts that are powers of two, which makes a small file of many panels."""
    levels = np.where(counts > 0, np.rint(np.log2(np.maximum(counts, 1))), -1)
    for level in np.unique(levels[levels >= 0]):
        x, y = np.nonzero(levels == level)
        side = math.sqrt(area(2**level, largest, unit))
        axes.plot(x / (len(counts) - 1), y / (len(counts) - 1), ls="", marker="o", ms=side, **looks)


def draw_bubbles(axes: Axes, counts: np.ndarray, largest: int, **looks: Any) -> None:
    """One bubble for every place that is not empty; `looks` go to Axes.scatter."""
    x, y = np.nonzero(counts)
    cells = len(counts) - 1
    axes.scatter(x / cells, y / cells, s=area(counts[x, y], largest), **looks)


def eligible(signals: pa.Table) -> pa.Table:
    """The rollouts that a selector could choose from."""
    return signals.filter(signals["ranked"])


def column(table: pa.Table, name: str) -> np.ndarray:
    """One column as float64, null as NaN."""
    return np.asarray(table[name].to_numpy(zero_copy_only=False), dtype=np.float64)
