"""The figures of one run. Each function takes tables and returns a Figure; nothing is shown or saved here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mprm.reporting.bubbles import area, draw_bubbles, places
from mprm.reporting.style import BLUE, CARD, GREY, INK, MUTED, ORANGE, name_axes, styled
from mprm.reporting.tables import Estimate

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
