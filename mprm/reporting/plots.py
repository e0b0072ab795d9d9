"""The figures of all reports. Nothing is shown or saved here, and nothing knows a component by its name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mprm.metrics.results import Estimate
from mprm.reporting import report
from mprm.reporting.style import (
    BLUE,
    CARD,
    DASHES,
    GREEN,
    GREY,
    INK,
    ORANGE,
    legend_below,
    name_axes,
    styled,
    wrapped,
)

# ---- dots with intervals, and cells


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One measure of a forest plot or a heat map."""

    title: str
    axis: str
    # From the estimates to the axis: 100 turns shares into points.
    scale: float = 100
    form: str = ".1f"
    # Lines to compare with: label -> value, in the unit of the estimates.
    references: Mapping[str, float] = field(default_factory=dict)

    def best(self, numbers: Sequence[Estimate | None]) -> float | None:
        """The highest value of several; None of fewer than two."""
        values = [number.value for number in numbers if number]
        return max(values) if len(values) > 1 else None


@dataclass(frozen=True, kw_only=True)
class ForestRow:
    """One row of a forest plot."""

    label: str
    # One per panel.
    numbers: Sequence[Estimate | None]
    # Colour and marker (style.looks).
    look: Mapping[str, Any] = field(default_factory=lambda: {"color": INK, "marker": "o"})
    # Its entry in the legend, which rows of one look share.
    group: str = ""
    # Is the row stressed?
    main: bool = False
    # Is the interval over the benchmark only, and not over trainings? Then it is dotted.
    one_training: bool = False
    # A number to compare with, of the first panel, drawn as a ring.
    before: Estimate | None = None


