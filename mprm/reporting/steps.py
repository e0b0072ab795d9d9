"""The report of a step scorer: what was selected, how training went, what the benchmark says, how to repeat it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from mprm.metrics.results import StepResults
from mprm.reporting.plots import training_curves
from mprm.reporting.report import Figure, Report, Section, Table, code, counts_table, print_report, write_page
from mprm.reporting.run_record import RunRecord, read_run
from mprm.reporting.selection import composition_table, selection_sections
from mprm.reporting.style import BLUE, CARD, MUTED, name_axes, panels

MAIN = "fixed"  # the threshold that the headline and the table by source speak of: it needs no data of ours
AT = "threshold 0.5"
THRESHOLDS = {"fixed": "fixed", "calibrated": "calibrated on held-out questions", "oracle": "oracle (optimistic)"}
BASELINES = {"majority": "majority class", "position_only": "position only"}
CURVES = {
    ("Loss", "loss per step (nats)"): {"train/loss": "train loss", "val/loss": "validation loss"},
    ("Step accuracy and AUC", "share (0 to 1)"): {
        "train/step_accuracy": "train accuracy",
        "val/step_accuracy": "validation accuracy",
        "val/auc": "validation AUC",
    },
}


def write_report(folder: Path) -> Path:
    """Write folder/report.html from what is in the folder, finished or not, and return its path.

    Raises ValueError when the folder or a file in it cannot be read.
    """
    return write_page(step_report(read_run(folder)), folder / "report.html")


def print_run(record: RunRecord, console: Console | None = None) -> None:
    """Print the run's subset, result and baselines, in the console's width; plain where colour is unwanted."""
    tables = [composition_table(record.manifest)] if record.manifest else []
    if results := record.results:
        tables += [quality_table(results), thresholds_table(results), sources_table(results)]
    short = [replace(table, note="") for table in tables]
    print_report(Report(record.folder.name, headline(record), short), console)


def step_report(record: RunRecord) -> Report:
    """The page of one run."""
    sections: list[Section | None] = []
    if results := record.results:
        sections += [thresholds_table(results), sources_table(results), quality_table(results)]
        sections.append(counts_table("Not scored", {"benchmark records": results.skipped}))
        if record.scored and results.ece is not None:
            sections.append(_calibration(*record.scored, results.ece_bins))
    sections += [
        training_curves("learning", "Learning curve", CURVES, record.metrics),
        *selection_sections(record),
        code("Command that repeats this run in another folder", record.config and repeat_command(record.folder)),
        code("Configuration", record.config),
        code("Versions", record.versions),
    ]
    return Report(f"mprm run {record.folder.name}", headline(record), sections)


def repeat_command(folder: Path) -> str:
    """The command that runs the config of a run folder once more, from the root of the repository."""
    place = folder if folder.is_absolute() else Path("$PWD") / folder
    quiet = "hydra.run.dir=. hydra.output_subdir=null hydra/job_logging=none"
    return f'python run.py -cp "{place}" -cn config task=experiment runs=again {quiet}'


def headline(record: RunRecord) -> str:
    """The run in two sentences."""
    text, results = "No subset has been selected yet.", record.results
    if record.manifest:
        totals, who = record.manifest.totals, record.manifest.selector.label
        kept, eligible = totals.kept.rollouts, totals.eligible.rollouts
        text = f"{who} kept {kept:,} of {eligible:,} rollouts ({100 * kept / max(eligible, 1):.1f} %)."
    if results is None:
        return f"{text} There are no results yet: task=evaluate writes them."
    reached = f"an overall macro-F1 of {results.thresholds[MAIN].overall_step_weighted_macro_f1.points()} at the {AT}"
    if results.auc:
        reached += f" and an AUC of {results.auc.fraction()}"
    untrained = ((record.config or {}).get("recipe") or {}).get("epochs") == 0
    trained = "reward model trained on them" if record.manifest else "reward model"
    text = f"{text} The " if record.manifest else "The "
    text += f"{'untrained backbone' if untrained else trained} reaches {reached}"
    others = [
        f"{words} {100 * results.baselines[name].overall_step_weighted_macro_f1.value:.1f}"
        for name, words in BASELINES.items()
        if name in results.baselines
    ]
    return f"{text}; for comparison, {' and '.join(others)}." if others else f"{text}."


# ---- the benchmark


def thresholds_table(results: StepResults) -> Table:
    """Both overall definitions at the three thresholds, then the baselines."""
    parts = [(words, results.thresholds.get(name), True) for name, words in THRESHOLDS.items()]
    parts += [(f"baseline: {words}", results.baselines.get(name), False) for name, words in BASELINES.items()]
    rows = tuple(
        (
            words,
            f"{at.threshold:.3f}" if of_scores else "-",
            at.overall_step_weighted_macro_f1.points(),
            at.pooled_macro_f1.points(),
        )
        for words, at, of_scores in parts
        if at
    )
    note = (
        "Macro-F1: mean of the F1 of correct and of incorrect steps, in points. Overall: mean over the sources, "
        "weighted by their labelled steps. Pooled: all steps in one table. Brackets: 95 % bootstrap over solutions. "
        "The calibrated threshold was chosen on training questions that were held out; the oracle one on the benchmark "
        "itself, so it flatters."
    )
    columns = ("threshold", "at", "overall macro-F1", "pooled macro-F1")
    return Table("Benchmark", columns, rows, note, THRESHOLDS[MAIN])


def sources_table(results: StepResults) -> Table:
    """Macro-F1 and the F1 of both classes per source, at the main threshold."""
    rows = []
    for name, part in results.thresholds[MAIN].per_source.items():
        of_class = [f"{100 * f1:.1f}" for f1 in (part.f1_positive, part.f1_negative)]
        rows.append((name, f"{part.n:,}", part.macro_f1.points(), *of_class))
    columns = ("source", "labelled steps", "macro-F1", "F1 correct", "F1 incorrect")
    return Table(f"Benchmark by source ({AT})", columns, tuple(rows))


def quality_table(results: StepResults) -> Table:
    """Quality of the scores themselves, and the size of the benchmark."""
    at = results.thresholds[MAIN]
    rows = (
        ("AUC", at.auc_words()),
        ("ECE (calibration error)", "-" if results.ece is None else f"{results.ece:.3f}"),
        ("Brier score", "-" if results.brier is None else f"{results.brier:.3f}"),
        ("first error found at 0.5 (%)", at.first_error_accuracy.points()),
        ("solutions", f"{results.n_solutions:,}"),
        ("labelled steps", f"{results.n_steps:,}"),
    )
    return Table("Scores and size", ("", "value"), rows, main="AUC")


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
