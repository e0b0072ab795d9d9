"""The report of a step scorer: what was selected, how training went, what the benchmark says, how to repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from mprm.metrics.estimate import Floats
from mprm.metrics.results import StepResults, ThresholdResults
from mprm.metrics.step_metrics import LabelledSteps, f1_at, labelled_steps
from mprm.reporting.first_errors import first_errors_table
from mprm.reporting.plots import speed_table, training_curves
from mprm.reporting.report import (
    Card,
    Cards,
    Figure,
    Marked,
    Report,
    Section,
    Table,
    code,
    counts_table,
    print_report,
    write_page,
)
from mprm.reporting.run_record import Example, RunRecord, read_run
from mprm.reporting.selection import composition_table, selection_sections
from mprm.reporting.style import BLUE, CARD, DASHES, INK, MUTED, legend_below, name_axes, panels

BASELINES = {"majority": "majority class", "position_only": "position only"}
F1 = {"fitted": "F1 at the fitted threshold", "fixed": "F1 at 0.5", "optimistic": "optimistic F1"}
WHERE = {
    "fitted": "at the threshold fitted to held-out rollouts",
    "fixed": "at the threshold 0.5, for want of held-out rollouts",
    "optimistic": "at the threshold searched on the benchmark itself",
}
CURVES = {
    ("Loss", "loss per step (nats)"): {"train/loss": "train loss", "val/loss": "validation loss"},
    ("Step accuracy and AUC", "share (0 to 1)"): {
        "train/step_accuracy": "train accuracy",
        "val/step_accuracy": "validation accuracy",
        "val/auc": "validation AUC",
    },
}
WORDS = {1: "right", -1: "wrong", 0: "neutral"}
POINTS = 161  # of the curve of a threshold
SHOWN = (0.0005, 0.01, 0.1, 0.5, 0.9, 0.99, 0.9995)  # ticks of thresholds, and the ends of the axis at the widest


@dataclass(frozen=True)
class Scored:
    """One training on the benchmark."""

    steps: LabelledSteps
    thresholds: Mapping[str, ThresholdResults]  # as of StepResults

    def f1(self, name: str) -> float:
        return self.thresholds[name].overall_step_weighted_macro_f1.value


def write_report(folder: Path) -> Path:
    """Write folder/report.html from what is in the folder, finished or not, and return its path.

    Raises ValueError when the folder or a file in it cannot be read.
    """
    return write_page(step_report(read_run(folder)), folder / "report.html")


def print_run(record: RunRecord, console: Console) -> None:
    """Print the run's subset, result and baselines, in the console's width; plain where colour is unwanted."""
    tables = [composition_table(record.manifest)] if record.manifest else []
    if results := record.results:
        tables += [benchmark_table(results, record.who), sources_table(results)]
        tables += [table for table in [first_errors_table(results)] if table]
    short = [replace(table, note="") for table in tables]
    print_report(Report(record.folder.name, headline(record), short), console)


def step_report(record: RunRecord) -> Report:
    """The page of one run."""
    sections: list[Section | None] = []
    if results := record.results:
        who = record.who
        sections += [benchmark_table(results, who), sources_table(results), first_errors_table(results)]
        if record.predictions and results.ece is not None:
            steps = labelled_steps(record.predictions)
            of_run, looks = {who: [Scored(steps, results.thresholds)]}, {who: {"color": BLUE, "marker": "o"}}
            sections.append(threshold_figure(of_run, looks, _baselines(results)))
            sections.append(examples_section(record.examples, results.main.threshold))
            sections.append(_calibration(steps.right_N, steps.scores_N, results.ece_bins))
        sections.append(counts_table("Not scored", {"benchmark records": results.skipped}))
    sections += [
        training_curves("learning", "Learning curve", CURVES, record.metrics),
        speed_table({"this training": record.metrics}),
        *selection_sections(record),
        code("Command that repeats this run in another folder", record.config and repeat_command(record.folder)),
        code("Configuration", record.config),
        code("Model", record.model),
        code("Versions", record.versions),
    ]
    return Report(f"mprm run {record.folder.name}", headline(record), sections)


def repeat_command(folder: Path) -> str:
    """The command that runs the config of a run folder once more, from the root of the repository."""
    place = folder if folder.is_absolute() else Path("$PWD") / folder
    quiet = "hydra.run.dir=. hydra.output_subdir=null hydra/job_logging=none"
    return f'python run.py -cp "{place}" -cn config task=experiment runs=again {quiet}'


def headline(record: RunRecord) -> str:
    """The run in a sentence, which speaks of this training."""
    text, results = "No subset has been selected yet", record.results
    if record.manifest:
        totals, who = record.manifest.totals, record.manifest.selector.label
        kept, eligible = totals.kept.rollouts, totals.eligible.rollouts
        text = f"{kept:,} of {eligible:,} rollouts ({100 * kept / max(eligible, 1):.1f} %)"
        text = f"On the {text} that {who} kept, " if results else f"{who} kept {text}"
    if results is None:
        return f"{text}. There are no results yet: task=evaluate writes them."
    untrained = ((record.config or {}).get("recipe") or {}).get("epochs") == 0
    subject = "the untrained backbone" if untrained else "this training" if record.manifest else "the reward model"
    named = record.model["name"] if record.model else subject.capitalize()
    text = f"{text}{subject}" if record.manifest else named
    at = next(name for name, part in results.thresholds.items() if part is results.main)
    auc = f"an AUC of {results.auc.fraction()} and " if results.auc else ""
    text += f" reaches {auc}an overall macro-F1 of {results.main.overall_step_weighted_macro_f1.points()} {WHERE[at]}"
    others = [f"{words} {f1:.1f}" for words, f1 in _baselines(results).items()]
    return f"{text}; for comparison, {' and '.join(others)}."


def _baselines(results: StepResults) -> dict[str, float]:
    """Overall macro-F1 in points."""
    found = results.baselines
    return {words: 100 * found[name].overall_step_weighted_macro_f1.value for name, words in BASELINES.items()}


# ---- the benchmark


def benchmark_table(results: StepResults, who: str) -> Table:
    """All measures of a model, and the baselines in those that they have, by the same rule."""
    main, at = results.main, f"{results.main.threshold:.3f}"
    alike = [main, *(results.baselines[name] for name in BASELINES)]
    rows = [("AUC", "-", *(one.auc_words() for one in alike))]
    for name, words in F1.items():
        if part := results.thresholds.get(name):
            shown = alike if part is main else [part]
            f1 = (one.overall_step_weighted_macro_f1.points() for one in shown)
            rows.append((words, f"{part.threshold:.3f}", *f1))
    rows += [
        ("F1, all sources pooled", at, *(one.pooled_macro_f1.points() for one in alike)),
        ("first errors found (%)", at, *(one.first_error_accuracy.points() for one in alike)),
    ]
    ranking = results.average_precision and results.average_precision.fraction()
    errors = {"ECE (calibration error)": results.ece, "Brier score": results.brier}
    rows += [("average precision of wrong steps", "-", ranking or "-")]
    rows += [(name, "-", "-" if error is None else f"{error:.3f}") for name, error in errors.items()]
    rows += [("solutions", "-", f"{results.n_solutions:,}"), ("labelled steps", "-", f"{results.n_steps:,}")]
    note = (
        "F1: mean of the F1 of right and of wrong steps, in points; of the sources, weighted by their labelled steps. "
        "Fitted threshold: from held-out rollouts, right and wrong steps weighted equally, so that it does not matter "
        "how many are wrong; so is that of the position. Optimistic: searched on the benchmark itself, as published. "
        f"Brackets: 95 % bootstrap over solutions, for {who}."
    )
    columns = ("", who, *BASELINES.values(), "threshold")  # a phone shows the first two
    padded = tuple((name, *f1, *["-"] * (len(columns) - 2 - len(f1)), at) for name, at, *f1 in rows)
    return Table("Benchmark", columns, padded, note, rows[1][0])


def sources_table(results: StepResults) -> Table:
    """Macro-F1 and the F1 of both classes per source, at the main threshold."""
    rows = []
    for name, part in results.main.per_source.items():
        of_class = [f"{100 * f1:.1f}" for f1 in (part.f1_positive, part.f1_negative)]
        rows.append((name, f"{part.n:,}", part.macro_f1.points(), *of_class))
    columns = ("source", "labelled steps", "macro-F1", "F1 right", "F1 wrong")
    return Table(f"Benchmark by source (threshold {results.main.threshold:.3f})", columns, tuple(rows))


# ---- its solutions and figures


def examples_section(examples: Sequence[Example], threshold: float) -> Cards:
    """Colours: orange far below the threshold, blue far above it, by the ratio of their odds."""
    odds = threshold / max(1 - threshold, 1e-9)
    cards = []
    for one in examples:
        steps = []
        for text, label, score in zip(one.steps, one.labels, one.scores, strict=True):
            verdict = 1 if score >= threshold else -1
            below = f"score {score:.3f}: {WORDS[verdict]}; label: {WORDS[label]}"
            hue = round(100 * score / max(score + odds * (1 - score), 1e-9))
            steps.append(Marked(text, below, hue, differs=label not in (0, verdict)))
        cards.append(Card(f"{one.why} ({one.source})", one.pictures, one.question, steps))
    note = (
        "Chosen by rule: of the first errors that are found those at the quartiles of the deciding score, of those "
        "that are missed and of the false alarms the one in the middle, and the two worst mistakes. A step is taken "
        f"for right from the threshold {threshold:.3f} on; blue is far above it, orange far below, and a dashed frame "
        "is a mistake."
    )
    return Cards("Examples", note, cards, "examples")


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
            spots = {at: float(_log_odds([one.thresholds[at].threshold for one in runs]).mean()) for at in means}
            mark = int(np.abs(x - spots.get("fitted", 0.0)).argmin())
            axes.plot(x, curve, lw=1.8, ms=9, mec=INK, markevery=[mark], label=name, **look)
            star: dict[str, Any] = {"marker": "*", "ms": 13, "mec": INK, "ls": "", "color": look["color"]}
            axes.plot(spots["optimistic"], means["optimistic"], zorder=4, **star)
            words = {"fixed": "at 0.5", "fitted": "at the fitted threshold", "optimistic": "at the best one"}
            told.append(f"{name}: {', '.join(f'{means[at]:.1f} {words[at]}' for at in words if at in means)}.")
        axes.plot([], [], marker="*", ms=12, ls="", color="none", mec=INK, label="best threshold (optimistic)")
        ticks = _log_odds(SHOWN)
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


def _log_odds(p: Floats | Sequence[float]) -> Floats:
    inside = np.clip(p, SHOWN[0], SHOWN[-1])
    found: Floats = np.log(inside / (1 - inside))
    return found


def _calibration(correct: np.ndarray, scores: np.ndarray, n_bins: int) -> Figure:
    score, share, count = calibration_bins(correct, scores, n_bins)
    with panels(8.4, 4.4) as (figure, (axes,)):
        name_axes(axes, "Calibration", "mean step score in the bin", "share of correct steps in the bin")
        axes.plot([0, 1], [0, 1], color=MUTED, ls="--", lw=1.2, label="perfect")
        axes.plot(score, share, color=BLUE, lw=1.2)
        sizes = 14 + 150 * count / count.max()
        axes.scatter(score, share, s=sizes, color=BLUE, edgecolors=CARD, zorder=3, label="bin (area: steps in it)")
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.legend(loc="upper left")
    return Figure(
        "calibration",
        "Calibration",
        figure,
        "On the dashed line, of steps scored 0.8 eight in ten are correct; below it the model is too sure of itself.",
        f"Reliability diagram. Share of correct steps: {share[0]:.2f} at the mean score {score[0]:.2f} of the lowest "
        f"bin, {share[-1]:.2f} at {score[-1]:.2f} of the highest.",
    )


def calibration_bins(correct: np.ndarray, scores: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean score, share of correct steps, and number of steps of every bin that is not empty.

    correct: (steps,) bool; scores: (steps,) in [0, 1]; n_bins: equal-width bins, as for the ECE.
    """
    index = np.minimum((scores * n_bins).astype(np.int64), n_bins - 1)
    count = np.bincount(index, minlength=n_bins)
    used = count > 0
    score, right = (np.bincount(index, weights=w, minlength=n_bins)[used] for w in (scores, correct))
    return score / count[used], right / count[used], count[used]
