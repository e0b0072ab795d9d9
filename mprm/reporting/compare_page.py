"""report.html, comparison.csv, comparison.md, comparison.png and comparison.svg of a folder of runs."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.text import Text

from mprm.artifacts import atomic_file, write_text
from mprm.reporting import markup
from mprm.reporting.compare import Comparison, Row, as_csv, as_markdown, comparison_table
from mprm.reporting.console import rich_table
from mprm.reporting.style import BLUE, CARD, GOLD, GREEN, GREY, INK, MUTED, ORANGE, PURPLE, name_axes, styled
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


def f1(row: Row) -> Estimate | None:
    """The F1 that the figure shows: calibrated where there is one."""
    return row.f1_calibrated or row.f1_fixed


def comparison_figure(comparison: Comparison) -> Figure:
    """AUC and overall macro-F1 of every setting as dots with intervals; against the ratio below, where it varies."""
    rows = comparison.rows
    curves = _curves(rows)
    heights = [0.75 + 0.34 * len(rows) + 0.25, 3.3][: 2 if curves else 1]
    with styled():
        figure = Figure(figsize=(9.6, sum(heights) + 0.7), layout="constrained")
        grid = figure.subplots(len(heights), 2, squeeze=False, height_ratios=heights)
        _dots(grid[0, 0], rows, "AUC", "area under the ROC curve", 1, {})
        _dots(grid[0, 1], rows, "Overall macro-F1", "macro-F1 (points)", 100, comparison.baselines)
        grid[0, 1].tick_params(labelleft=False)
        grid[0, 1].set_ylabel("")
        if curves:
            _lines(grid[1, 0], rows, curves, "AUC against ratio", "area under the ROC curve", 1)
            _lines(grid[1, 1], rows, curves, "Overall macro-F1 against ratio", "macro-F1 (points)", 100)
            handles, labels = grid[1, 0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _measure(row: Row, scale: int) -> Estimate | None:
    return row.auc if scale == 1 else f1(row)


def _dots(axes: Axes, rows: tuple[Row, ...], title: str, x_label: str, scale: int, baselines: dict[str, float]) -> None:
    name_axes(axes, title, x_label, "setting")
    for (name, value), dash in zip(baselines.items(), ("--", ":"), strict=False):
        axes.axvline(scale * value, color=MUTED, ls=dash, lw=1.2, label=f"{name} {scale * value:.1f}")
    for y, row in enumerate(reversed(rows)):
        number = _measure(row, scale)
        if number is None:
            continue
        colour, marker = LOOKS.get(row.selector, OTHER_LOOK)
        if number.low is not None and number.high is not None:
            axes.hlines(y, scale * number.low, scale * number.high, color=colour, lw=2)
        axes.plot(scale * number.value, y, ls="", marker=marker, ms=8, color=colour, mec=CARD)
        text = f"{scale * number.value:{'.3f' if scale == 1 else '.1f'}}"
        axes.annotate(text, (1, y), (5, 0), axes.get_yaxis_transform(), "offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [row.label for row in reversed(rows)])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(axis="y", visible=False)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.margins(x=0.08)
    if baselines:
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.14 - 0.9 / len(rows)), ncols=2, borderaxespad=0)


def _curves(rows: tuple[Row, ...]) -> dict[str, list[Row]]:
    """Settings that differ only in the ratio, by ascending ratio; Full is a line of its own, not a point of others."""
    curves: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.ratio):
        curves.setdefault(row.line, []).append(row)
    return {line: points for line, points in curves.items() if len(points) > 1}


def _lines(
    axes: Axes, rows: tuple[Row, ...], curves: dict[str, list[Row]], title: str, y_label: str, scale: int
) -> None:
    name_axes(axes, title, "rollouts kept (% of eligible)", y_label)
    for row in rows:
        if row.selector == "Full" and (number := _measure(row, scale)):
            colour, _ = LOOKS["Full"]
            axes.axhline(scale * number.value, color=colour, lw=1.2, ls=(0, (5, 3)), label=row.label)
            if number.low is not None and number.high is not None:
                axes.axhspan(scale * number.low, scale * number.high, color=colour, alpha=0.07, lw=0)
    seen: dict[str, int] = {}
    for line, points in curves.items():
        colour, marker = LOOKS.get(points[0].selector, OTHER_LOOK)
        dash = DASHES[seen.get(points[0].selector, 0) % len(DASHES)]
        seen[points[0].selector] = seen.get(points[0].selector, 0) + 1
        known = [(100 * row.ratio, number) for row in points if (number := _measure(row, scale))]
        axes.plot(
            [x for x, _ in known],
            [scale * number.value for _, number in known],
            color=colour,
            marker=marker,
            ls=dash,
            ms=7,
            lw=1.8,
            label=line,
        )
        for x, number in known:
            if number.low is not None and number.high is not None:
                axes.vlines(x, scale * number.low, scale * number.high, color=colour, lw=1.2)
    axes.margins(x=0.08, y=0.12)
