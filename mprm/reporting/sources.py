"""Macro-F1 of every setting on every source of the benchmark."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mprm.reporting import tables
from mprm.reporting.collect import read_results
from mprm.reporting.compare import Row
from mprm.reporting.exhibit import Exhibit, wrapped
from mprm.reporting.style import CARD, INK, LOOKS, OTHER_LOOK, styled
from mprm.reporting.tables import Table

ACROSS = 5  # panels in a row

Points = dict[str, list[float]]  # source -> macro-F1 of every seed, in points


def by_source(row: Row) -> Points:
    """Macro-F1 at the threshold 0.5, in points, of every seed; sources that all seeds have."""
    of_seeds = []
    for folder in row.folders:
        results = read_results(folder)
        assert results is not None, folder
        of_seeds.append({name: 100 * f1.value for name, f1 in tables.per_source(results, "fixed").items()})
    return {name: [seed[name] for seed in of_seeds] for name in of_seeds[0] if all(name in seed for seed in of_seeds)}


def sources_table(points: list[tuple[Row, Points]]) -> Table:
    """Settings down, sources across, means over seeds."""
    names = _names(points)
    rows = tuple(
        (
            row.label,
            row.f1_fixed.points().split(" ")[0] if row.f1_fixed else "-",
            *(f"{np.mean(of_row[name]):.1f}" if name in of_row else "-" for name in names),
        )
        for row, of_row in points
    )
    note = (
        "Macro-F1 at the threshold 0.5, in points, mean over seeds. Overall: sources weighted by their labelled steps."
    )
    return Table("Macro-F1 by source, in numbers", ("setting", "overall", *names), rows, note)


def sources_exhibit(points: list[tuple[Row, Points]]) -> Exhibit | None:
    """One panel per source, one dot per setting; None for a benchmark of one source."""
    names = _names(points)
    if len(names) < 2:
        return None
    down = math.ceil(len(names) / ACROSS)
    across = math.ceil(len(names) / down)
    with styled():
        size = (13, 0.9 + down * (1.0 + 0.27 * len(points)))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(down, across, sharey=True, squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            _dots(axes, name, points)
        for axes in list(grid.flat)[len(names) :]:
            axes.remove()
        figure.suptitle("Macro-F1 by source", x=0.01, ha="left", fontsize=12, weight="bold")
        figure.supxlabel("macro-F1 (points), threshold 0.5", fontsize=10)
        figure.supylabel("setting", fontsize=10)
    winners = [f"{name}: {row.label} {value:.1f}" for name in names for value, row in [_best(name, points)]]
    return Exhibit(
        name="sources",
        title="Sources of the benchmark",
        figure=figure,
        caption="Large marks: mean over seeds; small dots: single seeds. The number is the highest of its source.",
        says=f"The best setting of every source. {'; '.join(winners)}.",
    )


def _dots(axes: Axes, name: str, points: list[tuple[Row, Points]]) -> None:
    axes.set_title(wrapped(name, 24), fontsize=10, pad=6)
    best, leader = _best(name, points)
    for y, (row, of_row) in enumerate(reversed(points)):
        if name not in of_row:
            continue
        colour, marker = LOOKS.get(row.selector, OTHER_LOOK)
        mean = float(np.mean(of_row[name]))
        if len(of_row[name]) > 1:
            axes.plot(of_row[name], [y] * len(of_row[name]), ls="", marker=".", ms=4, color=colour, alpha=0.6)
        axes.plot(mean, y, ls="", marker=marker, ms=6.5, color=colour, mec=CARD)
        if row is leader:
            place = (mean, y), (0, 5), "data", "offset points"
            axes.annotate(f"{best:.1f}", *place, ha="center", va="bottom", fontsize=8.5, weight="bold")
    axes.set_yticks(range(len(points)), [row.label for row, _ in reversed(points)])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(axis="y", color="none")
    axes.set_ylim(-0.6, len(points) + 0.1)
    axes.margins(x=0.12)


def _best(name: str, points: list[tuple[Row, Points]]) -> tuple[float, Row]:
    rated = [(float(np.mean(of_row[name])), row) for row, of_row in points if name in of_row]
    return max(rated, key=lambda pair: pair[0])


def _names(points: list[tuple[Row, Points]]) -> list[str]:
    return list(dict.fromkeys(name for _, of_row in points for name in of_row))
