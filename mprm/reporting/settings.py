"""Finished runs by setting: the runs of one setting differ in their seed alone.

Settings that were measured on the same content make a group: they are compared with each other, and with nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mprm.metrics.estimate import Estimate, OverSeeds, Resampled, over_items, over_seeds
from mprm.metrics.results import BestOfNResults, Curation, JudgeResults, Results, StepResults, read_results
from mprm.reporting.apart import others, setting_of
from mprm.reporting.kinds import KINDS, Kind, Measured, measured
from mprm.reporting.plots import Measure
from mprm.reporting.run_record import check_whole, read_config, read_json_object, read_manifest
from mprm.runs.artifacts import MODEL_FILE
from mprm.runs.journal import SweepJob
from mprm.runs.manifest import Chosen

SOURCE = "source/"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a run kept, and by which selector; the label is '' where there is none."""

    name: str = ""  # of the selector's class; settings that share it look alike
    label: str = ""  # what the selector calls itself, e.g. 'BIS (alpha 0.2)'
    baseline: bool = False  # do others measure themselves against it?
    fields: Mapping[str, float] = field(default_factory=dict)  # the numbers among its settings, without the share kept
    kept: int = 0  # rollouts or pairs
    eligible: int = 0
    data_hash: str = ""  # of the annotations


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One finished run; of best-of-N one of the models that chose."""

    folder: Path  # of results.json
    name: str  # of the run's folder, or of the model
    trained: Path  # the run's folder, or that of the run which made the model
    config: dict[str, Any]  # {} for a model that no run made, which may have options
    options: dict[str, Any] = field(default_factory=dict)
    results: Results
    measured: Measured
    selection: Selection

    @property
    def seed(self) -> int:
        return int(self.config.get("seed", 0))

    @cached_property
    def setting(self) -> dict[str, Any]:
        """Leaves of the config that make the run what it is, without its seed."""
        return setting_of(self.config) or {"model": self.name} | {f"model.{k}": v for k, v in self.options.items()}

    @cached_property
    def numbers(self) -> dict[str, Estimate]:
        """With intervals for this training, by the key of the measure."""
        return {
            key: over_items(one.values_B, len(one.items), one.bounds) if isinstance(one, Resampled) else one
            for key, one in self.measured.numbers.items()
        }

    @property
    def items(self) -> list[tuple[tuple[str, object], ...]]:
        """What every number was measured on."""
        return [one.items for one in self.measured.numbers.values() if isinstance(one, Resampled)]

    @property
    def ratio(self) -> float | None:
        """Share of the rollouts or pairs kept: as asked for where the config says so, else as it came out."""
        asked: float | None = (self.config.get("selector") or {}).get("ratio")
        kept, eligible = self.selection.kept, self.selection.eligible
        return None if not eligible else kept / eligible if asked is None else asked


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """Runs that differ in their seed alone, in the order of their seeds."""

    runs: tuple[Run, ...]
    other: str = ""  # what sets it apart beside selector and share kept, in words

    @property
    def selection(self) -> Selection:
        return self.runs[0].selection

    @property
    def n_items(self) -> int:
        """Of the benchmark, that were scored; 0 where no number is known of each."""
        return max(map(len, self.runs[0].items), default=0)

    @property
    def ratio(self) -> float | None:
        return self.runs[0].ratio

    @property
    def keeps_all(self) -> bool:
        """Is it the baseline that keeps everything?"""
        return self.selection.baseline and self.ratio == 1

    @property
    def line(self) -> str:
        """What stays the same along a curve over ratios."""
        return ", ".join(part for part in (self.selection.label, self.other) if part)

    @property
    def label(self) -> str:
        share = "" if self.ratio is None or self.keeps_all else f"{100 * self.ratio:.3g} %"
        return ", ".join(part for part in (self.selection.label, share, self.other) if part)

    @property
    def kept(self) -> float:  # rollouts or pairs, mean over the runs
        return float(np.mean([run.selection.kept for run in self.runs]))

    @cached_property
    def numbers(self) -> dict[str, OverSeeds]:
        """The numbers that all runs have, averaged; a mean of what is not known of single items has no interval."""
        found = {}
        for key in self.runs[0].numbers:
            of_seeds = {run.seed: run.numbers[key] for run in self.runs if key in run.numbers}
            measured = ((run.seed, run.measured.numbers.get(key)) for run in self.runs)
            resampled = {seed: one for seed, one in measured if isinstance(one, Resampled)}
            if len(resampled) == len(self.runs):
                found[key] = over_seeds(resampled)
            elif len(of_seeds) == len(self.runs):
                values, one = {seed: one.value for seed, one in of_seeds.items()}, self.runs[0].numbers[key]
                ends = (one.low, one.high) if len(values) == 1 else (None, None)
                found[key] = OverSeeds(float(np.mean([*values.values()])), *ends, by_seed=values)
        return found

    @property
    def sources(self) -> dict[str, OverSeeds]:  # of the benchmark
        return {key.removeprefix(SOURCE): one for key, one in self.numbers.items() if key.startswith(SOURCE)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Settings that can be compared: of one kind, measured on the same content."""

    kind: Kind
    content: Mapping[str, str]  # what they share: its name -> its hash
    settings: tuple[Setting, ...]
    words: str = ""  # what they share, where there are other groups

    @property
    def n_runs(self) -> int:
        return sum(len(setting.runs) for setting in self.settings)

    @cached_property
    def measures(self) -> list[Measure]:  # the main one first
        return self.present(self.kind.measures)[: self.kind.shown]

    def present(self, measures: Sequence[Measure]) -> list[Measure]:
        """Those of which a setting has the number."""
        return [one for one in measures if any(one.key in setting.numbers for setting in self.settings)]

    def ranked(self, measure: Measure) -> list[Setting]:
        """The settings that have the number, the highest mean first."""
        rated = [setting for setting in self.settings if measure.key in setting.numbers]
        return sorted(rated, key=lambda setting: -setting.numbers[measure.key].value)

    def references(self, measure: Measure) -> dict[str, float]:
        """What to compare the numbers with, by name: the mean of the runs."""
        runs = [run for setting in self.settings for run in setting.runs]
        found = [run.measured.references.get(measure.key, {}) for run in runs]
        return {name: float(np.mean([one[name] for one in found if name in one])) for one in found for name in one}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Many runs side by side."""

    groups: tuple[Group, ...] = ()  # most runs first
    left_out: Mapping[str, str] = field(default_factory=dict)  # folder -> reason
    jobs: tuple[SweepJob, ...] = ()  # of the sweep that made the runs


def compare(folders: Sequence[Path], jobs: tuple[SweepJob, ...] = ()) -> Comparison:
    """Read the runs and group them.

    A folder without results, or that repeats a seed of the same setting, is left out and named, unless the jobs of
    the sweep (journal.read_jobs) say already why it is not finished.
    """
    explained = {job.name for job in jobs if job.state != "done"}
    left_out: dict[str, str] = {}
    groups: dict[tuple[str, str, str], dict[str, dict[int, Run]]] = {}
    for folder in folders:
        try:
            runs = read_runs(folder)
        except ValueError as error:  # of one run: no reason to report nothing of the others
            left_out[folder.name] = str(error)
            continue
        if not runs and folder.name not in explained:
            left_out[folder.name] = "not finished: no results.json yet"
        for run in runs:
            group = run.results.kind, json.dumps(run.measured.content), run.selection.data_hash
            seeds = groups.setdefault(group, {}).setdefault(json.dumps(run.setting, sort_keys=True), {})
            name = folder.name if run.name == folder.name else f"{folder.name}/{run.name}"
            if run.seed in seeds:
                left_out[name] = f"same setting and seed as {seeds[run.seed].name}"
            elif seeds and (other := next(iter(seeds.values()))).items != run.items:
                left_out[name] = (
                    f"what it was measured on, or its labels, differ from {other.name}'s, of the same setting"
                )
            else:
                seeds[run.seed] = run
    for key, others_models in list(groups.items()):  # of no annotations: they are compared with all that were trained
        if hosts := [one for one in groups if one[:2] == key[:2] and one[2] and not key[2]]:
            del groups[key]
            for host in hosts:
                groups[host] |= others_models
    found = [_group([tuple(seeds[seed] for seed in sorted(seeds)) for seeds in of.values()]) for of in groups.values()]
    found.sort(key=lambda group: -group.n_runs)
    if len(found) == 1:
        found = [replace(found[0], words="")]
    return Comparison(groups=tuple(found), left_out=left_out, jobs=jobs)


def _group(settings: list[tuple[Run, ...]]) -> Group:
    words = others([runs[0].setting for runs in settings], [runs[0].selection.label for runs in settings])
    named = [Setting(runs=runs, other=other) for runs, other in zip(settings, words, strict=True)]
    named.sort(key=lambda setting: (-(setting.ratio or 0), setting.label))
    first = settings[0][0]
    kind, content = KINDS[first.results.kind], first.measured.content
    if first.selection.data_hash:
        content = content | {"annotations": first.selection.data_hash}
    shared = ", ".join(f"{name} {value[:8]}" for name, value in content.items())
    return Group(kind=kind, content=content, settings=tuple(named), words=f"{kind.title}: {shared}")


def read_runs(folder: Path) -> list[Run]:
    """The run in a folder, or the models of a best-of-N result; [] where it has not finished.

    Raises ValueError when a file that reports read is damaged or of an earlier version.
    """
    check_whole(folder)
    if not (folder / "results.json").exists():
        return []
    results = read_results(folder / "results.json")
    evaluation = read_json_object(folder / MODEL_FILE)  # None of a run, which has trained what it measured
    model = evaluation or {"name": folder.name, "run": str(folder), "options": {}}
    trained = results.runs if isinstance(results, BestOfNResults) else {model["name"]: model["run"]}
    runs = []
    for name, path in trained.items():
        made_by = folder if path is None else Path(path)
        if not made_by.is_dir():  # the runs were moved together
            made_by = folder.parent / made_by.name
        config = read_config(made_by) or {}
        if config and evaluation is not None:  # the training's own benchmark says nothing here
            config |= {"benchmark": evaluation.get("benchmark", {})}
        runs.append(
            Run(
                folder=folder,
                name=name,
                trained=made_by,
                config=config,
                results=results,
                options=model["options"],
                measured=measured(folder, results, name, made_by),
                selection=_selection(name, made_by, results),
            )
        )
    return runs


def _selection(name: str, trained: Path, results: Results) -> Selection:
    """What the selection recorded; name: of a model that no run made."""
    data_hash = ""
    if isinstance(results, JudgeResults):
        if results.curation is None:
            return Selection(label="reward model" if "reward_model" in results.judges else "no curation")
        chosen: Curation | Chosen = results.curation
        selector, kept, eligible = results.curation.selector, results.curation.kept, results.curation.eligible
    elif manifest := read_manifest(trained):
        chosen, selector = manifest.selector, manifest.selector.name
        kept, eligible = manifest.totals.kept.rollouts, manifest.totals.eligible.rollouts
        if isinstance(results, StepResults):  # those that learned from other annotations are not compared
            data_hash = manifest.data_hash
    else:
        return Selection(name=name, label=name)
    numbers = {key: value for key, value in chosen.settings.items() if isinstance(value, int | float)}
    return Selection(
        name=selector,
        label=chosen.label,
        baseline=chosen.baseline,
        fields={key: value for key, value in numbers.items() if key not in ("ratio", "count", "seed")},
        kept=kept,
        eligible=eligible,
        data_hash=data_hash,
    )
