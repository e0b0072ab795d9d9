"""The figures of all reports. Nothing is shown or saved here, and nothing knows a component by its name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mprm.metrics.estimate import FEWEST, Estimate, OverSeeds
from mprm.reporting import report, style
from mprm.reporting.style import BLUE, CARD, GREEN, GREY, INK, ORANGE, legend_below, name_axes


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number that is compared, and its panel in a figure."""

    key: str = ""
    name: str = ""  # in tables and sentences
    title: str  # of its panel
    axis: str
    scale: float = 100  # from the estimates to the axis: 100 turns shares into points
    form: str = ".1f"

    def text(self, number: Estimate | float | None) -> str:
        """With its interval, if it has one; '-' for none."""
        if number is None:
            return "-"
        return (number if isinstance(number, Estimate) else Estimate(number)).text(self.scale, self.form)

    def best(self, numbers: Sequence[OverSeeds | None]) -> float | None:
        """The highest value of several; None of fewer than two."""
        values = [number.value for number in numbers if number]
        return max(values) if len(values) > 1 else None


@dataclass(frozen=True, kw_only=True)
class ForestRow:
    """One row of a forest plot."""

    label: str
    numbers: Sequence[OverSeeds | None]  # one per panel
    look: Mapping[str, Any]  # colour and marker (style.looks)
    main: bool = False  # is the row stressed?


