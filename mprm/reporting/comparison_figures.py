"""The figures of a comparison, for one group: all settings, what was varied, how they learn, the sources."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from mprm.metrics.estimate import OverSeeds
from mprm.reporting.kinds import Curve
from mprm.reporting.plots import ForestRow, Measure, forest, heatmap, series, smooth
from mprm.reporting.report import Figure, Table
from mprm.reporting.run_record import read_json_lines
from mprm.reporting.settings import Group, Setting
from mprm.reporting.style import DASHES, INK, legend_below, looks, name_axes, panels

Lines = Mapping[str, list[tuple[float, Setting]]]  # name -> (place on the axis, setting)

MEANS = "Mean over seeds, which are dots where there are several; bars: 95 % interval for other seeds and solutions"
MOST_CURVES = 8  # that can still be told apart
AXES = ("step", "rollouts", "seconds")  # of a line of metrics.jsonl
VALUE = "mean"


def looks_of(group: Group, names: Mapping[str, Setting]) -> dict[str, dict[str, Any]]:
    """How the settings with these names look: the lines of one selector alike, and yet told apart."""
    baselines = {one.selection.name for one in group.settings if one.selection.baseline}
    return looks({name: one.selection.name for name, one in names.items()}, baselines)


def _panels(group: Group) -> list[Measure]:
    """Below each axis stands what to compare its numbers with: lines there would take the room of the differences."""
    panels = []
    for one in group.measures:
        below = [f"\n{name}: {one.text(number)}" for name, number in group.references(one).items()]
        panels.append(replace(one, axis=one.axis + "".join(below)))
    return panels


def _forest_rows(
    group: Group, numbers: Mapping[Setting, Sequence[OverSeeds | None]], main: Setting | None = None
) -> list[ForestRow]:
    drawn = looks_of(group, {one.line: one for one in group.settings})
    rows = []
    for one in group.settings:
        look = {key: drawn[one.line][key] for key in ("color", "marker")}
        rows.append(ForestRow(label=one.label, numbers=numbers[one], look=look, main=one is main))
    return rows


def settings_figure(group: Group) -> Figure | None:
    """Every setting as a dot with its interval, one panel per measure; None where nothing was measured."""
    if not group.measures:
        return None
    leader = group.ranked(group.measures[0])[0] if len(group.settings) > 1 else None
    numbers = {one: [one.numbers.get(measure.key) for measure in group.measures] for one in group.settings}
    says = []
    for one in group.settings:
        told = [f"{m.name} {m.text(one.numbers[m.key])}" for m in group.measures if m.key in one.numbers]
        says.append(f"{one.label}: {', '.join(told)}")
    return Figure(
        name="comparison",
        title="All settings",
        drawing=forest(_panels(group), _forest_rows(group, numbers, leader), across=2),
        caption=f"{MEANS}. Dotted bars: of one seed, over the benchmark's {group.kind.items} alone, for this training. "
        f"Shaded: the highest {group.measures[0].name}.",
        alt=f"Every setting with its numbers. {'; '.join(says)}.",
    )


@dataclass(frozen=True)
class Family:
    """Settings of one selector that differ in one of its fields, such as alpha, and in the share kept alone."""

    name: str
    field: str
    settings: list[Setting]

    def value(self, setting: Setting) -> float:
        return setting.selection.fields[self.field]


def families(group: Group) -> list[Family]:
    """One for every selector that was run with several values of one of its fields."""
    found: dict[tuple[str, str], list[Setting]] = {}
    for one in group.settings:
        found.setdefault((one.selection.name, one.other), []).append(one)
    several = []
    for (selector, other), settings in found.items():
        fields = settings[0].selection.fields
        varied = [field for field in fields if len({one.selection.fields.get(field) for one in settings}) > 1]
        if len(varied) == 1:
            name = f"{selector}, {other}" if other else selector
            several.append(Family(name, varied[0], settings))
    return several


def varied_figures(group: Group) -> list[Figure]:
    """For every family a heat map if its share was varied as well, else the measures against its field; and for all
    settings the measures against the share, one line for those that differ in nothing else."""
    share = f"{group.kind.kept} kept (% of eligible)"
    figures = []
    for family in families(group):
        ratios = {one.ratio for one in family.settings}
        rest = [one for one in group.settings if one.other == family.settings[0].other and one not in family.settings]
        beside = [one for one in rest if one.ratio in ratios or one.keeps_all]
        if len(ratios) > 1:
            figures.append(_grid_figure(group, family, beside, share))
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


def _grid_figure(group: Group, family: Family, beside: Sequence[Setting], x_label: str) -> Figure:
    measures, cells, says = group.measures[: group.kind.headlines], {}, []
    for one in [*sorted(family.settings, key=family.value), *beside]:
        row = f"{family.field} {family.value(one):g}" if one in family.settings else one.line
        numbers = [one.numbers.get(measure.key) for measure in measures]
        cells[row, _percent(one)] = numbers
        told = [measure.text(number) for measure, number in zip(measures, numbers, strict=True)]
        says.append(f"{row} at {_percent(one)} %: {', '.join(told)}")
    rows = list(dict.fromkeys(row for row, _ in cells))
    columns = [_percent(one) for one in sorted([*family.settings, *beside], key=lambda one: one.ratio or 0)]
    panels = [replace(measure, title=f"{family.name}: {measure.title}") for measure in measures]
    return Figure(
        name="heatmap",
        title=f"{family.name}: {family.field} and share kept",
        drawing=heatmap(panels, rows, list(dict.fromkeys(columns)), cells, x_label=x_label, y_label="setting"),
        caption="Mean over seeds; below it half the width of its 95 % interval, of two seeds both values. A stronger "
        "colour is higher. Below the grid: other selectors at the same shares, and what keeps everything.",
        alt=f"{' and '.join(measure.name for measure in measures)}. {'; '.join(says)}.",
    )


def _percent(setting: Setting) -> str:
    return f"{100 * (setting.ratio or 0):.3g}"


def _line_figure(group: Group, name: str, x_label: str, lines: Lines, levels: Sequence[Setting]) -> Figure:
    """levels: settings without a place on the axis."""
    drawn = looks_of(group, {line: points[0][1] for line, points in lines.items()})
    lines = {line: sorted(points, key=lambda point: point[0]) for line, points in lines.items()}
    across = min(len(group.measures), 2)
    down = -(-len(group.measures) // across)
    with panels(max(8.4, 1.8 + 3.9 * across), 0.8 + 3.9 * down, across, down) as (drawing, grid):
        for axes in grid[len(group.measures) :]:
            axes.remove()
        for axes, measure in zip(grid, _panels(group), strict=False):
            name_axes(axes, measure.title, x_label, measure.axis)
            _draw_lines(axes, measure, lines, [one for one in levels if measure.key in one.numbers], drawn)
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
    axes: Axes, measure: Measure, lines: Lines, levels: Sequence[Setting], drawn: Mapping[str, Mapping[str, Any]]
) -> None:
    key, scale = measure.key, measure.scale
    for number, one in enumerate(levels):
        level = one.numbers[key]
        axes.axhline(scale * level.value, color=INK, lw=1.4, ls=DASHES[1 + number % 4], label=one.label)
        if level.low is not None and level.high is not None and len(level.by_seed) != 2:
            axes.axhspan(scale * level.low, scale * level.high, color=INK, alpha=0.07, lw=0)
    points = {line: [(x, one.numbers[key]) for x, one in of if key in one.numbers] for line, of in lines.items()}
    places = sorted({x for of_line in points.values() for x, _ in of_line})
    if not places:
        return
    log = places[-1] > 5 * places[0] > 0
    for number, (line, of_line) in enumerate(points.items()):
        apart = number - (len(lines) - 1) / 2
        shifted = [x * 1.016**apart if log else x + 0.004 * apart * (places[-1] - places[0]) for x, _ in of_line]
        axes.plot(shifted, [scale * mean.value for _, mean in of_line], ms=7, lw=1.7, label=line, **drawn[line])
        colour = drawn[line]["color"]
        for x, (_, mean) in zip(shifted, of_line, strict=True):
            if mean.low is not None and mean.high is not None and len(mean.by_seed) != 2:
                axes.vlines(x, scale * mean.low, scale * mean.high, color=colour, lw=1, alpha=0.5)
            if len(mean.by_seed) > 1:
                seeds = [scale * one for one in mean.by_seed.values()]
                axes.plot([x] * len(seeds), seeds, ls="", marker=".", ms=5, color=colour)
    distance = math.log if log else float
    room, ticks = 0.07 * (distance(places[-1]) - distance(places[0])), places[:1]
    for x in places[1:]:  # a tick only where its label has room
        if distance(x) - distance(ticks[-1]) > room:
            ticks.append(x)
    axes.set_xscale("log" if log else "linear")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.margins(x=0.08)
    means = [scale * mean.value for of_line in points.values() for _, mean in of_line]
    means += [scale * one.numbers[key].value for one in levels]
    margin = 0.3 * (max(means) - min(means)) or 0.01  # wide intervals would flatten all lines
    axes.set_ylim(min(means) - margin, max(means) + margin)


def mean_curve(setting: Setting, curve: Curve) -> dict[str, np.ndarray]:
    """Means over the seeds, at the steps that all have logged: of what was logged on AXES, and of the curve as VALUE;
    {} where there are no such steps."""
    of_seeds = []
    for run in setting.runs:
        lines = read_json_lines(run.trained / curve.file) or []
        finite = set(series(lines, curve.key)[0].tolist())
        of_seeds.append({line["step"]: line for line in lines if line["step"] in finite and curve.key in line})
    steps = sorted(set.intersection(*map(set, of_seeds)))
    means = {}
    for name in (*AXES, curve.key) if steps else ():
        values = [[lines[step].get(name, np.nan) for step in steps] for lines in of_seeds]
        means[VALUE if name == curve.key else name] = np.mean(values, axis=0)
    if curve.key.startswith("train/") and steps:
        means[VALUE] = smooth(means[VALUE])
    return means


def chosen(group: Group) -> list[Setting]:
    """The settings whose curves are drawn: the best of every selector, then the highest others, MOST_CURVES in all."""
    ranked = group.ranked(group.measures[0]) if group.measures else []
    firsts = {one.selection.name: one for one in reversed(ranked)}
    wanted = [*firsts.values(), *(one for one in ranked if one not in firsts.values())][:MOST_CURVES]
    return [one for one in group.settings if one in wanted]


def learning_figure(group: Group) -> Figure | None:
    """What the trainings logged, against optimizer steps; None where nothing was."""
    wanted = chosen(group)
    curves = {curve: {one: mean_curve(one, curve) for one in group.settings} for curve in group.kind.curves}
    curves = {curve: means for curve, means in curves.items() if any(means[one] for one in wanted)}
    if not curves:
        return None
    drawn, rows, says = looks_of(group, {one.label: one for one in wanted}), [], []
    with panels(max(8.4, 5.4 * len(curves)), 4.7, len(curves)) as (drawing, grid):
        for axes, (curve, means) in zip(grid, curves.items(), strict=True):
            name_axes(axes, curve.title, "optimizer steps", curve.axis)
            for one, found in means.items():
                numbers = zip(*found.values(), strict=True)
                rows += [(one.label, curve.key, *(f"{number:.6g}" for number in line)) for line in numbers]
                if found and one in wanted:
                    steps, values = found["step"], found[VALUE]
                    every = max(1, len(steps) // 6)  # markers tell lines apart and must not hide them
                    axes.plot(steps, values, lw=1.7, ms=6, markevery=every, label=one.label, **drawn[one.label])
                    says.append(f"{curve.title} of {one.label}: {values[-1]:.3f} after {steps[-1]:,.0f} steps.")
            axes.margins(y=0.1)
        legend_below(drawing)
    choice = "The best setting of every selector and the highest others; " if len(wanted) < len(group.settings) else ""
    return Figure(
        name="learning",
        title="Learning curves",
        drawing=drawing,
        caption=f"Mean over seeds. {group.kind.curves_from} {choice}learning.csv has all, with rollouts and seconds.",
        alt=" ".join(says),
        data=Table("Learning curves", ("setting", "measure", *AXES, VALUE), tuple(rows)),
    )


def sources_figure(group: Group) -> Figure | None:
    """One panel per source of the benchmark; None where there are not two."""
    by_setting = {one: one.sources for one in group.settings}
    names = list(dict.fromkeys(name for found in by_setting.values() for name in found))
    if len(names) < 2:
        return None
    rows = _forest_rows(group, {one: [of.get(name) for name in names] for one, of in by_setting.items()})
    table, best = [], dict[str, tuple[float, str]]()
    for one, of in by_setting.items():
        table.append((one.label, *(f"{100 * of[name].value:.1f}" if name in of else "-" for name in names)))
        best |= {name: max(best.get(name, (0, "")), (of[name].value, one.label)) for name in names if name in of}
    winners = [f"{name}: {label} {100 * value:.1f}" for name, (value, label) in best.items()]
    return Figure(
        name="sources",
        title="Sources of the benchmark",
        drawing=forest([Measure(title=name, axis=group.kind.sources) for name in names], rows, across=4),
        caption=f"{MEANS}; dotted: for this training alone. The highest of every source is marked.",
        alt=f"The best setting of every source. {'; '.join(winners)}.",
        data=Table("Sources", ("setting", *names), tuple(table)),
    )
