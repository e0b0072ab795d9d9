"""The figures of one run. Each function takes tables and returns a Figure; nothing is shown or saved here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mprm.metrics.results import Estimate
from mprm.reporting.bubbles import area, draw_bubbles, places
from mprm.reporting.style import (
    BLUE,
    CARD,
    DASHES,
    GREY,
    INK,
    MUTED,
    ORANGE,
    legend_below,
    name_axes,
    styled,
    wrapped,
)

GRID = 40  # cells per unit in the BIS map: finer than 1/16, coarse enough that a bubble is one place on the page


def eligible(signals: pa.Table) -> pa.Table:
    """The rollouts that a selector could choose from."""
    return signals.filter(signals["ranked"])


def column(table: pa.Table, name: str) -> np.ndarray:
    """One column as float64, null as NaN."""
    return np.asarray(table[name].to_numpy(zero_copy_only=False), dtype=np.float64)


def bis_map(candidates: pa.Table, kept: pa.Table, alpha: float | None) -> Figure:
    """Share of positive steps (x) against reliability (y), kept and dropped rollouts as bubbles of counts.

    candidates: eligible rows of the signals table; kept: a subset of them. With alpha (BIS), lines of equal score
    (p_pos (1 - p_pos) + alpha) R, arXiv 2602.04145.
    """
    all_counts, kept_counts = places(candidates, GRID), places(kept, GRID)
    dropped_counts = all_counts - kept_counts
    largest = max(int(all_counts.max()), 1)
    with styled():
        figure = Figure(figsize=(8.4, 5.4), layout="constrained")
        axes = figure.subplots()
        name_axes(
            axes,
            "What was kept: balance against reliability",
            "p_pos: share of positive steps in the rollout",
            "R: mean MC score of the positive steps",
        )
        if alpha is not None:
            _score_lines(axes, alpha)
        draw_bubbles(axes, kept_counts, largest, marker="D", facecolors=BLUE, edgecolors=CARD, linewidths=0.6, zorder=3)
        draw_bubbles(
            axes, dropped_counts, largest, marker="o", facecolors="none", edgecolors=GREY, linewidths=1, zorder=4
        )
        axes.set_xlim(-0.05, 1.05)
        axes.set_ylim(-0.05, 1.08)
        _bubble_legend(figure, kept.num_rows, candidates.num_rows - kept.num_rows, largest, alpha is not None)
    return figure


def _score_lines(axes: Axes, alpha: float) -> None:
    x, y = np.meshgrid(np.linspace(0, 1, 101), np.linspace(0, 1, 101))
    score = (x * (1 - x) + alpha) * y
    levels = MaxNLocator(6).tick_values(0, 0.25 + alpha)[1:]
    lines = axes.contour(x, y, score, levels=levels, colors=MUTED, linewidths=0.9, linestyles="dotted", zorder=2)
    for label in axes.clabel(lines, fmt="%g", fontsize=8, zorder=5):
        label.set_bbox({"facecolor": CARD, "edgecolor": "none", "pad": 1})


def _bubble_legend(figure: Figure, n_kept: int, n_dropped: int, largest: int, lines: bool) -> None:
    def dot(marker: str, points: float, label: str, face: str, edge: str) -> Line2D:
        size = math.sqrt(points)
        return Line2D([], [], ls="", marker=marker, ms=size, mfc=face, mec=edge, label=label)

    handles = [
        dot("D", 70, f"kept ({n_kept:,})", BLUE, CARD),
        dot("o", 70, f"not kept ({n_dropped:,})", "none", GREY),
    ]
    if lines:
        handles.append(Line2D([], [], ls="dotted", color=MUTED, lw=1, label="equal BIS score"))
    handles.append(Line2D([], [], ls="", label="\nRollouts in one place"))
    sizes = [10**power for power in range(len(str(largest)))]
    handles += [dot("o", area(size, largest), f"{size:,}", "none", GREY) for size in sizes]
    figure.legend(handles=handles, loc="outside right upper", labelspacing=0.9, borderaxespad=2.2)


def mc_histogram(candidates: pa.Table, kept: pa.Table) -> Figure:
    """Mean MC score per rollout and share of positive steps: eligible rollouts against the kept ones."""
    panels = [
        ("mean_mc", "Mean MC score per rollout", "mean MC score of the rollout's steps"),
        ("p_pos", "Share of positive steps", "p_pos of the rollout"),
    ]
    bins = np.linspace(0, 1, 21)
    with styled():
        figure = Figure(figsize=(8.4, 3.9), layout="constrained")
        for axes, (name, title, label) in zip(figure.subplots(1, 2), panels, strict=True):
            name_axes(axes, title, label, "share of rollouts (%)")
            groups = [column(table, name) for table in (candidates, kept)]
            shares = [np.histogram(values, bins)[0] / max(len(values), 1) * 100 for values in groups]
            axes.stairs(shares[0], bins, fill=True, color=GREY, alpha=0.45, label=f"eligible ({len(groups[0]):,})")
            axes.stairs(
                shares[1], bins, color=BLUE, lw=1.8, hatch="////", fill=False, label=f"kept ({len(groups[1]):,})"
            )
            axes.set_xlim(-0.02, 1.02)
            axes.grid(axis="x", visible=False)
        figure.axes[0].legend(loc="upper left")
    return figure


def learning_curve(metrics: list[dict[str, Any]]) -> Figure:
    """Loss (left) and step accuracy and AUC (right) of training and validation against optimizer steps."""
    panels = [
        ("Loss", "loss per step (nats)", [("train/loss", "train"), ("val/loss", "validation")]),
        (
            "Step accuracy and AUC",
            "share (0 to 1)",
            [
                ("train/step_accuracy", "train accuracy"),
                ("val/step_accuracy", "validation accuracy"),
                ("val/auc", "validation AUC"),
            ],
        ),
    ]
    looks = [(GREY, "-", ""), (BLUE, "--", "o"), (ORANGE, ":", "^")]
    with styled():
        figure = Figure(figsize=(8.4, 3.9), layout="constrained")
        for axes, (title, y_label, lines) in zip(figure.subplots(1, 2), panels, strict=True):
            name_axes(axes, title, "optimizer steps", y_label)
            for (key, label), (colour, dash, marker) in zip(lines, looks, strict=False):
                steps, values = series(metrics, key)
                if not len(steps):
                    continue
                if key.startswith("train/"):
                    axes.plot(steps, values, color=colour, lw=0.8, alpha=0.45)
                    values = smooth(values)
                axes.plot(steps, values, color=colour, ls=dash, marker=marker, ms=5, lw=1.9, label=label)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.margins(y=0.12)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="best")
    return figure


def series(metrics: list[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
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


def source_f1(overall: Estimate, sources: dict[str, Estimate], baselines: dict[str, float], threshold: str) -> Figure:
    """Macro-F1 per source, best on top, with 95 % intervals; overall in its own row, baselines as lines.

    All numbers are fractions and shown as points; `threshold` says in words which one was used.
    """
    rows = sorted(sources.items(), key=lambda row: row[1].value)
    heights = [0.0, *(i + 1.5 for i in range(len(rows)))]  # a gap and a rule set the overall row apart
    with styled():
        figure = Figure(figsize=(8.4, 1.9 + 0.34 * len(heights)), layout="constrained")
        axes = figure.subplots()
        name_axes(axes, "Macro-F1 per source", f"macro-F1 (points), {threshold}", "source")
        for (name, value), dash in zip(baselines.items(), ("--", ":"), strict=False):
            axes.axvline(100 * value, color=ORANGE, ls=dash, lw=1.4, label=f"{name}, overall {100 * value:.1f}")
        for y, number in zip(heights, [overall, *(number for _, number in rows)], strict=True):
            dot_and_interval(axes, y, number, main=y == 0)
        axes.axhline(0.75, color=MUTED, lw=0.8)
        axes.set_yticks(heights, ["Overall", *(name for name, _ in rows)])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(axis="y", visible=False)
        axes.set_ylim(-0.7, heights[-1] + 0.6)
        axes.margins(x=0.06)
        if baselines:
            figure.legend(loc="outside lower left", ncols=2)
    return figure


def dot_and_interval(axes: Axes, y: float, number: Estimate, main: bool) -> None:
    """One row of a dot-and-interval plot in points, its value written at the right edge."""
    colour = BLUE if main else INK
    if number.low is not None and number.high is not None:
        axes.hlines(y, 100 * number.low, 100 * number.high, color=colour, lw=2.6 if main else 1.6)
    axes.plot(100 * number.value, y, marker="D" if main else "o", ms=9 if main else 6.5, color=colour, mec=CARD)
    text = f"{100 * number.value:.1f}"
    axes.annotate(text, (1, y), (6, 0), axes.get_yaxis_transform(), "offset points", va="center", color=colour)


def calibration(correct: np.ndarray, scores: np.ndarray, threshold: float, n_bins: int) -> Figure:
    """Reliability diagram (left), and the scores of correct and incorrect steps with the threshold (right).

    correct: (steps,) bool; scores: (steps,) in [0, 1]; n_bins: equal-width bins of the diagram, as for the ECE.
    """
    with styled():
        figure = Figure(figsize=(8.4, 4.1), layout="constrained")
        left, right = figure.subplots(1, 2)
        name_axes(left, "Calibration", "mean step score in the bin", "share of correct steps in the bin")
        left.plot([0, 1], [0, 1], color=MUTED, ls="--", lw=1.2, label="perfect")
        score, share, count = calibration_bins(correct, scores, n_bins)
        left.plot(score, share, color=BLUE, lw=1.2)
        sizes = 14 + 150 * count / count.max()
        left.scatter(score, share, s=sizes, color=BLUE, edgecolors=CARD, zorder=3, label="bin (area: steps in it)")
        left.set_ylim(-0.03, 1.03)
        left.legend(loc="upper left")
        name_axes(right, "Step scores by label", "step score", "share of the label's steps (%)")
        edges = np.linspace(0, 1, 21)
        for label, values, looks in (
            ("correct", scores[correct], {"color": BLUE, "lw": 1.8, "fill": False, "hatch": "////"}),
            ("incorrect", scores[~correct], {"color": ORANGE, "alpha": 0.55, "fill": True}),
        ):
            shares = np.histogram(values, edges)[0] / max(len(values), 1) * 100
            right.stairs(shares, edges, label=f"{label} ({len(values):,})", **looks)
        right.axvline(threshold, color=INK, ls="--", lw=1.2, label=f"threshold {threshold:.3f}")
        right.grid(axis="x", visible=False)
        right.set_ylim(top=1.35 * right.get_ylim()[1])  # the legend stands above the bars
        right.legend(loc="upper center")
        for axes in (left, right):
            axes.set_xlim(-0.03, 1.03)
    return figure


def calibration_bins(correct: np.ndarray, scores: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean score, share of correct steps, and number of steps of every bin that is not empty."""
    index = np.minimum((scores * n_bins).astype(np.int64), n_bins - 1)
    count = np.bincount(index, minlength=n_bins)
    used = count > 0
    score, right = (np.bincount(index, weights=w, minlength=n_bins)[used] for w in (scores, correct))
    return score / count[used], right / count[used], count[used]


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