def forest(panels: Sequence[Measure], rows: Sequence[ForestRow], *, across: int = 3) -> Figure:
    """Every row as a mark with its interval in every panel, the first row on top; the value stands at the right edge.

    Dots are the seeds. An interval for any training is a line, that of a single one dotted; two have dots alone.

    across: panels side by side.
    """
    down = -(-len(panels) // across)
    columns = -(-len(panels) // down)
    labels = [fill(row.label, 40) for row in rows]
    height = 1.7 + 0.3 * len(rows) + 0.16 * sum(label.count("\n") for label in labels)
    width = 8.4 if columns == 1 else min(1.8 + 3.9 * columns, 13.5)
    with style.panels(width, down * height, columns, down) as (figure, grid):
        for place, (axes, panel) in enumerate(zip(grid, panels, strict=False)):
            name_axes(axes, fill(panel.title, 80 // columns), panel.axis, "" if place % columns else "setting")
            best = panel.best([row.numbers[place] for row in rows])
            for y, row in enumerate(reversed(rows)):
                _dot(axes, y, row, row.numbers[place], panel, best)
            axes.set_yticks(range(len(rows)), labels[::-1])
            for text, row in zip(axes.get_yticklabels(), reversed(rows), strict=True):
                text.set_fontweight("bold" if row.main else "normal")
            axes.tick_params(axis="y", length=0, labelcolor=INK, labelleft=place % columns == 0)
            axes.grid(axis="y", visible=False)
            axes.set_ylim(-0.6, len(rows) - 0.4)
            axes.margins(x=0.08)
        for axes in grid[len(panels) :]:
            axes.remove()
    return figure


def _dot(axes: Axes, y: int, row: ForestRow, number: OverSeeds | None, panel: Measure, best: float | None) -> None:
    """One row in one panel."""
    if row.main:
        axes.axhspan(y - 0.5, y + 0.5, color=BLUE, alpha=0.1, lw=0)
    if number is None:
        return
    colour, seeds = row.look["color"], [panel.scale * value for value in number.by_seed.values()]
    if len(seeds) > 1:
        axes.plot(seeds, [y] * len(seeds), ls="", marker=".", color=colour)
    if number.low is not None and number.high is not None and len(seeds) != 2:
        dash = "-" if len(seeds) >= FEWEST else (0, (1, 1))
        axes.hlines(y, panel.scale * number.low, panel.scale * number.high, color=colour, lw=2, ls=dash)
    axes.plot(panel.scale * number.value, y, **{**row.look, "ls": "", "ms": 8, "mec": CARD})
    mark, weight = (" best", "bold") if number.value == best else ("", "normal")
    text, transform = f"{panel.text(number.value)}{mark}", axes.get_yaxis_transform()
    axes.annotate(text, (1, y), (6, 0), transform, "offset points", va="center", fontsize=9, weight=weight)


def heatmap(
    panels: Sequence[Measure],
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], Sequence[OverSeeds | None]],
    *,
    x_label: str,
    y_label: str,
) -> Figure:
    """One grid per panel; the cells that are measured are shaded and show their number, the highest in bold.

    cells: (row, column) -> a number per panel.
    """
    shade = LinearSegmentedColormap.from_list("blue", [(BLUE, 0.04), (BLUE, 0.46)])
    wide = max(0.86 * len(columns), 2.8)  # inches of a panel
    with style.panels(2.6 + wide * len(panels), 1.6 + 0.5 * len(rows), len(panels)) as (figure, grid):
        for place, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
            name_axes(axes, fill(panel.title, int(8.6 * wide)), x_label, "" if place else y_label)
            numbers = {spot: of_cell[place] for spot, of_cell in cells.items()}
            best = panel.best([*numbers.values()])
            values = np.full((len(rows), len(columns)), math.nan)
            for (row, column), number in numbers.items():
                if number:
                    y, x = rows.index(row), columns.index(column)
                    values[y, x] = number.value
                    look: Any = {"weight": "bold" if number.value == best else "normal", "fontsize": 9, "color": INK}
                    axes.text(x + 0.5, y + 0.5, _cell_text(number, panel), ha="center", va="center", **look)
            axes.pcolormesh(np.ma.masked_invalid(values), cmap=shade, edgecolors=CARD, linewidth=2)
            axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
            axes.set_yticks(np.arange(len(rows)) + 0.5, [fill(row, 30) for row in rows])
            axes.invert_yaxis()
            axes.tick_params(length=0, labelcolor=INK, labelleft=place == 0)
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
    return figure


def _cell_text(number: OverSeeds, panel: Measure) -> str:
    """The value, and below it half the width of its interval or the values of two seeds."""
    text = panel.text(number.value)
    if len(number.by_seed) == 2:
        return f"{text}\n({', '.join(map(panel.text, number.by_seed.values()))})"
    if number.low is None or number.high is None:
        return text
    return f"{text}\n± {panel.text((number.high - number.low) / 2)}"


def percents(numbers: Sequence[Estimate]) -> np.ndarray:
    """Lower ends, values and upper ends in percent, (3, numbers); the ends are the value where there is no interval."""
    ends = [[one.value if end is None else end for end in (one.low, one.value, one.high)] for one in numbers]
    return 100 * np.array(ends).T


Curves = Mapping[tuple[str, str], Mapping[str, str]]  # title and axis of a panel -> what was logged -> its name there


def training_curves(
    name: str, title: str, panels: Curves, metrics: Sequence[Mapping[str, Any]] | None
) -> report.Figure | None:
    """What a training logged against its optimizer steps; None where nothing was.

    What is logged at every step (train/...) is drawn thin, and its running mean over it.
    """
    styles = ((BLUE, "-", ""), (ORANGE, "--", "o"), (GREEN, ":", "^"))
    found = {key: series(metrics or [], key) for lines in panels.values() for key in lines}
    panels = {panel: lines for panel, lines in panels.items() if any(len(found[key][0]) for key in lines)}
    if not panels:
        return None
    ends = []
    with style.panels(4.2 * max(len(panels), 2), 3.9, len(panels)) as (figure, grid):
        for axes, ((heading, unit), lines) in zip(grid, panels.items(), strict=True):
            name_axes(axes, heading, "optimizer steps", unit)
            for (key, label), (colour, dash, marker) in zip(lines.items(), styles, strict=False):
                steps, values = found[key]
                if not len(steps):
                    continue
                if key.startswith("train/"):
                    axes.plot(steps, values, color=GREY, lw=0.8, alpha=0.6)
                    values = smooth(values)
                axes.plot(steps, values, color=colour, ls=dash, marker=marker, ms=5, lw=1.9, label=label)
                ends.append(f"{label} from {values[0]:.3g} to {values[-1]:.3g} at step {steps[-1]:.0f}")
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if any(len(lines) > 1 for lines in panels.values()):  # else the title says it
            legend_below(figure)
    caption = "Thin: means of one optimizer step, as it logged them. Thick: their running mean."
    return report.Figure(name, title, figure, caption, f"{title}: {'; '.join(ends)}.")


SPEEDS = {  # what was logged -> its column and form
    **{"rollouts_per_second": ("rollouts/s", ".4g"), "tokens_per_second": ("tokens/s", ",.0f"), "mfu": ("MFU", ".1%")},
    **{"waiting": ("waiting for data", ".1%"), "peak_memory_gib": ("peak memory (GiB)", ".1f")},
}


def speed_table(trainings: Mapping[str, Sequence[Mapping[str, Any]] | None]) -> report.Table:
    """How fast the trainings were, by name; a row for each that logged it."""
    rows = []
    for name, metrics in trainings.items():
        found = [(series(metrics or [], f"speed/{key}")[1], form) for key, (_, form) in SPEEDS.items()]
        cells = [format(np.median(values), form) if len(values) else "-" for values, form in found]
        rows += [(name, *cells)] if any(len(values) for values, _ in found) else []
    note = "Medians over optimizer steps, without validations and checkpoints. MFU: of what the devices could compute."
    return report.Table("Speed", ("training", *(column for column, _ in SPEEDS.values())), tuple(rows), note)


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
