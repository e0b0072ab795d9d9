"""How much two subsets have in common."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from mprm.reporting.exhibit import Exhibit, wrapped
from mprm.reporting.heatmap import bare, cell
from mprm.reporting.style import name_axes, styled
from mprm.reporting.subsets import Corpus
from mprm.reporting.tables import Table

PIECE = 1 << 16  # rollouts that are compared at a time


def jaccard(keys: list[np.ndarray]) -> np.ndarray:
    """Jaccard index of every two sets: rollouts in both, divided by rollouts in either.

    keys: for each of n sets its members, int64, sorted, none twice, at least one. Returns (n, n) float64.
    """
    universe = keys[0]
    for more in keys[1:]:
        universe = np.union1d(universe, more)
    member = np.zeros((len(keys), len(universe)), dtype=bool)
    for row, of_set in zip(member, keys, strict=True):
        row[np.searchsorted(universe, of_set)] = True
    both = np.zeros((len(keys), len(keys)))
    for start in range(0, len(universe), PIECE):  # float32 counts exactly up to 2**24
        piece = member[:, start : start + PIECE].astype(np.float32)
        both += piece @ piece.T
    sizes = np.array([len(of_set) for of_set in keys], dtype=np.float64)
    return np.asarray(both / (sizes[:, None] + sizes[None, :] - both))


def overlap_exhibit(corpus: Corpus) -> Exhibit | None:
    """The Jaccard indices of all subsets of a corpus; None for a single one."""
    subsets = corpus.subsets
    if len(subsets) < 2:
        return None
    index, n = jaccard([subset.keys for subset in subsets]), len(subsets)
    labels = [subset.label for subset in subsets]
    with styled():
        side = 0.52 if n <= 20 else 0.42
        names = [f"{wrapped(label, 48)}  {place}" for place, label in enumerate(labels, start=1)]
        wide = 1.2 + 0.08 * max(len(line) for name in names for line in name.split("\n")) + side * n
        figure = Figure(figsize=(max(wide, 7), max(1.4 + 0.8 * side * n, 3)), layout="constrained")
        axes = figure.subplots()
        name_axes(axes, "Overlap of the subsets", "subset", "subset")
        for y in range(n):
            for x in range(y + 1):
                text = f"{index[y, x]:.2f}".removeprefix("0") if x < y else ""
                cell(axes, x, y, index[y, x] if x < y else 0, text, size=9 if n <= 20 else 7.5)
        axes.set_xticks(np.arange(n - 1) + 0.5, [str(place) for place in range(1, n)])
        axes.set_yticks(np.arange(n) + 0.5, names)
        bare(axes, n, n)
    pairs = sorted(((index[y, x], labels[x], labels[y]) for y in range(n) for x in range(y)), reverse=True)
    words = "; ".join(f"{a} and {b} {value:.2f}" for value, a, b in (pairs if n <= 8 else [*pairs[:8], *pairs[-8:]]))
    which = "Jaccard index of every two subsets" if n <= 8 else "The most and the least alike of all subsets"
    rows = tuple((label, *(f"{value:.4f}" for value in line)) for label, line in zip(labels, index, strict=True))
    return Exhibit(
        name="overlap",
        title="How much the subsets have in common",
        figure=figure,
        caption="Jaccard index: rollouts in both subsets, divided by those in either; 1.00 is the same subset. "
        "The subset of the lowest seed stands for its setting.",
        says=f"{which}: {words}.",
        data=Table("Jaccard overlap", ("subset", *labels), rows),
    )
