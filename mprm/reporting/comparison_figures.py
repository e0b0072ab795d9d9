"""The figures of a comparison, for one group of settings: all settings, how they learn, the benchmark's sources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing

from mprm.metrics.estimate import Estimate
from mprm.reporting.kinds import Curve, Measure
from mprm.reporting.plots import ForestRow, Panel, forest, series, smooth
from mprm.reporting.report import Figure, Table
from mprm.reporting.run_record import read_json_lines
from mprm.reporting.settings import Group, Setting
from mprm.reporting.style import legend_below, looks, name_axes, styled

MEANS = "Mean over seeds; bars: 95 % t-interval over seeds, of two seeds dots for both"
MOST_CURVES = 8  # that can still be told apart
AXES = ("step", "rollouts", "seconds")  # of a line of metrics.jsonl
VALUE = "mean"


def looks_of(group: Group, names: Mapping[str, Setting]) -> dict[str, dict[str, Any]]:
    """How the settings with these names look: the lines of one selector alike, and yet told apart."""
    baselines = {one.selection.name for one in group.settings if one.selection.baseline}
    return looks({name: one.selection.name for name, one in names.items()}, baselines)


def panels_of(group: Group, measures: Iterable[Measure]) -> list[Panel]:
    """Below each axis stands what to compare its numbers with: lines there would take the room of the differences."""
    panels = []
    for one in measures:
        below = [f"\n{name}: {one.value(number)}" for name, number in group.references(one).items()]
        panels.append(replace(one.panel, axis=one.panel.axis + "".join(below)))
    return panels


def _forest_row(
    one: Setting, numbers: Sequence[Estimate | None], look: Mapping[str, Any], main: bool = False
) -> ForestRow:
    look = {key: look[key] for key in ("color", "marker")}
    return ForestRow(label=one.label, numbers=numbers, look=look, main=main, one_training=len(one.runs) == 1)


def settings_figure(group: Group) -> Figure | None:
    """Every setting as a dot with its interval, one panel per measure; None where nothing was measured."""
    if not group.measures:
        return None
    drawn = looks_of(group, {one.line: one for one in group.settings})
    leader = group.ranked(group.measures[0])[0] if len(group.settings) > 1 else None
    rows, says = [], []
    for one in group.settings:
        numbers = [one.numbers.get(measure.key) for measure in group.measures]
        rows.append(_forest_row(one, numbers, drawn[one.line], one is leader))
        told = [f"{m.name} {m.text(number)}" for m, number in zip(group.measures, numbers, strict=True) if number]
        says.append(f"{one.label}: {', '.join(told)}")
    return Figure(
        name="comparison",
        title="All settings",
        drawing=forest(panels_of(group, group.measures), rows),
        caption=f"{MEANS}. Dotted bars: of one seed, 95 % bootstrap over the benchmark's {group.kind.items}, which "
        f"says nothing of another training. Shaded: the highest {group.measures[0].name}.",
        alt=f"Every setting with its numbers. {'; '.join(says)}.",
    )


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
    with styled():
        drawing = Drawing(figsize=(max(8.4, 5.4 * len(curves)), 4.7), layout="constrained")
        for axes, (curve, means) in zip(
            drawing.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
        ):
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
    by_setting = {one: one.mean(lambda run: run.measured.sources) for one in group.settings}
    names = list(dict.fromkeys(name for found in by_setting.values() for name in found))
    if len(names) < 2:
        return None
    drawn = looks_of(group, {one.line: one for one in group.settings})
    rows = [_forest_row(one, [of.get(name) for name in names], drawn[one.line]) for one, of in by_setting.items()]
    table, best = [], dict[str, tuple[float, str]]()
    for one, of in by_setting.items():
        table.append((one.label, *(f"{100 * of[name].value:.1f}" if name in of else "-" for name in names)))
        best |= {name: max(best.get(name, (0, "")), (of[name].value, one.label)) for name in names if name in of}
    winners = [f"{name}: {label} {100 * value:.1f}" for name, (value, label) in best.items()]
    return Figure(
        name="sources",
        title="Sources of the benchmark",
        drawing=forest([Panel(title=name, axis=group.kind.sources) for name in names], rows, across=4),
        caption=f"{MEANS}; dotted: of one seed. The highest of every source is marked.",
        alt=f"The best setting of every source. {'; '.join(winners)}.",
        data=Table("Sources", ("setting", *names), tuple(table)),
    )
