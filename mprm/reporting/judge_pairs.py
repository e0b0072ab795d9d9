"""Which settings of judges are compared with each other, and what can be said of each pair."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

from mprm.metrics.estimate import FEWEST
from mprm.reporting.choice_tables import points
from mprm.reporting.judge_runs import JudgeComparison, JudgeRow, JudgeRun, Number, mean_of
from mprm.reporting.judge_words import STAGES, percent
from mprm.reporting.tables import Table
from mprm.reporting.verdicts import BASELINES, BETTER, EVEN, RELATIONS, WORSE


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Is a better than b? difference: a minus b in words; seeds: that it is of."""

    a: str
    b: str
    outcome: str
    difference: str
    seeds: int
    words: str


def answers(comparison: JudgeComparison) -> list[Answer]:
    """On every benchmark the best setting against the second, then the pairs of settings that differ in one group of
    the config alone; of selectors those against Random at the same ratio and against Full."""
    found = []
    for group in comparison.groups:
        rows = [row for row in group.rows if row.accuracy(group.stage)]
        for place, (a, b) in enumerate(combinations(rows, 2)):
            if place == 0 or _differ_in_one(a.runs[0], b.runs[0]):
                found.append(_answer(a, b, group.stage, among=0 if place else len(rows)))
    return found


def _differ_in_one(a: JudgeRun, b: JudgeRun) -> bool:
    keys = a.setting.keys() | b.setting.keys()
    groups = {key.split(".")[0] for key in keys if a.setting.get(key) != b.setting.get(key)}
    if groups != {"selector"}:
        return len(groups) == 1
    names = {a.selector, b.selector}
    alike = a.ratio is not None and b.ratio is not None and math.isclose(a.ratio, b.ratio, rel_tol=1e-3)
    return not names.isdisjoint(BASELINES) and ("Full" in names or alike)


def _answer(a: JudgeRow, b: JudgeRow, stage: str, among: int) -> Answer:
    """among: of how many settings a is the best; 0 where that is not said."""
    pairs = _pairs(a, b, stage)
    differences = [one["value"] - other["value"] for one, other in pairs]
    if len(pairs) >= FEWEST:
        mean = mean_of(differences)
        outcome = BETTER if mean["low"] > 0 else WORSE if mean["high"] < 0 else EVEN
        difference = points(mean)
        reason = f": {difference} points over {len(pairs)} seeds"
    else:
        above = all(one["low"] > other["high"] for one, other in pairs)
        below = all(one["high"] < other["low"] for one, other in pairs)
        outcome = BETTER if above else WORSE if below else EVEN
        difference = ", ".join(f"{100 * value:+.1f}" for value in differences)
        numbers = " and ".join(f"{percent(one)} against {percent(other)} %" for one, other in pairs)
        reason = (
            f", {numbers}: their intervals {'overlap' if outcome == EVEN else 'do not overlap'} "
            f"({_seeds(len(pairs))}: this holds for these trainings only)"
        )
    begin = f"{a.label} is {RELATIONS[outcome]} {b.label}"
    if among:
        begin = (
            f"{a.label} has the highest accuracy {STAGES[stage]}, {percent(a.accuracy(stage))} %. "
            f"It is {RELATIONS[outcome]} the second, {b.label}"
        )
    if among > 2:
        reason += f". Chosen as the best of {among} on these very pairs, so they flatter it"
    words = f"{begin}{reason}."
    return Answer(a=a.label, b=b.label, outcome=outcome, difference=difference, seeds=len(pairs), words=words)


def _pairs(a: JudgeRow, b: JudgeRow, stage: str) -> list[tuple[Number, Number]]:
    """Accuracies of both at the seeds that both have; of the first run of each where they share none."""
    of_b = {run.seed: run for run in b.runs}
    runs = [(run, of_b[run.seed]) for run in a.runs if run.seed in of_b] or [(a.runs[0], b.runs[0])]
    numbers = [(one.accuracy(stage), other.accuracy(stage)) for one, other in runs]
    return [(one, other) for one, other in numbers if one and other]


def _seeds(number: int) -> str:
    return "1 seed" if number == 1 else f"{number} seeds"


def answers_table(found: list[Answer]) -> Table:
    """One row per pair of settings."""
    rows = tuple((answer.a, answer.b, str(answer.seeds), answer.outcome, answer.difference) for answer in found)
    note = (
        "The best setting against the second, then pairs of settings that differ in one thing, on the same pairs of a "
        "benchmark. Three seeds and more: mean of the seeds' differences with its 95 % t-interval, which is over "
        "trainings and not over pairs of the benchmark. Fewer: the difference of each; the settings count as different "
        "where at every seed their own 95 % intervals over the benchmark's pairs do not overlap, for these trainings "
        "only. Each pair is asked by itself: of twenty without a difference, one will seem to have one."
    )
    columns = ("setting", "compared with", "seeds", "is", "difference (points)")
    return Table("Settings against each other", columns, rows, note)
