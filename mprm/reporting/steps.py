"""The report of a step scorer: what was selected, how training went, what the benchmark says, how to repeat it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure as Drawing
from rich.console import Console

from mprm.metrics.results import Estimate, StepResults, ThresholdResults
from mprm.reporting.plots import Curves, ForestRow, Panel, forest, histograms, training_curves
from mprm.reporting.report import (
    Figure,
    Report,
    Section,
    Table,
    Tile,
    Tiles,
    code,
    counts_table,
    print_report,
    write_page,
)
from mprm.reporting.run_record import RunRecord, read_run
from mprm.reporting.selection import composition_table, selection_sections
from mprm.reporting.style import BLUE, CARD, INK, MUTED, ORANGE, name_axes, styled

MAIN = "fixed"  # the threshold that every headline, table by source and figure speaks of: it needs no data of ours
AT = "threshold 0.5"
THRESHOLDS = {
    "fixed": "fixed",
    "calibrated": "calibrated on held-out questions",
    "oracle": "oracle (optimistic)",
}
BASELINES = {"majority": "majority class", "position_only": "position only"}
CURVES = (
    Curves("Loss", "loss per step (nats)", {"train/loss": "train loss", "val/loss": "validation loss"}),
    Curves(
        "Step accuracy and AUC",
        "share (0 to 1)",
        {
            "train/step_accuracy": "train accuracy",
            "val/step_accuracy": "validation accuracy",
            "val/auc": "validation AUC",
        },
    ),
)


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
    results, config = record.results, record.config
    note = " Validation: rollouts of held-out questions, labelled by their MC scores."
    sections = [
        Tiles(_tiles(record)),
        *(_result_sections(results) if results else []),
        _calibration(results, *record.scored) if results and record.scored and results.ece is not None else None,
        training_curves("learning", "Learning curve", CURVES, record.metrics or [], note),
        *selection_sections(record),
        code("Command that repeats this run in another folder", config and repeat_command(record.folder)),
        code("Configuration", config),
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
    text = "No subset has been selected yet."
    if record.manifest:
        totals, who = record.manifest.totals, record.manifest.selector.label
        kept, eligible = totals.kept.rollouts, totals.eligible.rollouts
        share = 100 * kept / max(eligible, 1)
        text = f"{who} kept {kept:,} of {eligible:,} rollouts ({share:.1f} %)."
    results = record.results
    if results is None:
        return f"{text} There are no results yet: task=evaluate writes them."
    reached = f"an overall macro-F1 of {_f1(results.thresholds[MAIN]).points()} at the {AT}"
    if results.auc:
        reached += f" and an AUC of {results.auc.fraction()}"
    untrained = ((record.config or {}).get("recipe") or {}).get("epochs") == 0
    trained = "reward model trained on them" if record.manifest else "reward model"
    text = f"{text} The " if record.manifest else "The "
    text += f"{'untrained backbone' if untrained else trained} reaches {reached}"
    others = [f"{words} {100 * value:.1f}" for words, value in baseline_f1(results).items()]
    return f"{text}; for comparison, {' and '.join(others)}." if others else f"{text}."


def baseline_f1(results: StepResults) -> dict[str, float]:
    """Overall macro-F1 of the baselines that see no step text, by readable name."""
    return {words: _f1(results.baselines[name]).value for name, words in BASELINES.items() if name in results.baselines}


def _f1(at: ThresholdResults) -> Estimate:
    return at.overall_step_weighted_macro_f1


def _tiles(record: RunRecord) -> list[Tile]:
    tiles = []
    if results := record.results:
        texts = {"Overall macro-F1 at 0.5": _f1(results.thresholds[MAIN]).points()}
        texts |= {"AUC": results.auc.fraction()} if results.auc else {}
        for name, text in texts.items():
            value, _, interval = text.partition(" ")
            tiles.append(Tile(name, value, f"95 % interval {interval}" if interval else "no interval"))
    if record.manifest:
        totals = record.manifest.totals
        tiles.append(Tile("Rollouts kept", f"{totals.kept.rollouts:,}", f"of {totals.eligible.rollouts:,}"))
    return tiles


def _result_sections(results: StepResults) -> list[Section]:
    overall, baselines = _f1(results.thresholds[MAIN]), baseline_f1(results)
    by_source = results.thresholds[MAIN].per_source.items()
    sources = sorted(((name, part.macro_f1) for name, part in by_source), key=lambda pair: -pair[1].value)
    (best, highest), (worst, lowest) = sources[0], sources[-1]
    rows = [ForestRow(label=name, numbers=[number]) for name, number in sources]
    rows.append(ForestRow(label="Overall", numbers=[overall], look={"color": BLUE, "marker": "D"}, main=True))
    lines = {f"{name}, overall {100 * value:.1f}": value for name, value in baselines.items()}
    panel = Panel(title="Macro-F1 per source", axis=f"macro-F1 (points), {AT}", references=lines)
    figure = Figure(
        "sources",
        "Sources of the benchmark",
        forest([panel], rows, y_label="source", mark_best=False),
        "Dots: macro-F1. Bars: 95 % bootstrap intervals over solutions. "
        "Lines: the overall value of baselines that never read a step.",
        f"Macro-F1 per source, {AT}. Overall {overall.points()}; best {best} {highest.points()}, worst {worst} "
        f"{lowest.points()}; " + ", ".join(f"{name} {100 * value:.1f}" for name, value in baselines.items()),
    )
    skipped = counts_table("Not scored", {"benchmark records": results.skipped})
    return [thresholds_table(results), figure, sources_table(results), quality_table(results), skipped]


def thresholds_table(results: StepResults) -> Table:
    """Both overall definitions at the three thresholds, then the baselines."""
    parts = [(words, results.thresholds.get(name), True) for name, words in THRESHOLDS.items()]
    parts += [(f"baseline: {words}", results.baselines.get(name), False) for name, words in BASELINES.items()]
    rows = tuple(
        (words, f"{at.threshold:.3f}" if of_scores else "-", _f1(at).points(), at.pooled_macro_f1.points())
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


def _calibration(results: StepResults, correct: np.ndarray, scores: np.ndarray) -> Figure:
    """Reliability diagram (left), and the scores of correct and incorrect steps with the threshold (right)."""
    score, share, count = calibration_bins(correct, scores, results.ece_bins)
    threshold = results.thresholds[MAIN].threshold
    with styled():
        figure = Drawing(figsize=(8.4, 4.1), layout="constrained")
        left, right = figure.subplots(1, 2)
        name_axes(left, "Calibration", "mean step score in the bin", "share of correct steps in the bin")
        left.plot([0, 1], [0, 1], color=MUTED, ls="--", lw=1.2, label="perfect")
        left.plot(score, share, color=BLUE, lw=1.2)
        sizes = 14 + 150 * count / count.max()
        left.scatter(score, share, s=sizes, color=BLUE, edgecolors=CARD, zorder=3, label="bin (area: steps in it)")
        left.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        left.legend(loc="upper left")
        name_axes(right, "Step scores by label", "step score", "share of the label's steps (%)")
        histograms(right, {"incorrect": scores[~correct]}, {"correct": scores[correct]}, ORANGE)
        right.axvline(threshold, color=INK, ls="--", lw=1.2, label=f"threshold {threshold:.3f}")
        right.set_ylim(top=1.35 * right.get_ylim()[1])  # the legend stands above the bars
        right.legend(loc="upper center")
    points = [f"{right:.2f} at {mean:.2f}" for mean, right in zip(score, share, strict=True)]
    return Figure(
        "calibration",
        "Calibration",
        figure,
        "Left: on the dashed line, of steps scored 0.8 eight in ten are correct; below it the model is too sure of "
        "itself. Right: the further apart the two groups, the better the scores tell right from wrong.",
        f"Reliability diagram. Share of correct steps by mean score: {', '.join(points)}.",
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
