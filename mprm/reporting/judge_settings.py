"""Settings of judges in tables: means over seeds, every run by itself, and the unrounded numbers as CSV."""

from __future__ import annotations

import csv
import io

import numpy as np

from mprm.reporting.choice_tables import points
from mprm.reporting.judge_runs import JudgeComparison, JudgeRow, JudgeRun
from mprm.reporting.judge_words import STAGES, percent
from mprm.reporting.tables import Table

COLUMNS = ("after SFT (%)", "after RL (%)", "RL - SFT", "kept")
WRONG_COLUMNS = ("wrong (%)", "random (%)")


def settings_table(comparison: JudgeComparison) -> Table:
    """One row per setting, the best one stressed."""
    known = any(run.flipped for row in comparison.rows for run in row.runs)
    rows = tuple((row.label, str(len(row.runs)), *_numbers(row), *_kept(row.runs, known)) for row in comparison.rows)
    columns = ("setting", "seeds", *COLUMNS, *(WRONG_COLUMNS if known else ()))
    note = (
        "Accuracy on the benchmark, in percent, every pair judged in both orders. Square brackets: 95 % t-interval "
        "over seeds; of one seed 95 % bootstrap over the benchmark's pairs, for this training only. Round ones: the "
        "values of two seeds. RL - SFT: in points. Kept: labelled pairs that RL learnt from."
    )
    if known:
        note += " Wrong: labels of the kept pairs; random: of random subsets with as many pairs of every source."
    best = next((row.label for row in comparison.rows if row.accuracy(comparison.stage)), "")
    return Table(titled("Settings", comparison), columns, rows, note, best)


def titled(title: str, comparison: JudgeComparison) -> str:
    """With what the rows of a group share, where there are several groups."""
    return f"{title}: {comparison.words}" if comparison.words else title


def runs_table(comparison: JudgeComparison) -> Table:
    """One row per run."""
    runs = [(row, run) for row in comparison.rows for run in row.runs]
    known = any(run.flipped for _, run in runs)
    rows = tuple(
        (run.folder.name, row.label, str(run.seed), *_numbers(run), *_kept((run,), known)) for row, run in runs
    )
    columns = ("run", "setting", "seed", *COLUMNS, *(WRONG_COLUMNS if known else ()))
    note = "As above, every seed by itself. Brackets: 95 % bootstrap over the benchmark's pairs."
    return Table(titled("Every run", comparison), columns, rows, note)


def _numbers(one: JudgeRow | JudgeRun) -> tuple[str, ...]:
    return (percent(one.accuracy("sft")), percent(one.accuracy("rl")), points(one.gain))


def _kept(runs: tuple[JudgeRun, ...], known: bool) -> tuple[str, ...]:
    """Means over the runs."""
    kept = [run.curation["kept"] for run in runs if run.curation]
    cells = [f"{np.mean(kept):,.0f}" if kept else "-"]
    for key in ("kept", "random") if known else ():
        wrong = [100 * run.flipped[key] for run in runs if run.flipped]
        cells.append(f"{np.mean(wrong):.1f}" if wrong else "-")
    return tuple(cells)


def as_csv(comparison: JudgeComparison) -> str:
    """One line per run with unrounded numbers; an absent one is an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    ends = [f"{name}_{end}" for name in (*STAGES, "rl_minus_sft") for end in ("value", "low", "high")]
    names = ["run", "setting", "seed", "benchmark", "eligible", "kept", "wrong_kept", "wrong_random"]
    writer.writerow([*names, *ends])
    for row in comparison.rows:
        for run in row.runs:
            numbers = [*(run.accuracy(stage) for stage in STAGES), run.gain]
            cells = [number[end] if number else None for number in numbers for end in ("value", "low", "high")]
            kept = [run.curation.get(key) for key in ("eligible", "kept")]
            wrong = [run.flipped.get(key) for key in ("kept", "random")]
            writer.writerow(
                [run.folder.name, row.label, run.seed, run.results.get("reward_benchmark"), *kept, *wrong, *cells]
            )
    return buffer.getvalue()
