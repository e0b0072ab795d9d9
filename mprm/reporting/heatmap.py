"""Cells with numbers: alpha against ratio."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mprm.reporting.compare import Row
from mprm.reporting.exhibit import AUC, FIXED, Exhibit, Measure, wrapped
from mprm.reporting.style import BLUE, CARD, INK, MUTED, name_axes, styled
from mprm.reporting.tables import Estimate

GAP = 0.3  # between the grid and what it is compared with, in cells


@dataclass(frozen=True)
class Family:
    """Settings of one selector with an alpha, and what they are compared with: the same `other`, without an alpha."""

    name: str
    grid: dict[tuple[float, float], Row]  # (alpha, ratio) ->
    beside: dict[tuple[str, float], Row]  # (selector, ratio) ->, for the ratios of the grid
    full: Row | None

    @property
    def alphas(self) -> list[float]:
        return sorted({alpha for alpha, _ in self.grid})

    @property
    def ratios(self) -> list[float]:
        return sorted({ratio for _, ratio in self.grid})

    @property
    def others(self) -> list[str]:
        return sorted({name for name, _ in self.beside}, key=lambda name: (name != "Random", name))


def families(rows: tuple[Row, ...]) -> list[Family]:
    """One for every selector with an alpha, and every `other`, that was run with two alphas or two ratios."""
    grids: dict[tuple[str, str], dict[tuple[float, float], Row]] = {}
    for row in rows:
        if row.alpha is not None:
            grids.setdefault((row.selector, row.other), {})[row.alpha, row.ratio] = row
    found = []
    for (selector, other), grid in grids.items():
        ratios = {ratio for _, ratio in grid}
        plain = [row for row in rows if row.alpha is None and row.other == other]
        beside = {(row.selector, row.ratio): row for row in plain if row.selector != "Full" and row.ratio in ratios}
        full = next((row for row in plain if row.selector == "Full"), None)
        name = f"{selector}, {other}" if other else selector
        if len(grid) > 1:
            found.append(Family(name, grid, beside, full))
    return found


def heatmap_exhibit(rows: tuple[Row, ...]) -> Exhibit | None:
    """AUC and F1 at 0.5 for every alpha and ratio, Random and Full beside; None where neither varies."""
    shown = families(rows)
    if not shown:
        return None
    columns = max(len(family.ratios) + (family.full is not None) for family in shown)
    heights = [1.6 + 0.62 * (len(family.alphas) + len(family.others)) for family in shown]
    with styled():
        wide = max(0.86 * columns, 2.8)  # inches of a panel
        size = (2.4 + 2 * wide, sum(heights) + 0.4 * len(shown))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(shown), 2, squeeze=False, height_ratios=heights)
        for family, line in zip(shown, grid, strict=True):
            for axes, measure in zip(line, (AUC, FIXED), strict=True):
                _panel(axes, family, measure, wide)
    return Exhibit(
        name="heatmap",
        title="Alpha and ratio",
        figure=figure,
        caption="Mean over seeds; below it the half width of the 95 % t-interval over seeds, of two seeds both values. "
        "A stronger colour is higher. The outlined cell is the highest of the grid. Set apart: the selectors "
        "without an alpha at the same ratios, and training on everything.",
        says=" ".join(_in_words(family, measure) for family in shown for measure in (AUC, FIXED)),
    )


def _in_words(family: Family, measure: Measure) -> str:
    cells = {f"alpha {alpha:g} at {100 * ratio:.3g} %": row for (alpha, ratio), row in sorted(family.grid.items())}
    cells |= {f"{name} at {100 * ratio:.3g} %": row for (name, ratio), row in sorted(family.beside.items())}
    cells |= {"Full": family.full} if family.full else {}
    numbers = [f"{name} {number.value:{measure.form}}" for name, row in cells.items() if (number := measure.of(row))]
    return f"{measure.title} of {family.name}: {', '.join(numbers)}."


def _panel(axes: Axes, family: Family, measure: Measure, wide: float) -> None:
    ratios, alphas, others = family.ratios, family.alphas, family.others
    title = f"{family.name}: {measure.title}"
    name_axes(axes, wrapped(title, int(8.6 * wide)), "rollouts kept (% of eligible)", "alpha")
    every = [*family.grid.values(), *family.beside.values(), *([family.full] if family.full else [])]
    values = [number.value for row in every if (number := measure.of(row))]
    best = max((n.value for row in family.grid.values() if (n := measure.of(row))), default=None)
    low, span = min(values, default=0), (max(values, default=0) - min(values, default=0)) or 1

    def place(row: Row | None, x: float, y: float, above: str = "", height: float = 1, of_grid: bool = False) -> None:
        number = measure.of(row) if row else None
        shade = (number.value - low) / span if number else 0
        marked = of_grid and number is not None and number.value == best
        above = "best" if marked else above
        cell(axes, x, y, shade, _value(number, measure), above, _half(number, measure), marked=marked, height=height)

    for y, alpha in enumerate(alphas):
        for x, ratio in enumerate(ratios):
            place(family.grid.get((alpha, ratio)), x, y, of_grid=True)
    for line, name in enumerate(others):
        for x, ratio in enumerate(ratios):
            place(family.beside.get((name, ratio)), x, len(alphas) + GAP + line)
    if family.full:
        place(family.full, len(ratios) + GAP, 0, "Full", len(alphas))
    axes.set_xticks([x + 0.5 for x in range(len(ratios))], [f"{100 * ratio:.3g}" for ratio in ratios])
    y_ticks = [y + 0.5 for y in range(len(alphas))] + [len(alphas) + GAP + line + 0.5 for line in range(len(others))]
    axes.set_yticks(y_ticks, [*(f"{alpha:g}" for alpha in alphas), *others])
    bare(axes, len(ratios) + (GAP + 1 if family.full else 0), y_ticks[-1] + 0.5)


def _value(number: Estimate | None, measure: Measure) -> str:
    return f"{number.value:{measure.form}}" if number else "-"


def _half(number: Estimate | None, measure: Measure) -> str:
    """Half width of the interval, or the values of two seeds."""
    if number is not None and number.each:
        return ", ".join(f"{value:{measure.form}}" for value in number.each)
    if number is None or number.low is None or number.high is None:
        return ""
    return f"± {(number.high - number.low) / 2:{measure.form}}"


def cell(
    axes: Axes,
    x: float,
    y: float,
    shade: float,
    text: str,
    above: str = "",
    below: str = "",
    *,
    marked: bool = False,
    height: float = 1,
    size: float = 10,
) -> None:
    """A cell whose corner of smallest x and y is given, shaded from 0 to 1; the outline of a marked one is heavy.

    The shade is a transparent colour on the card, and so it follows the page into dark mode.
    """
    axes.add_patch(Rectangle((x, y), 1, height, fc=BLUE, alpha=0.04 + 0.42 * shade, ec="none"))
    axes.add_patch(Rectangle((x, y), 1, height, fc="none", ec=CARD, lw=2))
    if marked:
        axes.add_patch(Rectangle((x + 0.03, y + 0.03), 0.94, height - 0.06, fc="none", ec=INK, lw=2.2, zorder=3))
    weight = "bold" if marked else "normal"
    for words, offset, points in ((text, 0, size), (above, -0.3, 7.5), (below, 0.3, 7.5)):
        if words:
            place = (x + 0.5, y + height / 2 + offset)
            axes.text(*place, words, ha="center", va="center", fontsize=points, weight=weight, color=INK)


def bare(axes: Axes, width: float, height: float) -> None:
    """Axes of cells, the first row on top: no grid, no frame, no ticks."""
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.grid(visible=False)
    axes.tick_params(length=0, labelcolor=INK)
    axes.tick_params(axis="both", colors=MUTED, labelcolor=INK)
    axes.spines[:].set_visible(False)
