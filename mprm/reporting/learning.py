"""How the settings learn: validation AUC and loss on common axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from mprm.reporting.collect import read_json_lines
from mprm.reporting.compare import Row
from mprm.reporting.exhibit import AUC, Exhibit, best_row, legend_below
from mprm.reporting.style import INK, line_looks, name_axes, styled
from mprm.reporting.tables import Table

MOST = 8  # lines that can still be told apart
AXES = {"step": "optimizer steps", "rollouts": "rollouts seen", "seconds": "seconds of training"}
VALUES = {
    "val/auc": ("Validation AUC", "AUC of held-out steps"),
    "val/loss": ("Validation loss", "loss per step (nats)"),
}


@dataclass(frozen=True)
class Curve:
    """Means over the seeds of a setting at the validations that all seeds have: x[axis] and y, (points,) each."""

    x: dict[str, np.ndarray]
    y: np.ndarray


def mean_curve(folders: tuple[Path, ...], key: str) -> Curve | None:
    """The mean curve of `key` over the runs; None when they have no finite value at a common step."""
    of_seeds = []
    for folder in folders:
        lines = read_json_lines(folder / "metrics.jsonl") or []
        of_seeds.append({line["step"]: line for line in lines if _finite(line.get(key))})
    steps = sorted(set.intersection(*map(set, of_seeds)))
    if not steps:
        return None

    def mean(name: str) -> np.ndarray:
        return np.array([np.mean([lines[step][name] for lines in of_seeds]) for step in steps])

    return Curve({axis: mean(axis) for axis in AXES}, mean(key))


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def chosen(rows: tuple[Row, ...]) -> list[Row]:
    """The settings whose curves are drawn: all, if they are few.

    Else the best subset by AUC, Full, the best of every other selector at the ratio of the best subset, and the best of
    that subset's selector at the other ratios; the first MOST of these, in the order of `rows`.
    """
    rated = [row for row in rows if row.auc]
    subsets = tuple(row for row in rated if row.selector != "Full")
    best = best_row(subsets, AUC)
    if len(rated) <= MOST or best is None:
        return rated[:MOST]
    wanted = [best, *(row for row in rated if row.selector == "Full")]
    for selector in dict.fromkeys(row.selector for row in subsets if row.selector != best.selector):
        wanted += _best_where(subsets, selector, best.ratio)
    for ratio in dict.fromkeys(row.ratio for row in subsets if row.ratio != best.ratio):
        wanted += _best_where(subsets, best.selector, ratio)
    return [row for row in rows if row in wanted[:MOST]]


def _best_where(rows: tuple[Row, ...], selector: str, ratio: float) -> list[Row]:
    row = best_row(tuple(row for row in rows if (row.selector, row.ratio) == (selector, ratio)), AUC)
    return [row] if row else []


def learning_exhibit(rows: tuple[Row, ...]) -> Exhibit | None:
    """Validation AUC and loss against steps, rollouts and seconds; None when no run was validated."""
    drawn = chosen(rows)
    curves = {key: {row.label: curve for row in drawn if (curve := mean_curve(row.folders, key))} for key in VALUES}
    curves = {key: of_key for key, of_key in curves.items() if of_key}
    if not curves:
        return None
    looks = line_looks({row.label: row.selector for row in drawn})
    with styled():
        figure = Figure(figsize=(13, 0.9 + 3.4 * len(curves)), layout="constrained")
        grid = figure.subplots(len(curves), len(AXES), squeeze=False, sharey="row", sharex="col")
        for line, (key, of_key) in zip(grid, curves.items(), strict=True):
            for axes, axis in zip(line, AXES, strict=True):
                _panel(axes, of_key, key, axis, looks)
        legend_below(figure)
    left_out = len([row for row in rows if row.auc]) - len(drawn)
    choice = (
        f" Of {left_out + len(drawn)} settings these are drawn: the best subset by AUC, Full, the best of every other "
        "selector at the same ratio, and the best of its own at the other ratios; learning.csv has all of them."
        if left_out
        else ""
    )
    return Exhibit(
        name="learning",
        title="Learning curves",
        figure=figure,
        caption="Mean over seeds, measured on held-out rollouts with Monte-Carlo labels. "
        "Seconds are of the machine that trained." + choice,
        says=" ".join(_in_words(key, of_key) for key, of_key in curves.items()),
        data=_table(rows),
    )


def _panel(axes: Axes, curves: dict[str, Curve], key: str, axis: str, looks: dict[str, dict[str, Any]]) -> None:
    title, y_label = VALUES[key]
    name_axes(axes, f"{title} against {AXES[axis].split(' of ')[0]}", AXES[axis], y_label)
    for label, curve in curves.items():
        every = max(1, len(curve.y) // 6)  # markers tell lines apart and must not hide them
        axes.plot(curve.x[axis], curve.y, lw=1.7, ms=6, markevery=every, label=label, **looks[label])
        axes.plot(curve.x[axis][-1], curve.y[-1], marker="|", ms=9, mew=1.6, color=looks[label].get("color", INK))
    ends = [curve.x[axis][-1] for curve in curves.values()]
    if max(ends) > 5 * min(ends) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelbottom=True, labelleft=True)
    axes.margins(y=0.1)


def _in_words(key: str, curves: dict[str, Curve]) -> str:
    ends = [f"{label} {curve.y[-1]:.3f} after {curve.x['step'][-1]:,.0f} steps" for label, curve in curves.items()]
    return f"{VALUES[key][0]} at the end: {'; '.join(ends)}."


def _table(rows: tuple[Row, ...]) -> Table:
    lines = []
    for row in rows:
        for key in VALUES:
            if curve := mean_curve(row.folders, key):
                places = zip(*(curve.x[axis] for axis in AXES), curve.y, strict=True)
                lines += [(row.label, key, *(f"{number:.6g}" for number in place)) for place in places]
    return Table("Learning curves", ("setting", "measure", *AXES.values(), "mean"), tuple(lines))
