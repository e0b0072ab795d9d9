"""The figures of a comparison that show what was varied: measures against the share kept, and a selector's field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from mprm.metrics.estimate import Estimate
from mprm.reporting.comparison_figures import MEANS, looks_of, panels_of
from mprm.reporting.plots import heatmap
from mprm.reporting.report import Figure
from mprm.reporting.settings import Group, Setting
from mprm.reporting.style import DASHES, INK, legend_below, name_axes, styled

Points = list[tuple[float, Estimate]]


@dataclass(frozen=True)
class Family:
    """Settings of one selector that differ in one of its fields, such as alpha, and in the share kept alone."""

    name: str
    field: str
    settings: list[Setting]
    beside: list[Setting]  # of other selectors, with the same rest

    def value(self, setting: Setting) -> float:
        return setting.selection.fields[self.field]


def families(group: Group) -> list[Family]:
    """One for every selector that was run with several values of one of its fields."""
    found: dict[tuple[str, str], list[Setting]] = {}
    for one in group.settings:
        found.setdefault((one.selection.name, one.other), []).append(one)
    several = []
    for (_, other), settings in found.items():
        fields = settings[0].selection.fields
        varied = [field for field in fields if len({one.selection.fields.get(field) for one in settings}) > 1]
        if len(varied) == 1:
            (field,) = varied
            name = ", ".join(part for part in (settings[0].selection.name, other) if part)
            beside = [one for one in group.settings if one.other == other and one not in settings]
            several.append(Family(name, field, settings, beside))
    return several


def varied_figures(group: Group) -> list[Figure]:
    """For every family a heat map if its share was varied as well, else the measures against its field; and for all
    settings the measures against the share, one line for those that differ in nothing else."""
    share = f"{group.kind.kept} kept (% of eligible)"
    figures = []
    for family in families(group):
        ratios = {one.ratio for one in family.settings}
        beside = [one for one in family.beside if one.ratio in ratios or one.keeps_all]
        if len(ratios) > 1:
            figures.append(_grid_figure(group, replace(family, beside=beside), share))
        else:
            points = {family.name: [(family.value(one), one) for one in family.settings]}
            figures.append(_line_figure(group, family.field, family.field, points, beside))
    lines: dict[str, list[tuple[float, Setting]]] = {}
    for one in group.settings:
        if one.ratio is not None and not one.keeps_all:
            lines.setdefault(one.line, []).append((100 * one.ratio, one))
    if any(len(points) > 1 for points in lines.values()):
        levels = [one for one in group.settings if one.keeps_all]
        figures.append(_line_figure(group, "ratio", share, lines, levels))
    seen = [one.name for one in figures]
    numbers = [seen[:place].count(name) + 1 for place, name in enumerate(seen)]
    return [replace(one, name=f"{one.name}_{n}") if n > 1 else one for one, n in zip(figures, numbers, strict=True)]


def _grid_figure(group: Group, family: Family, x_label: str) -> Figure:
    measures, cells, says = group.measures[: group.kind.headlines], {}, []
    for one in [*sorted(family.settings, key=family.value), *family.beside]:
        row = f"{family.field} {family.value(one):g}" if one in family.settings else one.line
        numbers = [one.numbers.get(measure.key) for measure in measures]
        cells[row, _percent(one)] = numbers
        told = [measure.text(number) for measure, number in zip(measures, numbers, strict=True)]
        says.append(f"{row} at {_percent(one)} %: {', '.join(told)}")
    rows = list(dict.fromkeys(row for row, _ in cells))
    columns = [_percent(one) for one in sorted([*family.settings, *family.beside], key=lambda one: one.ratio or 0)]
    panels = [replace(measure.panel, title=f"{family.name}: {measure.panel.title}") for measure in measures]
    return Figure(
        name="heatmap",
        title=f"{family.name}: {family.field} and share kept",
        drawing=heatmap(panels, rows, list(dict.fromkeys(columns)), cells, x_label=x_label, y_label="setting"),
        caption="Mean over seeds; below it the half width of its 95 % interval, of two seeds both values. A stronger "
        "colour is higher. Below the grid: other selectors at the same shares, and what keeps everything.",
        alt=f"{' and '.join(measure.name for measure in measures)}. {'; '.join(says)}.",
    )


def _percent(setting: Setting) -> str:
    return f"{100 * (setting.ratio or 0):.3g}"


def _line_figure(
    group: Group, name: str, x_label: str, lines: Mapping[str, list[tuple[float, Setting]]], levels: Sequence[Setting]
) -> Figure:
    """lines: name -> (place on the axis, setting). levels: settings without a place on it."""
    drawn = looks_of(group, {line: points[0][1] for line, points in lines.items()})
    lines = {line: sorted(points, key=lambda point: point[0]) for line, points in lines.items()}
    with styled():
        drawing = Drawing(figsize=(max(8.4, 1.8 + 3.9 * len(group.measures)), 4.7), layout="constrained")
        grid = drawing.subplots(1, len(group.measures), squeeze=False)[0]
        for axes, measure, panel in zip(grid, group.measures, panels_of(group, group.measures), strict=True):
            name_axes(axes, panel.title, x_label, panel.axis)
            numbers = {
                line: [(x, one.numbers[measure.key]) for x, one in points if measure.key in one.numbers]
                for line, points in lines.items()
            }
            level = {one.label: one.numbers[measure.key] for one in levels if measure.key in one.numbers}
            _draw_lines(axes, panel.scale, numbers, level, drawn)
        legend_below(drawing)
    main = group.measures[0]
    told = {line: [f"{x:.3g}: {main.text(one.numbers.get(main.key))}" for x, one in of] for line, of in lines.items()}
    says = [f"{line} at {', '.join(texts)}." for line, texts in told.items()]
    return Figure(
        name=name,
        title=f"Against {'the share kept' if name == 'ratio' else name}",
        drawing=drawing,
        caption=f"{MEANS}. Level lines and bands: settings without a place on the axis. Lines are set apart a little "
        "so that their bars stay readable; a bar that leaves the panel is cut.",
        alt=f"{main.name} against {x_label}. {' '.join(says)}",
    )


def _draw_lines(
    axes: Axes,
    scale: float,
    lines: Mapping[str, Points],
    levels: Mapping[str, Estimate],
    drawn: Mapping[str, Mapping[str, Any]],
) -> None:
    for place, (label, number) in enumerate(levels.items()):
        axes.axhline(scale * number.value, color=INK, lw=1.4, ls=DASHES[1 + place % 4], label=label)
        if number.low is not None and number.high is not None:
            axes.axhspan(scale * number.low, scale * number.high, color=INK, alpha=0.07, lw=0)
    places = sorted({x for points in lines.values() for x, _ in points})
    if not places:
        return
    log = places[-1] > 5 * places[0] > 0
    for place, (line, points) in enumerate(lines.items()):
        apart = place - (len(lines) - 1) / 2
        shifted = [x * 1.016**apart if log else x + 0.004 * apart * (places[-1] - places[0]) for x, _ in points]
        axes.plot(shifted, [scale * number.value for _, number in points], ms=7, lw=1.7, label=line, **drawn[line])
        colour = drawn[line]["color"]
        for x, (_, number) in zip(shifted, points, strict=True):
            if number.low is not None and number.high is not None:
                axes.vlines(x, scale * number.low, scale * number.high, color=colour, lw=1, alpha=0.5)
            each = [scale * one for one in number.each]
            axes.plot([x] * len(each), each, ls="", marker=".", ms=5, color=colour)
    room, ticks = 0.07, places[:1]  # those that have room for a label of their own
    span = places[-1] / places[0] if log else places[-1] - places[0]
    for x in places[1:]:
        if x / ticks[-1] > span**room if log else x - ticks[-1] > span * room:
            ticks.append(x)
    axes.set_xscale("log" if log else "linear")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.margins(x=0.08)
    shown = [*levels.values(), *(number for points in lines.values() for _, number in points)]
    means = [scale * number.value for number in shown]
    margin = 0.3 * (max(means) - min(means)) or 0.01  # wide intervals would flatten all lines
    axes.set_ylim(min(means) - margin, max(means) + margin)
