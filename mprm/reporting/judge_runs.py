"""Runs of judges side by side: grouped by everything but the seed, and averaged over seeds."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mprm.reporting.collect import damage, read_config
from mprm.reporting.compare import NOT_FINISHED, mean_over_seeds, run_folders
from mprm.reporting.judge_words import STAGES, Results, judges
from mprm.reporting.old_layout import read_before
from mprm.reporting.settings import others, setting_of
from mprm.reporting.tables import component
from mprm.runs.artifacts import redo_remedy
from mprm.runs.sweep_state import SweepJob, read_jobs
from mprm.tasks import JUDGE_TASKS

Number = dict[str, Any]  # value, low, high, or each instead of an interval: what an Estimate holds


@dataclass(frozen=True)
class JudgeRun:
    """One finished run of a judge."""

    folder: Path
    config: dict[str, Any]
    results: Results

    @cached_property
    def setting(self) -> dict[str, Any]:
        """Leaves of the config that make the run what it is, without its seed."""
        return setting_of(self.config)

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def selector(self) -> str:
        return component(self.config, "selector")

    @property
    def benchmark(self) -> str:
        """What it was measured on: the hash of the pairs; of older runs path and number; "" where it was on none."""
        pairs = next((one["pairs"] for one in judges(self.results).values()), None)
        named = f"{self.results.get('reward_benchmark')}, {pairs} pairs"
        return "" if pairs is None else str(self.results.get("reward_benchmark_hash") or named)

    @property
    def curation(self) -> dict[str, Any]:
        """What was kept; {} where nothing has been chosen."""
        return self.results.get("curation") or {}

    @property
    def flipped(self) -> dict[str, Any]:
        """Wrong labels among the kept and at random; {} where they are not known."""
        return self.curation.get("flipped") or {}

    @property
    def ratio(self) -> float | None:
        """Share of the pairs kept: as asked for where the config says so, else as it came out."""
        if not self.curation:
            return None
        asked = self.config["selector"].get("ratio")  # null where a number of pairs is asked for
        if asked is None or self.selector == "Full":
            return float(self.curation["kept"] / max(self.curation["eligible"], 1))
        return float(asked)

    def accuracy(self, stage: str) -> Number | None:
        """On the benchmark after a stage, with the interval over its pairs."""
        judge = judges(self.results).get(stage)
        return judge["accuracy"] if judge else None

    @property
    def gain(self) -> Number | None:
        """Accuracy after RL minus that after SFT, paired."""
        found: Number | None = self.results.get("differences", {}).get("rl - sft")
        return found


@dataclass(frozen=True)
class JudgeRow:
    """One setting: its runs, one per seed. Numbers are means over the seeds (mean_over_seeds); of one seed its own."""

    label: str
    runs: tuple[JudgeRun, ...]

    def accuracy(self, stage: str) -> Number | None:
        return over_seeds([run.accuracy(stage) for run in self.runs])

    @property
    def gain(self) -> Number | None:
        return over_seeds([run.gain for run in self.runs])


@dataclass(frozen=True, kw_only=True)
class JudgeComparison:
    """rows: one per setting, the highest accuracy at `stage` first. stage: the last one that a row was measured after.
    left_out: folder name -> reason. points: of the multirun. others: the folders of runs that are not of judges. words:
    of a group, what its rows share, where there are several."""

    rows: tuple[JudgeRow, ...]
    stage: str
    left_out: dict[str, str]
    points: tuple[SweepJob, ...]
    others: tuple[Path, ...]
    words: str = ""

    @property
    def groups(self) -> list[JudgeComparison]:
        """The rows that can be compared with each other, those of the same benchmark; most runs first."""
        found: dict[str, list[JudgeRow]] = {}
        for row in self.rows:
            found.setdefault(row.runs[0].benchmark, []).append(row)
        if len(found) < 2:
            return [self]
        groups = sorted(found.items(), key=lambda item: -sum(len(row.runs) for row in item[1]))
        words = {
            name: f"benchmark {name[:8] if ' ' not in name else name}" if name else "not measured" for name in found
        }
        return [replace(self, **_ranked(rows), words=words[name]) for name, rows in groups]


def over_seeds(numbers: list[Number | None]) -> Number | None:
    """Mean over several seeds; of one seed the number itself with its interval, None where a seed has none."""
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        return None
    return known[0] if len(known) == 1 else mean_of([number["value"] for number in known])


def mean_of(values: list[float]) -> Number:
    """The mean of two numbers or more with its 95 % t-interval; of two with the two."""
    return asdict(mean_over_seeds(values))


def compare_judges(runs: Path, folders: list[Path] | None = None) -> JudgeComparison | None:
    """Read the runs of judges below `runs`, or those of its `folders`; None where there are none.

    A folder without results, or that repeats a seed of the same setting, is left out and named, unless the points of
    the multirun say already why it is not finished.
    """
    configs = {folder: None if damage(folder) else read_config(folder) for folder in folders or run_folders(runs)}
    ours = {folder: config for folder, config in configs.items() if config and config.get("task") in JUDGE_TASKS}
    if not ours:
        return None
    names = {folder.name for folder in ours}
    known = tuple(point for point in read_jobs(runs) if len(ours) == len(configs) or point.name in names)
    explained = {point.name for point in known if point.state != "done"}
    groups: dict[str, dict[str, dict[int, JudgeRun]]] = {}
    left_out: dict[str, str] = {}
    for folder, config in ours.items():
        path = folder / "results.json"
        results = read_before(path, redo_remedy("judge")) if path.exists() else None
        if results is None:
            if folder.name not in explained:
                left_out[folder.name] = NOT_FINISHED
            continue
        run = JudgeRun(folder, config, results)
        same = groups.setdefault(run.benchmark, {}).setdefault(json.dumps(run.setting, sort_keys=True), {})
        if run.seed in same:
            left_out[folder.name] = f"same setting and seed as {same[run.seed].folder.name}"
        else:
            same[run.seed] = run
    rows = []
    for settings in groups.values():
        rows += _rows([tuple(of_seed[seed] for seed in sorted(of_seed)) for of_seed in settings.values()])
    strangers = tuple(folder for folder in configs if folder not in ours)
    return JudgeComparison(**_ranked(rows), left_out=left_out, points=known, others=strangers)


def _ranked(rows: list[JudgeRow]) -> dict[str, Any]:
    """The last stage that a row was measured after, and the rows by their accuracy there."""
    stage = next((one for one in reversed(STAGES) if any(row.accuracy(one) for row in rows)), "untrained")
    rows = sorted(rows, key=lambda row: (-(number["value"] if (number := row.accuracy(stage)) else -1), row.label))
    return {"stage": stage, "rows": tuple(rows)}


def _rows(settings: list[tuple[JudgeRun, ...]]) -> list[JudgeRow]:
    words = others([runs[0].setting for runs in settings])
    return [JudgeRow(_label(runs[0], other), runs) for runs, other in zip(settings, words, strict=True)]


def _label(run: JudgeRun, other: str) -> str:
    chosen = run.selector if run.ratio is not None else "no curation"
    share = f"{100 * run.ratio:.3g} %" if run.ratio is not None and run.selector != "Full" else ""
    return ", ".join(part for part in (chosen, share, other) if part)
