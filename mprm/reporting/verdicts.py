"""Is the difference real? The pairs of settings that are compared, the answers in words, and the published numbers."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from mprm.metrics.estimate import FEWEST, OverSeeds, Resampled, difference
from mprm.reporting.plots import Measure
from mprm.reporting.report import Table
from mprm.reporting.settings import Group, Setting


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
    words: str  # a sentence or two
    differences: dict[str, OverSeeds]  # by measure, a minus b; {} where the two cannot be compared


def verdicts_of(group: Group) -> list[Verdict]:
    """Answer the questions that a group raises; a pair that cannot be compared is answered with the reason."""
    return [verdict(question, group.measures) for question in questions(group)]


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
                ask(one, _baseline(one, block), said=group.kind.arms)
    for a, b in combinations(ranked, 2):
        if _differ_in_one(a, b):
            ask(a, b, said=group.kind.arms)
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


def verdict(question: Question, measures: Sequence[Measure]) -> Verdict:
    """Compare the two settings in every measure that all their runs have, the main one first, and say the outcome."""
    a, b = question.a, question.b
    found: dict[str, OverSeeds] = {}
    try:
        for key in (measure.key for measure in measures):
            sides = [{run.seed: run.measured.numbers.get(key) for run in setting.runs} for setting in (a, b)]
            known = [{seed: one for seed, one in of.items() if isinstance(one, Resampled)} for of in sides]
            if list(map(len, known)) == list(map(len, sides)):
                found[key] = difference(*known)
        if not found:
            raise ValueError("they have no measure in common")
    except ValueError as error:
        words = f"{a.label} and {b.label} cannot be compared: {error}."
        return Verdict(question=question, words=words, differences={})
    shown = [(measure, found[measure.key]) for measure in measures if measure.key in found]
    main, first = shown[0]
    begin = f"{a.label} {_outcome(shown, b.label)}"
    if question.best:
        highest = f"{a.label} has the highest mean {main.name}, {main.text(a.numbers[main.key].value)}"
        begin = f"{highest}: it {_outcome(shown, f'the second, {b.label}')}"
    numbers = ", ".join(f"{measure.name} {numbers_of(one, measure)}" for measure, one in shown)
    seeds = "1 seed" if len(first.by_seed) == 1 else f"{len(first.by_seed)} seeds"
    scope = "" if len(first.by_seed) >= FEWEST else f"; this holds for {first.scope} alone"
    words = f"{begin} ({numbers}; {seeds}{scope})."
    if question.among > 1:
        words += f" It was chosen as the best of {question.among} on these very numbers, which flatters it."
    return Verdict(question=question, words=words, differences=found)


def changes(group: Group) -> list[str]:
    """Has a training changed what its setting reaches? A sentence for every setting, in all measures of that."""
    said = []
    for setting in group.settings:
        parts = []
        for measure in group.present(group.kind.extra):
            if measure.key in group.kind.changes and (number := setting.numbers.get(measure.key)):
                told = number.relation("above 0", "below 0").replace(" from", " from 0")
                parts.append(f"{measure.name} is {told}, {number.text(measure.scale, measure.form, '+')} points")
                seeds = len(number.by_seed)
        if parts:
            said.append(f"{setting.label}: {'; '.join(parts)} ({seeds} seed{'s' * (seeds > 1)}).")
    return said


def _outcome(shown: Sequence[tuple[Measure, OverSeeds]], other: str) -> str:
    """What the differences say, where all say the same and where they do not."""
    named: dict[str, list[str]] = {}
    for measure, one in shown:
        named.setdefault(one.relation("higher", "lower"), []).append(measure.name)
    if len(named) == 1:
        everywhere = f", in {listed(next(iter(named.values())))} alike" if len(shown) > 1 else ""
        return f"is {shown[0][1].relation()} {other}{everywhere}"
    said = [f"a {way} {listed(named[way])}" for way in ("higher", "lower") if way in named]
    rest = set(named) - {"higher", "lower"}
    same = f", and is not distinguishable from it in {listed(named[rest.pop()])}" if rest else ""
    return f"has {' but '.join(said)} than {other}{same}"


def listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def numbers_of(difference: OverSeeds, measure: Measure) -> str:
    """+0.012 [0.003, 0.020] for AUC, +1.2 [0.3, 2.0] in points for shares; of two seeds both."""
    return difference.text(measure.scale, measure.form, "+")


def verdicts_table(verdicts: Sequence[Verdict], group: Group) -> Table:
    """One row per question: the two settings, and the outcome with the difference in every measure."""
    measures = [measure for measure in group.measures if any(measure.key in one.differences for one in verdicts)]
    rows = []
    for one in verdicts:
        cells = []
        for measure in measures:
            number = one.differences.get(measure.key)
            outcome = number.relation("better", "worse").removesuffix(" from") if number else ""
            cells.append(f"{outcome}: {numbers_of(number, measure)}" if number else "-")
        seeds = str(len(next(iter(one.differences.values())).by_seed)) if one.differences else "-"
        rows.append((one.question.a.label, one.question.b.label, seeds, *cells))
    note = (
        "Setting minus the one it is compared with, shares in points: mean over the seeds that both have. Brackets: 95 "
        "%, from the seeds' paired differences (Student's t) and a bootstrap over the benchmark's "
        f"{group.kind.items} that draws the same ones for both, added in squares; of one seed from the bootstrap "
        "alone, for this training. Of two seeds both differences stand there, and the bootstrap alone says whether "
        "their mean is told from 0. Each pair is asked by itself: of twenty without a difference, one will seem to "
        "have one."
    )
    if any(one.question.among > 1 for one in verdicts):
        note += " The best setting was chosen on these very numbers, so they flatter it."
    columns = ("setting", "compared with", "seeds", *(measure.name for measure in measures))
    main = next((one.question.a.label for one in verdicts if one.question.best), "")
    return Table("Is the difference real?", columns, tuple(rows), note, main, "verdicts")


# ---- published numbers

# Overall macro-F1 (points) on VisualProcessBench in arXiv 2602.04145, of one training, without an interval, at the best
# threshold for the benchmark itself: only our optimistic F1 compares with it. The other columns are what a config must
# have, a class or a number; what is empty may be anything (an alpha that was not published).
PUBLISHED = Path(__file__).with_name("published.csv")
DATA = {"dataset": "VisualPRM400K", "benchmark": "VisualProcessBench"}
UNCHANGED = {  # options that the paper did not have
    **{"objective.balance": "none", "objective.ignore": None, "dataset.final_step": "keep", "selector.balance": "none"},
    **{"selector.labels": "hard", "selector.fill": "score", "selector.random_share": None, "selector.scope": "source"},
    "selector.ties": "file_order",
}


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

    for key, usual in UNCHANGED.items():
        group, _, name = key.partition(".")
        if ((config.get(group) or {}).get(name) or usual) != usual:
            return None
    for line in csv.DictReader(PUBLISHED.read_text(encoding="utf-8").splitlines()):
        f1 = float(line.pop("f1"))
        if all(has(key, wanted) for key, wanted in (DATA | line).items() if wanted):
            return f1 / 100
    return None