def forest(
    panels: Sequence[Panel],
    rows: Sequence[ForestRow],
    *,
    y_label: str = "setting",
    across: int = 3,
    mark_best: bool = True,
    before: str = "",
) -> Figure:
    """Every row as a dot with its interval in every panel, the first row on top; the value stands at the right edge.

    across: panels side by side. mark_best: name the highest value of each panel. before: what the rings are.
    """
    down = -(-len(panels) // across)
    columns = -(-len(panels) // down)
    labels = [wrapped(row.label, 40) for row in rows]
    height = 1.7 + 0.3 * len(rows) + 0.16 * sum(label.count("\n") for label in labels)
    with styled():
        width = 8.4 if columns == 1 else min(1.8 + 3.9 * columns, 13.5)
        figure = Figure(figsize=(width, down * height), layout="constrained")
        grid = figure.subplots(down, columns, squeeze=False)
        for place, (axes, panel) in enumerate(zip(grid.flat, panels, strict=False)):
            name_axes(axes, wrapped(panel.title, 80 // columns), panel.axis, "" if place % columns else y_label)
            for (label, value), dash in zip(panel.references.items(), DASHES[1:], strict=False):
                axes.axvline(panel.scale * value, color=ORANGE, ls=dash, lw=1.4, label=label)
            best = panel.best([row.numbers[place] for row in rows]) if mark_best else None
            for y, row in enumerate(reversed(rows)):
                _dot(axes, y, row, place, panel, best)
            axes.set_yticks(range(len(rows)), labels[::-1])
            for text, row in zip(axes.get_yticklabels(), reversed(rows), strict=True):
                text.set_fontweight("bold" if row.main else "normal")
            axes.tick_params(axis="y", length=0, labelcolor=INK, labelleft=place % columns == 0)
            axes.grid(axis="y", visible=False)
            axes.set_ylim(-0.6, len(rows) - 0.4)
            axes.margins(x=0.08)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for group, look in {row.group: row.look for row in rows if row.group}.items():
            figure.axes[0].plot([], [], label=group, **{**look, "ls": "", "ms": 8, "mec": CARD})
        if before:
            figure.axes[0].plot([], [], label=before, **RING)
        legend_below(figure)
    return figure


RING: dict[str, Any] = {"ls": "", "marker": "o", "ms": 8, "mfc": "none", "mec": GREY, "mew": 1.5}


def _dot(axes: Axes, y: int, row: ForestRow, place: int, panel: Panel, best: float | None) -> None:
    """One row in one panel; the values of two seeds are dots."""
    if row.main:
        axes.axhspan(y - 0.5, y + 0.5, color=BLUE, alpha=0.1, lw=0)
    number = row.numbers[place]
    if number is None:
        return
    colour = row.look["color"]
    if number.each:
        values = [panel.scale * value for value in number.each]
        axes.plot(values, [y] * len(values), ls="", marker=".", ms=6, color=colour)
    elif number.low is not None and number.high is not None:
        dash = (0, (1, 1)) if row.one_training else "-"
        axes.hlines(y, panel.scale * number.low, panel.scale * number.high, color=colour, lw=2, ls=dash)
    if row.before and place == 0:
        axes.plot(panel.scale * row.before.value, y, **RING)
    axes.plot(panel.scale * number.value, y, **{**row.look, "ls": "", "ms": 8, "mec": CARD})
    text = f"{panel.scale * number.value:{panel.form}}" + (" best" if number.value == best else "")
    weight = "bold" if number.value == best else "normal"
    transform = axes.get_yaxis_transform()
    axes.annotate(text, (1, y), (6, 0), transform, "offset points", va="center", fontsize=9, weight=weight)


def heatmap(
    panels: Sequence[Panel],
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], Sequence[Estimate | None]],
    *,
    x_label: str,
    y_label: str,
) -> Figure:
    """One grid per panel; the cells that are measured are shaded and show their number, the highest in bold.

    cells: (row, column) -> a number per panel.
    """
    shade = LinearSegmentedColormap.from_list("blue", [(BLUE, 0.04), (BLUE, 0.46)])
    with styled():
        wide = max(0.86 * len(columns), 2.8)  # inches of a panel
        size = (2.6 + wide * len(panels), 1.6 + 0.5 * len(rows))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for place, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
            name_axes(axes, wrapped(panel.title, int(8.6 * wide)), x_label, "" if place else y_label)
            numbers = {spot: of_cell[place] for spot, of_cell in cells.items()}
            values = np.array([[_value(numbers.get((row, column))) for column in columns] for row in rows])
            axes.pcolormesh(np.ma.masked_invalid(values), cmap=shade, edgecolors=CARD, linewidth=2)
            best = panel.best([*numbers.values()])
            for (row, column), number in numbers.items():
                if number:
                    spot = columns.index(column) + 0.5, rows.index(row) + 0.5
                    text, weight = _cell_text(number, panel), "bold" if number.value == best else "normal"
                    axes.text(*spot, text, ha="center", va="center", fontsize=9, weight=weight, color=INK)
            axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
            axes.set_yticks(np.arange(len(rows)) + 0.5, [wrapped(row) for row in rows])
            axes.invert_yaxis()
            axes.tick_params(length=0, labelcolor=INK, labelleft=place == 0)
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
    return figure


def _value(number: Estimate | None) -> float:
    return number.value if number else math.nan


def _cell_text(number: Estimate, panel: Panel) -> str:
    """The value, and below it half the width of its interval or the values of two seeds."""
    text = f"{panel.scale * number.value:{panel.form}}"
    if number.each:
        return f"{text}\n({', '.join(f'{panel.scale * value:{panel.form}}' for value in number.each)})"
    if number.low is None or number.high is None:
        return text
    return f"{text}\n± {panel.scale * (number.high - number.low) / 2:{panel.form}}"


def percents(numbers: Sequence[Estimate]) -> np.ndarray:
    """Lower ends, values and upper ends in percent, (3, numbers); the ends are the value where there is no interval."""
    ends = [[one.value if end is None else end for end in (one.low, one.value, one.high)] for one in numbers]
    return 100 * np.array(ends).T


def histograms(axes: Axes, back: Mapping[str, np.ndarray], front: Mapping[str, np.ndarray], colour: str = GREY) -> None:
    """Values from 0 to 1 in percent of their group: one group as an area in the colour, one hatched before it."""
    bins = np.linspace(0, 1, 21)
    looks: tuple[tuple[Mapping[str, np.ndarray], dict[str, Any]], ...] = (
        (back, {"color": colour, "alpha": 0.5, "fill": True}),
        (front, {"color": BLUE, "lw": 1.8, "hatch": "////", "fill": False}),
    )
    for groups, look in looks:
        for name, values in groups.items():
            shares = 100 * np.histogram(values, bins)[0] / max(len(values), 1)
            axes.stairs(shares, bins, label=f"{name} ({len(values):,})", **look)
    axes.set_xlim(-0.03, 1.03)
    axes.grid(axis="x", visible=False)


# ---- training


@dataclass(frozen=True)
class Curves:
    """A panel of training_curves."""

    title: str
    axis: str
    # What a training logged (train/loss) -> its name in the legend.
    lines: Mapping[str, str]
    scale: float = 1


def training_curves(
    name: str, title: str, panels: Sequence[Curves], metrics: Sequence[Mapping[str, Any]], note: str = ""
) -> report.Figure | None:
    """The curves against optimizer steps; None where none of them was logged.

    What is logged at every step (train/...) is drawn thin, and its running mean over it.
    """
    styles = ((BLUE, "-", ""), (ORANGE, "--", "o"), (GREEN, ":", "^"))
    panels = [panel for panel in panels if any(len(series(metrics, key)[0]) for key in panel.lines)]
    if not panels:
        return None
    ends = []
    with styled():
        figure = Figure(figsize=(4.2 * max(len(panels), 2), 3.9), layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            name_axes(axes, panel.title, "optimizer steps", panel.axis)
            for (key, label), (colour, dash, marker) in zip(panel.lines.items(), styles, strict=False):
                steps, values = series(metrics, key)
                if not len(steps):
                    continue
                values = panel.scale * values
                if key.startswith("train/"):
                    axes.plot(steps, values, color=GREY, lw=0.8, alpha=0.6)
                    values = smooth(values)
                axes.plot(steps, values, color=colour, ls=dash, marker=marker, ms=5, lw=1.9, label=label)
                ends.append(f"{label} from {values[0]:.3g} to {values[-1]:.3g} at step {steps[-1]:.0f}")
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.margins(y=0.12)
        if any(len(panel.lines) > 1 for panel in panels):
            legend_below(figure)
    caption = f"Thin: means of one optimizer step, as it logged them. Thick: their running mean.{note}"
    return report.Figure(name, title, figure, caption, f"{title}: {'; '.join(ends)}.")


def series(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the lines that carry a finite `key`."""
    points = [
        (row["step"], row[key]) for row in metrics if isinstance(row.get(key), int | float) and math.isfinite(row[key])
    ]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.array(steps, dtype=np.float64), np.array(values, dtype=np.float64)


def smooth(values: np.ndarray) -> np.ndarray:
    """Centred running mean over about a twentieth of the curve; the window shrinks at the two ends."""
    half = len(values) // 40
    padded = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (padded[high] - padded[low]) / (high - low)
