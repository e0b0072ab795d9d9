"""report.html, comparison.csv, comparison.md, comparison.png and comparison.svg of a folder of runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.text import Text

from mprm.artifacts import atomic_file, write_text
from mprm.reporting import markup
from mprm.reporting.compare import Comparison, Row, as_csv, as_markdown, comparison_table
from mprm.reporting.console import rich_table
from mprm.reporting.style import BLUE, CARD, GOLD, GREEN, GREY, INK, ORANGE, PURPLE, name_axes, styled
from mprm.reporting.tables import Estimate

LOOKS = {
    "BIS": (BLUE, "D"),
    "Full": (INK, "s"),
    "Random": (GREY, "o"),
    "Mixed": (GREEN, "^"),
    "Reliable": (PURPLE, "v"),
    "LowMC": (ORANGE, "X"),
}
OTHER_LOOK = (GOLD, "P")
DASHES = ("-", "--", "-.", ":")


def write_comparison(directory: Path, comparison: Comparison) -> Path:
    """Write the comparison of the runs in `directory` next to them, each file atomically; return the page's path."""
    table = comparison_table(comparison)
    write_text(directory / "comparison.csv", as_csv(comparison))
    write_text(directory / "comparison.md", as_markdown(table))
    parts = []
    if comparison.rows:
        figure = comparison_figure(comparison)
        with styled():
            for kind in ("png", "svg"):
                with atomic_file(directory / f"comparison.{kind}") as path:
                    figure.savefig(path, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
        caption = "Dots: mean over seeds. Bars: 95 % t-interval over seeds; a single seed has none."
        says = "; ".join(
            ": ".join((row[0], f"AUC {row[3]}, F1 {row[5] if row[5] != '-' else row[4]}")) for row in table.rows
        )
        parts.append(markup.figure(figure, "comparison", caption, f"Comparison of selectors. {says}."))
    parts.append(markup.table(table))
    if comparison.left_out:
        names = "; ".join(f"{name} ({reason})" for name, reason in comparison.left_out.items())
        parts.append(markup.note("Left out", names))
    path = directory / "report.html"
    write_text(path, markup.document(f"mprm comparison {directory.resolve().name}", headline(comparison), parts))
    return path


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print the comparison table and what was left out."""
    console = console or Console()
    table = comparison_table(comparison)
    console.print(rich_table(table))
    console.print(Text(table.note, style="dim"))
    for name, reason in comparison.left_out.items():
        console.print(Text(f"Left out: {name} ({reason})"))


def headline(comparison: Comparison) -> str:
    """How many runs were compared and which setting has the highest mean AUC."""
    rated = [row for row in comparison.rows if row.auc]
    if not rated:
        return "No run has results yet."
    best = max(rated, key=_auc)
    seeds = sum(len(row.seeds) for row in comparison.rows)
    assert best.auc
    counted = f"{len(comparison.rows)} settings in {seeds} runs."
    return f"{counted} The highest mean AUC is {best.auc.fraction()}, by {best.label}."


def _auc(row: Row) -> float:
    assert row.auc
    return row.auc.value


@dataclass(frozen=True)
class Measure:
    """One of the numbers of a Row, and how it is shown."""

    field: str
    title: str
    axis: str
    scale: int
    form: str

    def of(self, row: Row) -> Estimate | None:
        """The row's number in the unit of the axis."""
        number: Estimate | None = getattr(row, self.field)
        if number is None or number.low is None or number.high is None:
            return None if number is None else Estimate(self.scale * number.value)
        return Estimate(self.scale * number.value, self.scale * number.low, self.scale * number.high)


AUC = Measure("auc", "AUC", "area under the ROC curve", 1, ".3f")
FIXED = Measure("f1_fixed", "Overall macro-F1 at 0.5", "macro-F1 (points), threshold 0.5", 100, ".1f")
CALIBRATED = Measure(
    "f1_calibrated", "Overall macro-F1, calibrated", "macro-F1 (points), calibrated threshold", 100, ".1f"
)


def comparison_figure(comparison: Comparison) -> Figure:
    """AUC and overall macro-F1 of every setting as dots with intervals; against the ratio below, where it varies."""
    rows = comparison.rows
    measures = [AUC, FIXED, CALIBRATED] if any(row.f1_calibrated for row in rows) else [AUC, FIXED]
    curves = _curves(rows)
    heights = [1.0 + 0.34 * len(rows), 3.3][: 2 if curves else 1]
    with styled():
        figure = Figure(figsize=(1.6 + 4 * len(measures), sum(heights) + 0.7), layout="constrained")
        grid = figure.subplots(len(heights), len(measures), squeeze=False, height_ratios=heights)
        baselines = "".join(f"\n{name}: {100 * value:.1f}" for name, value in comparison.baselines.items())
        for place, measure in enumerate(measures):
            _dots(grid[0, place], rows, measure, "\nchance: 0.5" if measure is AUC else baselines)
            if place:
                grid[0, place].tick_params(labelleft=False)
                grid[0, place].set_ylabel("")
            if curves:
                _lines(grid[1, place], rows, curves, measure)
        if curves:
            handles, labels = grid[1, 0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _dots(axes: Axes, rows: tuple[Row, ...], measure: Measure, below: str) -> None:
    name_axes(axes, measure.title, measure.axis + below, "setting")
    for y, row in enumerate(reversed(rows)):
        number = measure.of(row)
        if number is None:
            continue
        colour, marker = LOOKS.get(row.selector, OTHER_LOOK)
        if number.low is not None and number.high is not None:
            axes.hlines(y, number.low, number.high, color=colour, lw=2)
        axes.plot(number.value, y, ls="", marker=marker, ms=8, color=colour, mec=CARD)
        text = format(number.value, measure.form)
        axes.annotate(text, (1, y), (5, 0), axes.get_yaxis_transform(), "offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [row.label for row in reversed(rows)])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(axis="y", visible=False)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.margins(x=0.08)


def _curves(rows: tuple[Row, ...]) -> dict[str, list[Row]]:
    """Settings that differ only in the ratio, by ascending ratio."""
    curves: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.ratio):
        curves.setdefault(row.line, []).append(row)
    return {line: points for line, points in curves.items() if len(points) > 1}


def _lines(axes: Axes, rows: tuple[Row, ...], curves: dict[str, list[Row]], measure: Measure) -> None:
    name_axes(axes, f"{measure.title} against ratio", "rollouts kept (% of eligible)", measure.axis)
    for row in rows:
        if row.selector == "Full" and (number := measure.of(row)):
            axes.axhline(number.value, color=INK, lw=1.2, ls=(0, (5, 3)), label=row.label)
            if number.low is not None and number.high is not None:
                axes.axhspan(number.low, number.high, color=INK, alpha=0.07, lw=0)
    seen: Counter[str] = Counter()
    for line, points in curves.items():
        selector = points[0].selector
        colour, marker = LOOKS.get(selector, OTHER_LOOK)
        known = [(100 * row.ratio, number) for row in points if (number := measure.of(row))]
        x, y = [x for x, _ in known], [number.value for _, number in known]
        dash = DASHES[seen[selector] % len(DASHES)]
        axes.plot(x, y, color=colour, marker=marker, ls=dash, ms=7, lw=1.8, label=line)
        seen[selector] += 1
        for ratio, number in known:
            if number.low is not None and number.high is not None:
                axes.vlines(ratio, number.low, number.high, color=colour, lw=1.2)
    axes.margins(x=0.08, y=0.12)
