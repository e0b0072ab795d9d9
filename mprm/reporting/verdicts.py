"""Is the difference real? The pairs of settings that are compared, the answers in words, and the published numbers."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

from mprm.metrics.estimate import FEWEST, Difference, Resampled, difference
from mprm.reporting.kinds import resampled
from mprm.reporting.plots import Measure
from mprm.reporting.report import Table
from mprm.reporting.settings import Group, Run, Setting

RELATIONS = {"better": "better than", "worse": "worse than", "not distinguishable": "not distinguishable from"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """Is setting a better than setting b?"""

    a: Setting
    b: Setting
    best: bool = False  # has a the highest mean of all?
    said: bool = True  # is the answer put into words on the page? The table has it in any case
    among: int = 1  # settings that a was chosen from as the best; 1 where it was not, or where that was said before


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """The answer to a question."""

    question: Question
    outcome: str  # in the main measure
    words: str  # a sentence or two
    differences: dict[str, Difference]  # by measure, a minus b; {} where the two cannot be compared


def verdicts_of(group: Group) -> list[Verdict]:
    """Answer the questions that a group raises; a pair that cannot be compared is answered with the reason."""

    @cache  # a run takes part in several pairs
    def measures_of(run: Run) -> dict[str, Resampled]:
        return resampled(run.folder, run.results, run.name)

    return [verdict(question, group.measures, measures_of) for question in questions(group)]


def questions(group: Group) -> list[Question]:
    """The pairs worth asking about; no pair is asked about twice.

    First the setting of the highest mean against the second. Then, among settings that differ only in selector and
    share kept, the best selection against the baseline of its share and against the baseline that keeps everything, and
    every other selection against the baseline of its share. Last, settings that differ in one other group of the
    configuration only.
    """
    ranked = group.ranked(group.measures[0]) if group.measures else []
    asked: list[Question] = []

    def ask(a: Setting, b: Setting | None, *, best: bool = False, said: bool = True, among: int = 1) -> None:
        if b is None or b is a or any({question.a, question.b} == {a, b} for question in asked):
            return
        known = any(question.a is a for question in asked)
        asked.append(Question(a=a, b=b, best=best, said=said, among=1 if known else among))

    if len(ranked) > 1:
        ask(ranked[0], ranked[1], best=True, among=len(ranked))
    blocks = [[one for one in ranked if one.other == other] for other in dict.fromkeys(one.other for one in ranked)]
    for block in blocks:
        selections = [one for one in block if not one.selection.baseline]
        first = (selections or block)[0]
        ask(first, _baseline(first, block), among=len(selections))
        ask(first, next((one for one in block if one.keeps_all), None), among=len(selections))
    for block in blocks:
        for one in block:
            if not one.selection.baseline:
                ask(one, _baseline(one, block), said=False)
    for a, b in combinations(ranked, 2):
        if _differ_in_one(a, b):
            ask(a, b, said=False)
    return asked


def _baseline(setting: Setting, block: Sequence[Setting]) -> Setting | None:
    """The baseline that keeps the same share, not everything; a count's share differs in the last digits."""
    baselines = [one for one in block if one.selection.baseline and not one.keeps_all]
    return next((one for one in baselines if math.isclose(one.ratio or 0, setting.ratio or 0, rel_tol=1e-3)), None)


