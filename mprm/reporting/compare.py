"""Compare many runs: group them by everything but the seed, and average over seeds."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mprm.metrics.estimate import FEWEST, half_width
from mprm.reporting import tables
from mprm.reporting.collect import damage, read_config, read_manifest, read_results
from mprm.reporting.published import published_f1
from mprm.reporting.settings import others, setting_of
from mprm.reporting.tables import Estimate, Table
from mprm.runs.sweep_state import SweepJob

MEASURES = {"auc": "AUC", "f1_fixed": "F1 at 0.5", "f1_calibrated": "F1 calibrated"}
PUBLISHED_COLUMNS = ("F1 oracle", "published F1")
PUBLISHED_NOTE = (
    "Published: overall macro-F1 in arXiv 2602.04145, of one training, at the threshold searched on the benchmark "
    "itself; compare it with our F1 oracle, which is found and flatters in the same way."
)
NOT_FINISHED = "not finished: no results.json yet"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting, averaged over its seeds. An Estimate without interval comes from one seed or two."""

    selector: str
    alpha: float | None
    ratio: float  # asked for where the config says so, else realised
    other: str  # what else tells this row from the others, e.g. "objective._target_=Soft"
    kept: float  # rollouts, mean over seeds
    seeds: tuple[int, ...]
    folders: tuple[Path, ...]  # of the runs, in the order of seeds
    auc: Estimate | None
    f1_fixed: Estimate | None
    f1_calibrated: Estimate | None
    f1_oracle: Estimate | None  # at the threshold that is searched on the benchmark itself
    published: float | None  # overall macro-F1 of this setting in arXiv 2602.04145, at a threshold found in that way
    group: tuple[str, str] = ("", "")  # benchmark and annotations by their content: rows that share it are comparable
    baselines: tuple[tuple[str, float], ...] = ()  # overall macro-F1, mean over seeds

    @property
    def line(self) -> str:
        """What stays the same along a curve over ratios."""
        alpha = None if self.alpha is None else f"alpha {self.alpha:g}"
        return ", ".join(part for part in (self.selector, alpha, self.other) if part)

    @property
    def label(self) -> str:
        return self.line if self.selector == "Full" else f"{self.line}, {100 * self.ratio:.3g} %"


@dataclass(frozen=True)
class Comparison:
    """Many runs side by side.

    rows: one per setting. left_out: folder name -> reason. points: of the multirun that made the runs; what it knows to
    be waiting, running, failed or interrupted is not in left_out.
    """

    rows: tuple[Row, ...]
    left_out: dict[str, str]
    points: tuple[SweepJob, ...] = ()
    words: str = ""  # of a group: what its rows share, where there are several groups

    @property
    def groups(self) -> list[Comparison]:
        """The rows that can be compared with each other, those of the same benchmark and annotations; most runs first.

        Without any row there is one group, empty.
        """
        by_group: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            by_group.setdefault(row.group, []).append(row)
        found = sorted(by_group.items(), key=lambda item: -sum(len(row.seeds) for row in item[1]))
        if len(found) < 2:
            return [Comparison(self.rows, {})]
        return [
            Comparison(tuple(rows), {}, words=f"benchmark {benchmark[:8]}, annotations {annotations[:8]}")
            for (benchmark, annotations), rows in found
        ]

    @property
    def baselines(self) -> dict[str, float]:
        """Overall macro-F1 of what sees no step, the mean of a group's rows."""
        found: dict[str, list[float]] = {}
        for row in self.rows:
            for name, value in row.baselines:
                found.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in found.items()}


@dataclass(frozen=True)
class _Run:
    folder: Path
    config: dict[str, Any]
    manifest: dict[str, Any]
    results: dict[str, Any]


def run_folders(directory: Path) -> list[Path]:
    """The run folders directly under `directory`, by name. Raises ValueError when there is none."""
    folders = sorted(path.parent for path in directory.glob("*/config.yaml"))
    if not folders:
        raise ValueError(f"{directory} holds no run folder; give the folder of your runs, e.g. runs=runs")
    return folders


def compare(folders: list[Path], points: tuple[SweepJob, ...] = ()) -> Comparison:
    """Read config, manifest and results of every folder; average over seeds.

    A folder without results, or that repeats a seed of the same setting, is left out and named, unless the points of
    the multirun (sweep_state.read_jobs) say already why it is not finished.
    """
    explained = {point.name for point in points if point.state != "done"}
    groups: dict[tuple[str, str], dict[str, dict[int, _Run]]] = {}
    left_out: dict[str, str] = {}
    for folder in folders:
        if (fault := damage(folder)) is not None:  # of one run: no reason to report nothing of the others
            left_out[folder.name] = fault
            continue
        config, manifest, results = read_config(folder), read_manifest(folder), read_results(folder)
        if config is None or manifest is None or results is None:
            if folder.name not in explained:
                left_out[folder.name] = NOT_FINISHED
            continue
        settings = groups.setdefault((_benchmark(config, results), manifest["data_hash"]), {})
        runs = settings.setdefault(json.dumps(setting_of(config), sort_keys=True), {})
        seed = int(config["seed"])
        if seed in runs:
            left_out[folder.name] = f"same setting and seed as {runs[seed].folder.name}"
        else:
            runs[seed] = _Run(folder, config, manifest, results)
    rows = []
    for group, settings in groups.items():
        words = others([setting_of(next(iter(runs.values())).config) for runs in settings.values()])
        rows += [_row(runs, other, group) for runs, other in zip(settings.values(), words, strict=True)]
    rows.sort(key=lambda row: (-row.ratio, row.label))
    return Comparison(tuple(rows), left_out, points)


