"""report.html of one run: what was selected, how training went, what the benchmark says, and how to repeat it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mprm.reporting import markup, plots, tables
from mprm.reporting.collect import RunRecord, read_run
from mprm.runs.artifacts import write_text


def write_report(run_folder: Path) -> Path:
    """Write run_folder/report.html from what is in the folder, finished or not, and return its path.

    Raises ValueError when the folder or a file in it can not be read.
    """
    path = run_folder / "report.html"
    write_text(path, render(read_run(run_folder)))
    return path


def render(record: RunRecord) -> str:
    """The page of one run as HTML."""
    parts = [*_first_numbers(record), *_result_parts(record), *_training_parts(record), *_subset_parts(record)]
    if record.config:
        parts.append(markup.listing("Command that repeats this run in another folder", repeat_command(record.folder)))
        parts.append(markup.listing("Configuration", record.config))
    if record.versions:
        parts.append(markup.listing("Versions", record.versions))
    return markup.document(f"mprm run {record.folder.name}", tables.headline(record), parts)


def repeat_command(folder: Path) -> str:
    """The command that runs the config of a run folder once more, from the root of the repository."""
    place = folder if folder.is_absolute() else Path("$PWD") / folder
    quiet = "hydra.run.dir=. hydra.output_subdir=null hydra/job_logging=none"
    return f'python run.py -cp "{place}" -cn config task=experiment runs=again {quiet}'


def _first_numbers(record: RunRecord) -> list[str]:
    numbers = []
    if record.results:
        f1, area = tables.overall(record.results, tables.MAIN), tables.auc(record.results)
        for label, text in (("Overall macro-F1 at 0.5", f1 and f1.points()), ("AUC", area and area.fraction())):
            if text:
                value, _, interval = text.partition(" ")
                numbers.append((label, value, f"95 % interval {interval}" if interval else "no interval"))
    if record.manifest:
        totals = record.manifest["totals"]
        numbers.append(("Rollouts kept", f"{totals['kept']['rollouts']:,}", f"of {totals['eligible']['rollouts']:,}"))
    return [markup.tiles(numbers)] if numbers else []


def _result_parts(record: RunRecord) -> list[str]:
    results = record.results
    if results is None:
        return []
    parts = [markup.table(tables.thresholds_table(results))]
    overall, sources = tables.overall(results, tables.MAIN), tables.per_source(results, tables.MAIN)
    baselines = tables.baseline_f1(results)
    if overall:
        best, worst = (pick(sources, key=lambda source: sources[source].value) for pick in (max, min))
        parts.append(
            markup.figure(
                plots.source_f1(overall, sources, baselines, tables.AT),
                "sources",
                "Dots: macro-F1. Bars: 95 % bootstrap intervals over solutions. "
                "Lines: the overall value of baselines that never read a step.",
                f"Macro-F1 per source, {tables.AT}. Overall {overall.points()}; "
                f"best {best} {sources[best].points()}, worst {worst} {sources[worst].points()}; "
                + ", ".join(f"{baseline} {100 * value:.1f}" for baseline, value in baselines.items()),
            )
        )
    content = (tables.per_source_table(results), tables.quality_table(results), tables.skipped_table(results))
    parts += [markup.table(table) for table in content if table]
    if record.scored and results.get("ece") is not None:
        parts.append(_calibration(record.scored, results))
    return parts


def _calibration(scored: tuple[np.ndarray, np.ndarray], results: dict[str, Any]) -> str:
    threshold = results["thresholds"][tables.MAIN]["threshold"]
    bins = plots.calibration_bins(*scored, results["ece_bins"])
    return markup.figure(
        plots.calibration(*scored, threshold, results["ece_bins"]),
        "calibration",
        "Left: on the dashed line, of steps scored 0.8 eight in ten are correct; below it the model is too sure of "
        "itself. Right: the further apart the two groups, the better the scores tell right from wrong.",
        "Reliability diagram. Share of correct steps by mean score: "
        + ", ".join(f"{share:.2f} at {score:.2f}" for score, share, _ in zip(*bins, strict=True))
        + ".",
    )


def _training_parts(record: RunRecord) -> list[str]:
    if not record.metrics:
        return []
    ends = []
    for key, label in (("train/loss", "train loss"), ("val/loss", "validation loss"), ("val/auc", "validation AUC")):
        steps, values = plots.series(record.metrics, key)
        if len(values):
            ends.append(f"{label} from {values[0]:.3f} to {values[-1]:.3f} at step {steps[-1]:.0f}")
    return [
        markup.figure(
            plots.learning_curve(record.metrics),
            "learning",
            "Training: raw values (thin) and their running mean. Validation: rollouts of held-out questions, "
            "labelled by their MC scores.",
            f"Learning curve. {'; '.join(ends)}.",
        )
    ]


def _subset_parts(record: RunRecord) -> list[str]:
    if record.manifest is None:
        return []
    parts = [markup.table(table) for table in (tables.composition_table(record),) if table]
    if record.signals is None or record.kept is None:
        reason = "The signals table that the manifest names is no longer there; task=select computes it again."
        parts.append(markup.note("No BIS map", reason))
    else:
        candidates, kept = plots.eligible(record.signals), record.kept
        counts = f"{kept.num_rows:,} kept of {candidates.num_rows:,} eligible rollouts"
        means = {
            key: tuple(float(plots.column(table, key).mean()) for table in (candidates, kept))
            for key in ("p_pos", "reliability", "mean_mc")
        }
        alpha = ((record.config or {}).get("selector") or {}).get("alpha")
        parts += [
            markup.figure(
                plots.bis_map(candidates, kept, alpha),
                "map",
                "Each bubble is one place on a grid of 1/40, its area grows with the logarithm of the number of "
                "rollouts there; a circle around a diamond holds both kinds. A rollout without a positive step has "
                "R = 1 by definition (top left)." + (" Dotted: equal BIS score." if alpha is not None else ""),
                f"Scatter of p_pos against reliability R, {counts}. Mean p_pos {means['p_pos'][0]:.3f} eligible, "
                f"{means['p_pos'][1]:.3f} kept; mean R {means['reliability'][0]:.3f} eligible, "
                f"{means['reliability'][1]:.3f} kept.",
            ),
            markup.figure(
                plots.mc_histogram(candidates, kept),
                "histogram",
                "Both groups in percent of themselves, so that a small subset can be compared with all rollouts.",
                f"Histograms of mean MC score and share of positive steps, {counts}. Mean MC score "
                f"{means['mean_mc'][0]:.3f} eligible, {means['mean_mc'][1]:.3f} kept.",
            ),
        ]
    parts += [markup.table(table) for table in (tables.sources_table(record), tables.drops_table(record)) if table]
    return parts
