"""Compare many runs: group them by everything but the seed, and average over seeds."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mprm.reporting import tables
from mprm.reporting.collect import read_config, read_manifest, read_results
from mprm.reporting.tables import Estimate, Table
from mprm.run_folder import NOT_IN_HASH

# 97.5 % quantiles of Student's t for 1, 2, 3, ... degrees of freedom; beyond 30 the normal one is within 4 %.
T_QUANTILES = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)
NORMAL_QUANTILE = 1.9600

MEASURES = {"auc": "AUC", "f1_fixed": "F1 at 0.5", "f1_calibrated": "F1 calibrated"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting, averaged over its seeds. An Estimate without interval comes from a single seed."""

    selector: str
    alpha: float | None
    ratio: float  # asked for where the config says so, else realised
    other: str  # what else tells this row from the others, e.g. "objective._target_=Soft"
    kept: float  # rollouts, mean over seeds
    seeds: tuple[int, ...]
    auc: Estimate | None
    f1_fixed: Estimate | None
    f1_calibrated: Estimate | None

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
    """rows: one per setting. baselines: overall macro-F1, mean of all runs. left_out: folder name -> reason."""

    rows: tuple[Row, ...]
    baselines: dict[str, float]
    left_out: dict[str, str]


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


def compare(folders: list[Path]) -> Comparison:
    """Read config, manifest and results of every folder; average over seeds with 95 % t-intervals.

    A folder without results, or that repeats a seed of the same setting, is left out and named.
    """
    groups: dict[str, dict[int, _Run]] = {}
    left_out: dict[str, str] = {}
    for folder in folders:
        config, manifest, results = read_config(folder), read_manifest(folder), read_results(folder)
        if config is None or manifest is None or results is None:
            left_out[folder.name] = "not finished: no results.json yet"
            continue
        runs = groups.setdefault(json.dumps(dict(_setting(config)), sort_keys=True), {})
        seed = int(config["seed"])
        if seed in runs:
            left_out[folder.name] = f"same setting and seed as {runs[seed].folder.name}"
        else:
            runs[seed] = _Run(folder, config, manifest, results)
    others = _others([dict(_setting(next(iter(runs.values())).config)) for runs in groups.values()])
    rows = [_row(runs, other) for runs, other in zip(groups.values(), others, strict=True)]
    results_of_all = [run.results for runs in groups.values() for run in runs.values()]
    rows.sort(key=lambda row: (-row.ratio, row.label))
    return Comparison(tuple(rows), _mean_baselines(results_of_all), left_out)


def mean_over_seeds(values: list[float]) -> Estimate:
    """Mean and 95 % interval mean -/+ t sd / sqrt(n) over n seeds; no interval for one."""
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Estimate(mean)
    quantile = T_QUANTILES[n - 2] if n - 2 < len(T_QUANTILES) else NORMAL_QUANTILE
    half = quantile * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half)


def _row(runs: dict[int, _Run], other: str) -> Row:
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
        auc=_mean([tables.auc(result) for result in results]),
        f1_fixed=_mean([tables.overall(result, "fixed") for result in results]),
        f1_calibrated=_mean([tables.overall(result, "calibrated") for result in results]),
    )


def _mean(numbers: list[Estimate | None]) -> Estimate | None:
    values = [number.value for number in numbers if number is not None]
    return mean_over_seeds(values) if len(values) == len(numbers) else None


def _mean_baselines(results: list[dict[str, Any]]) -> dict[str, float]:
    found = [tables.baseline_f1(result) for result in results]
    names = [name for name in tables.BASELINES.values() if any(name in one for one in found)]
    return {name: float(np.mean([one[name] for one in found if name in one])) for name in names}


def _setting(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of the config by dotted key, without the seed of the run and what does not change results."""
    if isinstance(node, dict):
        for name, child in node.items():
            path = f"{key}.{name}" if key else str(name)
            # The seed of a dataset or benchmark says which data, every other one follows the seed of the run.
            follows_seed = name == "seed" and key not in ("dataset", "benchmark")
            if path not in NOT_IN_HASH and not follows_seed:
                yield from _setting(child, path)
    else:
        yield key, node


def _others(settings: list[dict[str, Any]]) -> list[str]:
    """What tells the settings apart beside the selector's own fields, in words, one text per setting."""
    shown = ("selector._target_", "selector.alpha", "selector.ratio", "selector.count")
    keys = sorted({key for setting in settings for key in setting if not key.startswith("selector.")})
    keys += sorted({key for setting in settings for key in setting if key.startswith("selector.")} - set(shown))
    varied = [key for key in keys if len({json.dumps(setting.get(key)) for setting in settings if key in setting}) > 1]
    # Another class brings other fields with it: its name says enough.
    classes = {key.removesuffix("._target_") for key in varied if key.endswith("._target_")}
    varied = [key for key in varied if key.endswith("._target_") or key.split(".")[0] not in classes]
    return [", ".join(_assignment(key, setting[key]) for key in varied if key in setting) for setting in settings]


def _assignment(key: str, value: Any) -> str:
    if key.endswith("._target_"):
        return f"{key.removesuffix('._target_')} {str(value).rsplit('.', 1)[-1]}"
    return f"{key}={value}"


def comparison_table(comparison: Comparison) -> Table:
    """The comparison as texts, for terminal, Markdown and HTML alike."""
    rows = []
    for row in comparison.rows:
        numbers = [
            row.auc.fraction() if row.auc else "-",
            row.f1_fixed.points() if row.f1_fixed else "-",
            row.f1_calibrated.points() if row.f1_calibrated else "-",
        ]
        rows.append((row.label, f"{row.kept:,.0f}", str(len(row.seeds)), *numbers))
    rows += [
        (f"baseline: {name}", "-", "-", "-", "-", f"{100 * value:.1f}") for name, value in comparison.baselines.items()
    ]
    note = (
        "F1: mean of the sources' macro-F1, weighted by labelled steps, in points; calibrated: at the threshold chosen "
        "on held-out training questions. Brackets: 95 % t-interval over seeds; one seed has none."
    )
    columns = ("selector", "rollouts", "seeds", *MEASURES.values())
    return Table("Comparison of selectors", columns, tuple(rows), note)


def as_markdown(table: Table) -> str:
    """A table as Markdown."""
    lines = [f"| {' | '.join(table.columns)} |", f"|{' --- |' + ' ---: |' * (len(table.columns) - 1)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in table.rows]
    return "\n".join([*lines, "", table.note, ""])


def as_csv(comparison: Comparison) -> str:
    """All rows with unrounded numbers; an absent one is an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    ends = [f"{name}_{end}" for name in MEASURES for end in ("mean", "low", "high")]
    writer.writerow(["selector", "alpha", "ratio", "other", "kept", "n_seeds", "seeds", *ends])
    for row in comparison.rows:
        cells: list[float | None] = []
        for number in (row.auc, row.f1_fixed, row.f1_calibrated):
            cells += [number.value, number.low, number.high] if number else [None, None, None]
        seeds = " ".join(map(str, row.seeds))
        writer.writerow([row.selector, row.alpha, row.ratio, row.other, row.kept, len(row.seeds), seeds, *cells])
    return buffer.getvalue()