def _benchmark(config: dict[str, Any], results: dict[str, Any]) -> str:
    """The hash of the benchmark's content; of runs before it was kept, of what the config says."""
    asked = json.dumps(config.get("benchmark"), sort_keys=True)
    return str(results.get("benchmark_hash") or hashlib.sha256(asked.encode()).hexdigest())


def mean_over_seeds(values: list[float]) -> Estimate:
    """Mean and 95 % interval mean -/+ t sd / sqrt(n) over n seeds; of two seeds the two values, of one nothing more."""
    mean = float(np.mean(values))
    if len(values) < FEWEST:
        return Estimate(mean, each=tuple(values) if len(values) > 1 else ())
    half = half_width(values)
    return Estimate(mean, mean - half, mean + half)


def _row(runs: dict[int, _Run], other: str, group: tuple[str, str]) -> Row:
    first = next(iter(runs.values()))
    selector = first.config["selector"]
    kept = [run.manifest["totals"]["kept"]["rollouts"] for run in runs.values()]
    candidates = [run.manifest["totals"]["eligible"]["rollouts"] for run in runs.values()]
    name = tables.component(first.config, "selector")
    asked = None if name == "Full" or selector.get("count") is not None else selector.get("ratio")
    results = [run.results for run in runs.values()]
    return Row(
        selector=name,
        alpha=selector.get("alpha"),
        ratio=sum(kept) / max(sum(candidates), 1) if asked is None else asked,
        other=other,
        kept=float(np.mean(kept)),
        seeds=tuple(sorted(runs)),
        folders=tuple(runs[seed].folder for seed in sorted(runs)),
        auc=_mean([tables.auc(result) for result in results]),
        f1_fixed=_mean([tables.overall(result, "fixed") for result in results]),
        f1_calibrated=_mean([tables.overall(result, "calibrated") for result in results]),
        f1_oracle=_mean([tables.overall(result, "oracle") for result in results]),
        published=published_f1(first.config),
        group=group,
        baselines=_mean_baselines(results),
    )


def _mean(numbers: list[Estimate | None]) -> Estimate | None:
    values = [number.value for number in numbers if number is not None]
    return mean_over_seeds(values) if len(values) == len(numbers) else None


def _mean_baselines(results: list[dict[str, Any]]) -> tuple[tuple[str, float], ...]:
    found = [tables.baseline_f1(result) for result in results]
    names = [name for name in tables.BASELINES.values() if all(name in one for one in found)]
    return tuple((name, float(np.mean([one[name] for one in found]))) for name in names)


def comparison_table(comparison: Comparison) -> Table:
    """The comparison as texts, for terminal, Markdown and HTML alike."""
    published = any(row.published is not None for row in comparison.rows)
    rows = []
    for row in comparison.rows:
        numbers = [
            row.auc.fraction() if row.auc else "-",
            *(number.points() if number else "-" for number in (row.f1_fixed, row.f1_calibrated)),
        ]
        if published:
            numbers.append(row.f1_oracle.points() if row.f1_oracle else "-")
            numbers.append("-" if row.published is None else f"{100 * row.published:.2f}")
        rows.append((row.label, f"{row.kept:,.0f}", str(len(row.seeds)), *numbers))
    columns = ("selector", "rollouts", "seeds", *MEASURES.values(), *(PUBLISHED_COLUMNS if published else ()))
    for name, value in comparison.baselines.items():
        place = columns.index(MEASURES["f1_fixed" if name == tables.BASELINES["majority"] else "f1_calibrated"])
        cells = ["-"] * len(columns)
        cells[0], cells[place] = f"baseline: {name}", f"{100 * value:.1f}"
        rows.append(tuple(cells))
    note = (
        "F1: mean of the sources' macro-F1, weighted by labelled steps, in points; calibrated: at the threshold chosen "
        "on held-out training questions. Square brackets: 95 % t-interval over seeds; round ones: the values of two."
    )
    return Table("Comparison of selectors", columns, tuple(rows), f"{note} {PUBLISHED_NOTE}" if published else note)


def left_out_lines(comparison: Comparison) -> list[str]:
    """What was left out, for a reader: one line per reason, which names at most three folders."""
    folders: dict[str, list[str]] = {}
    for name, reason in comparison.left_out.items():
        folders.setdefault(reason, []).append(name)
    return [
        ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") + f" ({reason})"
        for reason, names in folders.items()
    ]


def as_markdown(table: Table) -> str:
    """A table as Markdown."""
    lines = [f"| {' | '.join(table.columns)} |", f"|{' --- |' + ' ---: |' * (len(table.columns) - 1)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in table.rows]
    return "\n".join([*lines, "", table.note, ""])


def as_csv(comparison: Comparison) -> str:
    """All rows with unrounded numbers; an absent one is an empty cell. Published values only where there are any."""
    published = any(row.published is not None for row in comparison.rows)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    measures = [*MEASURES, "f1_oracle"] if published else [*MEASURES]
    ends = [f"{name}_{end}" for name in measures for end in ("mean", "low", "high")]
    names = ["benchmark", "annotations", "selector", "alpha", "ratio", "other", "kept", "n_seeds", "seeds", *ends]
    writer.writerow([*names, "published_f1"] if published else names)
    for row in comparison.rows:
        cells: list[float | None] = []
        for number in (getattr(row, name) for name in measures):
            cells += [number.value, number.low, number.high] if number else [None, None, None]
        if published:
            cells.append(row.published)
        seeds = " ".join(map(str, row.seeds))
        setting = [*(content[:8] for content in row.group), row.selector, row.alpha]
        writer.writerow([*setting, row.ratio, row.other, row.kept, len(row.seeds), seeds, *cells])
    return buffer.getvalue()
