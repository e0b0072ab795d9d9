"""The comparison of many runs: their settings, and which differences between them are real."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from mprm.metrics.estimate import Resampled, difference
from mprm.metrics.evaluate import FIXED_THRESHOLD, resampled_auc, resampled_f1
from mprm.metrics.predictions import read_predictions
from mprm.metrics.results import StepResults, read_results
from mprm.reporting.compare import MEASURES, Comparison, Row, compare, run_folders
from mprm.reporting.compare_page import print_comparison, write_comparison
from mprm.reporting.judge_compare import print_judge_comparison, write_judge_comparison
from mprm.reporting.judge_runs import compare_judges
from mprm.reporting.verdicts import Verdict, questions, verdict
from mprm.runs.sweep_state import read_jobs
from mprm.terminal import console, say


def compare_runs(runs: Path, own: bool = False) -> None:
    """Write the comparison of the finished runs below `runs`, and print it; judges have a comparison of their own.

    own: of the last multirun's points alone, whatever else lies in the folder.
    """
    folders, points = run_folders(runs), read_jobs(runs)
    if own:
        names = {point.name for point in points}
        folders = [folder for folder in folders if folder.name in names]
    judges = compare_judges(runs, folders)
    if judges:
        page = write_judge_comparison(runs, judges)
        print_judge_comparison(judges, console())
        say(f"wrote {page}")
        if not judges.others:
            return
        folders = list(judges.others)
        points = tuple(point for point in points if point not in judges.points)
    comparison = compare(folders, points)
    verdicts = compare_pairs(comparison)
    page = write_comparison(runs, comparison, verdicts)
    print_comparison(comparison, console(), verdicts)
    say(f"wrote {page}")


def compare_pairs(comparison: Comparison) -> list[Verdict]:
    """Answer the questions that the comparison raises; a pair that can not be compared is answered with the reason."""
    resampled = cache(_resampled)  # a run takes part in several pairs

    def runs(row: Row) -> dict[int, dict[str, Resampled]]:
        return {seed: resampled(folder) for seed, folder in zip(row.seeds, row.folders, strict=True)}

    answers = []
    for question in questions(comparison):
        try:
            a, b = runs(question.a), runs(question.b)
            measures = [name for name in MEASURES if all(name in run for run in [*a.values(), *b.values()])]
            differences = [
                difference(name, {seed: a[seed][name] for seed in a}, {seed: b[seed][name] for seed in b})
                for name in measures
            ]
            answers.append(verdict(question, differences))
        except ValueError as error:
            answers.append(verdict(question, [], str(error)))
    return answers


def _resampled(folder: Path) -> dict[str, Resampled]:
    """The measures of one run by their name in MEASURES."""
    predictions = read_predictions(folder / "predictions.jsonl")
    calibrated = read_results(folder / "results.json", StepResults).thresholds.get("calibrated")
    found = {"auc": resampled_auc(predictions), "f1_fixed": resampled_f1(predictions, FIXED_THRESHOLD)}
    if calibrated:
        found["f1_calibrated"] = resampled_f1(predictions, calibrated.threshold)
    return found
