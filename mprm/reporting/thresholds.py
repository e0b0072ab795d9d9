"""Overall macro-F1 against the threshold: why a training can win at 0.5 and lose at a threshold that suits both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mprm.metrics.estimate import Floats
from mprm.metrics.predictions import read_predictions
from mprm.metrics.results import StepResults, ThresholdResults
from mprm.metrics.step_metrics import LabelledSteps, labelled_steps
from mprm.metrics.thresholds import f1_at
from mprm.reporting.comparison_figures import looks_of
from mprm.reporting.report import Figure, Table
from mprm.reporting.settings import Group, Setting
from mprm.reporting.style import DASHES, INK, MUTED, legend_below, name_axes, panels

POINTS = 161  # of a curve
SHOWN = (0.0005, 0.01, 0.1, 0.5, 0.9, 0.99, 0.9995)  # ticks, and the ends of the axis at the widest
MOST_LINES = 8  # that can still be told apart


@dataclass(frozen=True)
class Scored:
    """One training on the benchmark."""

    steps: LabelledSteps
    thresholds: Mapping[str, ThresholdResults]  # as of StepResults

    def f1(self, name: str) -> float:
        return self.thresholds[name].overall_step_weighted_macro_f1.value


def selectors_figure(group: Group) -> Figure | None:
    """One line per selector, of its best setting: the mean over the seeds; None where there are no step scores that are
    probabilities."""
    best: dict[tuple[str, str], Setting] = {}
    for one in group.ranked(group.measures[0]) if group.measures else ():
        if all(isinstance(run.results, StepResults) and run.results.ece is not None for run in one.runs):
            best.setdefault((one.selection.name, one.other), one)
    wanted = [*best.values()][:MOST_LINES]
    lines: dict[str, list[Scored]] = {}
    for one in wanted:
        for run in one.runs:
            assert isinstance(run.results, StepResults)
            steps = labelled_steps(read_predictions(run.folder / "predictions.jsonl"))
            lines.setdefault(one.label, []).append(Scored(steps, run.results.thresholds))
    if not lines:
        return None
    return threshold_figure(lines, looks_of(group, {one.label: one for one in wanted}), {})


def threshold_figure(
    lines: Mapping[str, Sequence[Scored]], looks: Mapping[str, Mapping[str, Any]], levels: Mapping[str, float]
) -> Figure:
    """A line for every name, the mean over its trainings. levels: F1 (points) of what has no threshold to choose."""
    every = [one for runs in lines.values() for one in runs]
    ends = [np.quantile(one.steps.scores_N, (0.005, 0.995)) for one in every]
    marks = [[at.threshold for at in one.thresholds.values()] for one in every]
    shown = _log_odds(np.concatenate([*ends, *marks, [0.3, 0.7]]))
    x = np.linspace(shown.min(), shown.max(), POINTS)
    thresholds = 1 / (1 + np.exp(-x))
    rows, told = [], []
    with panels(8.4, 5.2) as (figure, (axes,)):
        name_axes(
            axes, "Overall macro-F1 at every threshold", "threshold (log-odds scale)", "overall macro-F1 (points)"
        )
        axes.axvline(0, color=MUTED, lw=1.2, ls=":", label="threshold 0.5")
        for number, (name, f1) in enumerate(levels.items()):
            axes.axhline(f1, color=INK, lw=1.2, ls=DASHES[1 + number], label=name)
        for name, runs in lines.items():
            look, curve = looks[name], 100 * np.mean([f1_at(one.steps, thresholds) for one in runs], axis=0)
            rows += [(name, f"{at:.6g}", f"{f1:.3f}") for at, f1 in zip(thresholds, curve, strict=True)]
            means = {at: 100 * float(np.mean([one.f1(at) for one in runs])) for at in runs[0].thresholds}
            spots = {at: _mean_log_odds([one.thresholds[at].threshold for one in runs]) for at in means}
            mark = int(np.abs(x - spots.get("fitted", 0.0)).argmin())
            axes.plot(x, curve, lw=1.8, ms=9, mec=INK, markevery=[mark], label=name, **look)
            star: dict[str, Any] = {"marker": "*", "ms": 13, "mec": INK, "ls": "", "color": look["color"]}
            axes.plot(spots["optimistic"], means["optimistic"], zorder=4, **star)
            words = {"fixed": "at 0.5", "fitted": "at the fitted threshold", "optimistic": "at the best one"}
            told.append(f"{name}: {', '.join(f'{means[at]:.1f} {words[at]}' for at in words if at in means)}.")
        axes.plot([], [], marker="*", ms=12, ls="", color="none", mec=INK, label="best threshold (optimistic)")
        ticks = _log_odds(np.array(SHOWN))
        kept = (ticks >= x[0]) & (ticks <= x[-1])
        axes.set_xticks(ticks[kept], [f"{p:g}" for p, one in zip(SHOWN, kept, strict=True) if one])
        legend_below(figure)
    return Figure(
        "thresholds",
        "F1 against the threshold",
        figure,
        "Lines: mean over seeds. Marker: the threshold fitted to held-out rollouts, 0.5 without any. Star: the best "
        "one on the benchmark's own labels, as published. A line that is higher at 0.5 alone has a better place for "
        "its threshold there; it tells right from wrong steps no better.",
        " ".join(told),
        Table("F1 against the threshold", ("line", "threshold", "overall macro-F1"), tuple(rows)),
    )


def _log_odds(p: Floats) -> Floats:
    inside = np.clip(p, SHOWN[0], SHOWN[-1])
    found: Floats = np.log(inside / (1 - inside))
    return found


def _mean_log_odds(thresholds: Sequence[float]) -> float:
    return float(_log_odds(np.array(thresholds)).mean())
