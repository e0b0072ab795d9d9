"""The comparison of many runs: the same sections for step scorers, judges and best-of-N."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from mprm.metrics.estimate import Estimate
from mprm.metrics.predictions import read_predictions
from mprm.metrics.results import StepResults
from mprm.metrics.step_metrics import labelled_steps
from mprm.reporting import comparison_figures as figures
from mprm.reporting.report import (
    Figure,
    Heading,
    Report,
    Section,
    Table,
    Text,
    markdown,
    print_report,
    table_markdown,
    write_figures,
    write_page,
    write_tables,
)
from mprm.reporting.run_record import read_json_object
from mprm.reporting.selection import compared_subsets
from mprm.reporting.settings import SOURCE, Comparison, Group, Setting
from mprm.reporting.steps import Scored, threshold_figure
from mprm.reporting.verdicts import Verdict, changes, published_f1, verdicts_of, verdicts_table
from mprm.runs.artifacts import STAGES, atomic_file, atomic_folder, write_text

FOLDER = "report"  # beside report.html: every figure and table as a file of its own, and all of it as Markdown
PUBLISHED = (
    " Published: overall macro-F1 in arXiv 2602.04145, of one training, at the threshold searched on the benchmark "
    "itself; compare it with our optimistic F1, which is found and flatters in the same way."
)


def write_comparison(directory: Path, comparison: Comparison, console: Console) -> Path:
    """Write the comparison of the runs in `directory`, and print what matters of it; return the page's path.

    report.html is the whole in one file. comparison.csv (unrounded), .md, .png, .svg are the main table and figure;
    report/ has every figure (.png, .svg), every table (.csv), the unrounded numbers of every run (runs.csv) and all of
    it as report.md. Each file is written atomically, the folder report/ as a whole.

    Raises ValueError when report/ is a run folder, or a file of a run cannot be read.
    """
    if (directory / FOLDER / "config.yaml").exists():
        raise ValueError(f"{directory / FOLDER} is a run folder, where the report is to be written; rename it")
    verdicts = [verdicts_of(group) for group in comparison.groups]
    said = [words for group in comparison.groups for words in changes(group)]
    said += [one.words for of_group in verdicts for one in of_group if one.question.said]
    said += [words for group in comparison.groups if (words := unlike(group))]
    sections: list[Section] = [Text("Verdicts", said, "list")]
    tables = []
    for number, (group, of_group) in enumerate(zip(comparison.groups, verdicts, strict=True), start=1):
        suffix = f"-{number}" if number > 1 else ""
        sections += [Heading(group.words)] if group.words else []
        table = settings_table(group)
        tables.append(replace(table, title=_titled(table.title, group)))
        sections += _sections(group, table, of_group, suffix)
    sections.append(unfinished_table(comparison))
    title = f"mprm comparison {directory.resolve().name}"
    report = Report(title, lead(comparison), sections, wide=True, contents=True)
    of_settings, of_runs = unrounded(comparison)
    with atomic_folder(directory / FOLDER) as folder:
        write_figures(report, folder)
        write_tables(report, folder)
        write_text(folder / "report.md", markdown(report))
        write_text(folder / "runs.csv", of_runs)
    if comparison.groups:
        for kind in ("png", "svg"):
            with atomic_file(directory / f"comparison.{kind}") as path:
                path.write_bytes((directory / FOLDER / f"comparison.{kind}").read_bytes())
    write_text(directory / "comparison.csv", of_settings)
    named = [
        f"{table.title}\n\n{table_markdown(table)}" if len(tables) > 1 else table_markdown(table) for table in tables
    ]
    write_text(directory / "comparison.md", "\n".join(named))
    last = {table.note: table for table in tables}  # a note is said once, below the last table that it is of
    shown = [table if last[table.note] is table else replace(table, note="") for table in tables]
    print_report(Report("", "", [*shown, Text("", [*said, *unfinished_lines(comparison)])]), console)
    return write_page(report, directory / "report.html")


def lead(comparison: Comparison) -> str:
    """How many runs were compared and which setting has the highest mean; every group by itself."""
    said = []
    for group in comparison.groups:
        reached: dict[tuple[str, str], list[str]] = {}
        for measure in group.measures[: group.kind.headlines]:
            best = group.ranked(measure)[0]
            number = best.numbers[measure.key]
            scope = "" if number.scope == "any training" else f", for {number.scope}"
            said_of = reached.setdefault((best.label, scope), [])
            said_of.append(f"the highest {measure.name}, {measure.text(number)}")
        if reached:
            who = (f"{label} has {' and '.join(numbers)}{scope}" for (label, scope), numbers in reached.items())
            settings = f"{len(group.settings)} setting{'s' if len(group.settings) > 1 else ''}"
            runs = f"{group.n_runs} run{'s' if group.n_runs > 1 else ''}"
            said.append(f"Of {settings} in {runs}, {', and '.join(who)}.")
    if len(said) > 1:
        said = ["Runs on other benchmarks or other annotations are compared apart.", *said]
    return " ".join(said) or "No run has results yet."


def unlike(group: Group) -> str:
    """That the settings were not all measured on as many items, in a sentence; "" where they were."""
    counts = [one.n_items for one in group.settings]
    items, asked = group.kind.items, f"from {min(counts):,} to {max(counts):,}"
    return f"Settings were not measured on the same number of {items}, {asked}." if min(counts) < max(counts) else ""


def _sections(group: Group, settings: Table, verdicts: Sequence[Verdict], suffix: str) -> list[Section]:
    """All sections of a group; those without content are not there."""
    found = [
        figures.settings_figure(group),
        settings,
        verdicts_table(verdicts, group),
        selectors_figure(group),
        *figures.varied_figures(group),
        figures.learning_figure(group),
        figures.sources_figure(group),
        compared_subsets((one.label, one.runs[0].trained) for one in group.settings),
        runs_table(group),
    ]
    named = [one for one in found if isinstance(one, Table | Figure)]
    return [replace(one, name=f"{one.name}{suffix}", title=_titled(one.title, group)) for one in named]


def selectors_figure(group: Group) -> Figure | None:
    """One line per selector, of its best setting: the mean over the seeds; None where there are no step scores that are
    probabilities."""
    best: dict[tuple[str, str], Setting] = {}
    for one in group.ranked(group.measures[0]) if group.measures else ():
        if all(isinstance(run.results, StepResults) and run.results.ece is not None for run in one.runs):
            best.setdefault((one.selection.name, one.other), one)
    wanted = [*best.values()][: figures.MOST_CURVES]
    lines: dict[str, list[Scored]] = {}
    for one in wanted:
        for run in one.runs:
            assert isinstance(run.results, StepResults)
            steps = labelled_steps(read_predictions(run.folder / "predictions.jsonl"))
            lines.setdefault(one.label, []).append(Scored(steps, run.results.thresholds))
    if not lines:
        return None
    return threshold_figure(lines, figures.looks_of(group, {one.label: one for one in wanted}), {})


def _titled(title: str, group: Group) -> str:
    """With what the group shares, where there are several groups: no two sections have the same title."""
    return f"{title}: {group.words}" if group.words and not title.endswith(group.words) else title


def settings_table(group: Group) -> Table:
    """One row per setting, the best one stressed; then what to compare with."""
    measures = [*group.measures, *group.present(group.kind.extra)]
    published = {setting: f1 for setting in group.settings if (f1 := published_f1(setting.runs[0].config))}
    rows = []
    for setting in group.settings:
        cells = [measure.text(setting.numbers.get(measure.key)) for measure in measures]
        if published:
            cells.append(f"{100 * published[setting]:.2f}" if setting in published else "-")
        kept = f"{setting.kept:,.0f}" if setting.selection.eligible else "-"
        measured_on = [f"{setting.n_items:,}"] if unlike(group) else []
        rows.append((setting.label, kept, str(len(setting.runs)), *measured_on, *cells))
    columns = ("setting", group.kind.kept, "seeds", *([f"{group.kind.items} scored"] if unlike(group) else []))
    columns += tuple(measure.name for measure in measures)
    columns += ("published F1",) if published else ()
    of_references: dict[str, list[str]] = {}
    for measure in measures:
        for reference, value in group.references(measure).items():
            cells = of_references.setdefault(reference, [reference, *["-"] * (len(columns) - 1)])
            cells[columns.index(measure.name)] = measure.text(value)
    rows += map(tuple, of_references.values())
    note = (
        f"{group.kind.note} Square brackets: 95 %, of three seeds or more for any training (Student's t over seeds and "
        f"a bootstrap over the benchmark's {group.kind.items}, added in squares), of one seed for this training (the "
        "bootstrap alone). Round ones: the values of two seeds."
    )
    if any(measure.key not in setting.numbers for measure in measures for setting in group.settings):
        note += f" {group.kind.lacking}" if group.kind.lacking else ""
    best = group.ranked(group.measures[0])[0].label if group.measures else ""
    return Table("Settings", columns, tuple(rows), note + (PUBLISHED if published else ""), best, "settings")


def runs_table(group: Group) -> Table:
    """Every run by itself: its numbers, and what it cost."""
    runs = []
    for setting in group.settings:
        for run in setting.runs:
            record = read_json_object(run.trained / STAGES)
            label = f"{setting.label}, seed {run.seed}" if run.config else setting.label
            runs.append((label, run, record["stages"] if record else {}))
    names = {run.trained.name: label for label, run, _ in runs}
    stages = list(dict.fromkeys(name for *_, of_run in runs for name, one in of_run.items() if "seconds" in one))
    rows, total = [], 0.0
    for label, run, of_run in runs:
        seconds = [of_run.get(stage, {}).get("seconds") for stage in stages]
        total += sum(part for part in seconds if part is not None)
        steps = [one["optimizer_steps"] for one in of_run.values() if "optimizer_steps" in one]
        shared = [one["shared_with"] for one in of_run.values() if "shared_with" in one]
        rows.append(
            (
                label,
                *(measure.text(run.numbers.get(measure.key)) for measure in group.measures),
                f"{run.selection.kept:,}" if run.selection.eligible else "-",
                f"{sum(steps):,}" if steps else "-",
                *("-" if part is None else f"{part:,.1f}" for part in seconds),
                names.get(shared[0], shared[0]) if shared else "-",
            )
        )
    note = (
        f"Brackets: 95 % bootstrap over the benchmark's {group.kind.items}, for this training. Wall-clock seconds of "
        f"the machine that ran the stage, {total:,.0f} in all. A run whose subset and settings are the very same as "
        "another's takes over its training: its own seconds are those of the copying."
    )
    columns = ("run", *(measure.name for measure in group.measures), group.kind.kept, "optimizer steps")
    columns += (*(f"{stage} (s)" for stage in stages), "shared with")
    return Table("Every run and its cost", columns, tuple(rows), note, name="runs")


def unrounded(comparison: Comparison) -> tuple[str, str]:
    """comparison.csv, one line per setting, and runs.csv, one line per run."""
    settings, runs = [], []
    for group in comparison.groups:
        for one in group.settings:
            about: dict[str, Any] = {name: content[:8] for name, content in group.content.items()}
            about |= {"kind": group.kind.title, "setting": one.label, "selector": one.selection.label}
            about |= {**one.selection.fields, "ratio": one.ratio, "other": one.other}
            about |= {f"n_{group.kind.items}": one.n_items}
            line = about | {"kept": one.kept, "n_seeds": len(one.runs)}
            line |= {"seeds": " ".join(str(run.seed) for run in one.runs)} | _unrounded(one.numbers, "_mean")
            published = published_f1(one.runs[0].config)
            settings.append(line | ({"published_f1": published} if published else {}))
            for run in one.runs:
                line = {"run": run.name} | about | {"seed": run.seed, "kept": run.selection.kept}
                runs.append(line | _unrounded(run.numbers))
    return _csv(settings), _csv(runs)


def _unrounded(numbers: Mapping[str, Estimate], ending: str = "") -> dict[str, float | None]:
    cells: dict[str, float | None] = {}
    for key, number in numbers.items():
        if key.startswith(SOURCE):
            continue
        cells |= {f"{key}{ending}": number.value, f"{key}_low": number.low, f"{key}_high": number.high}
    return cells


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """Columns in the order in which the lines first have them; what a line lacks is an empty cell."""
    buffer = io.StringIO()
    columns = dict.fromkeys(name for line in lines for name in line)
    writer = csv.DictWriter(buffer, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def unfinished_table(comparison: Comparison) -> Table:
    """Jobs of the sweep that are not done, and folders left out, with reasons."""
    rows: list[tuple[str, str, str]] = []
    for state in ("failed", "interrupted", "running", "waiting"):
        rows += [(job.label, state, job.reason or "-") for job in comparison.jobs if job.state == state]
    rows += [(name, "left out", reason) for name, reason in comparison.left_out.items()]
    note = "The same command resumes what is not done." if comparison.jobs else ""
    columns = ("run", "state", "reason")
    return Table("Not in this comparison", columns, tuple(rows), note, name="unfinished")


def unfinished_lines(comparison: Comparison) -> list[str]:
    """For the terminal: every failure in a line, all that only waits in one, folders left out in one per reason."""
    lines = [f"Failed: {job.label}: {job.reason}" for job in comparison.jobs if job.state == "failed"]
    folders: dict[str, list[str]] = {}
    for name, reason in comparison.left_out.items():
        folders.setdefault(reason, []).append(name)
    for reason, names in folders.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"Left out: {', '.join(names[:3])}{more} ({reason})")
    states = Counter(job.state for job in comparison.jobs if job.state not in ("failed", "done"))
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    return [*lines, f"Not finished: {counts}"] if counts else lines