def _differ_in_one(a: Setting, b: Setting) -> bool:
    """Do they differ in one group of the configuration, which is not the selector's?"""
    one, other = a.runs[0].setting, b.runs[0].setting
    groups = {key.split(".")[0] for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    return len(groups - {"recipe"} or groups) == 1 and not groups & {"selector", "model"}


def verdict(
    question: Question, measures: Sequence[Measure], measures_of: Callable[[Run], dict[str, Resampled]]
) -> Verdict:
    """Compare the two settings in every measure that all their runs have, the main one first, and say the outcome."""
    a, b = question.a, question.b
    found: dict[str, Difference] = {}
    try:
        of_a, of_b = ({run.seed: measures_of(run) for run in setting.runs} for setting in (a, b))
        for key in (measure.key for measure in measures):
            if all(key in run for run in [*of_a.values(), *of_b.values()]):
                by_seed = ({seed: run[key] for seed, run in of.items()} for of in (of_a, of_b))
                found[key] = difference(key, *by_seed)
        if not found:
            raise ValueError("they have no measure in common")
    except ValueError as error:
        words = f"{a.label} and {b.label} cannot be compared: {error}"
        return Verdict(question=question, outcome="not comparable", words=words, differences={})
    (main, first), *rest = [(measure, found[measure.key]) for measure in measures if measure.key in found]
    begin = f"{a.label} is {RELATIONS[outcome(first)]} {b.label}"
    if question.best:
        highest = f"{a.label} has the highest mean {main.name}, {main.text(a.numbers[main.key].value)}"
        begin = f"{highest}. It is {RELATIONS[outcome(first)]} the second, {b.label}"
    seeds = f"{len(first.by_seed)} seed{'s' if len(first.by_seed) > 1 else ''}"
    if len(first.by_seed) == 2:
        seeds += f" ({', '.join(f'{main.scale * one:+{main.form}}' for one in first.by_seed.values())})"
    numbers = [f"{main.name} {numbers_of(first, main)}, {seeds}"]
    numbers += [f"{measure.name} {numbers_of(one, measure)}, {outcome(one)}" for measure, one in rest]
    words = f"{begin}: {'; '.join(numbers)}"
    if question.among > 1:
        words += f". Chosen as the best of {question.among} on these very numbers, so they flatter it"
    if len(first.by_seed) < FEWEST:
        words += " (the interval is over the benchmark: it holds for these trainings only)"
    return Verdict(question=question, outcome=outcome(first), words=words, differences=found)


def outcome(difference: Difference) -> str:
    """A key of RELATIONS: better or worse where the interval leaves out 0."""
    return "better" if difference.above(0) else "worse" if difference.below(0) else "not distinguishable"


def numbers_of(difference: Difference, measure: Measure) -> str:
    """+0.012 [0.003, 0.020] for AUC, +1.2 [0.3, 2.0] in points for shares."""
    return difference.text(measure.scale, measure.form, "+")


def verdicts_table(verdicts: Sequence[Verdict], group: Group) -> Table:
    """One row per question: the two settings, and the outcome with the difference in every measure."""
    measures = [measure for measure in group.measures if any(measure.key in one.differences for one in verdicts)]
    rows = []
    for one in verdicts:
        found = [(measure, one.differences.get(measure.key)) for measure in measures]
        cells = ["-" if number is None else f"{outcome(number)}: {numbers_of(number, m)}" for m, number in found]
        seeds = str(len(next(iter(one.differences.values())).by_seed)) if one.differences else "-"
        rows.append((one.question.a.label, one.question.b.label, seeds, *cells))
    note = (
        "Setting minus the one it is compared with, shares in points: mean over the seeds that both have. Brackets: 95 "
        "%, from the seeds' paired differences (Student's t) and a bootstrap over the benchmark's "
        f"{group.kind.items} that draws the same ones for both; below three seeds from the bootstrap alone, so for "
        "these trainings only. Each pair is asked by itself: of twenty without a difference, one will seem to have one."
    )
    if any(one.question.among > 1 for one in verdicts):
        note += " The best setting was chosen on these very numbers, so they flatter it."
    columns = ("setting", "compared with", "seeds", *(measure.name for measure in measures))
    main = next((one.question.a.label for one in verdicts if one.question.best), "")
    return Table("Is the difference real?", columns, tuple(rows), note, main, "verdicts")


# ---- published numbers

# Overall macro-F1 (points) on VisualProcessBench in arXiv 2602.04145, of one training, without an interval, at the best
# threshold for the benchmark itself: only our F1 oracle compares with it. Of a line the other columns are what a config
# must have, a class or a number; what is empty may be anything (an alpha that was not published).
PUBLISHED = Path(__file__).with_name("published.csv")
DATA = {"dataset": "VisualPRM400K", "benchmark": "VisualProcessBench"}


def published_f1(config: Mapping[str, Any]) -> float | None:
    """The published F1, a fraction, of a run with this config; None where there is none.

    Seed, start weights and recipe are not compared, except that a recipe of 0 epochs is the untrained backbone.
    """

    def has(key: str, wanted: str) -> bool:
        group, _, name = key.partition(".")
        given = (config.get(group) or {}).get(name or "_target_")
        if name:
            return given is not None and math.isclose(given, float(wanted), abs_tol=1e-6)
        return str(given).rpartition(".")[2] == wanted

    objective = config.get("objective") or {}
    if objective.get("balance", "none") != "none" or objective.get("ignore"):
        return None
    for line in csv.DictReader(PUBLISHED.read_text(encoding="utf-8").splitlines()):
        f1 = float(line.pop("f1"))
        if all(has(key, wanted) for key, wanted in (DATA | line).items() if wanted):
            return f1 / 100
    return None
