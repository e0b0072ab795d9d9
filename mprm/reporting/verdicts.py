"""Is the difference real? Which pairs of settings are asked about, and the answers in words.

The differences themselves come from evaluation/paired.py, which reads the predictions of both settings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mprm.metrics.estimate import FEWEST
from mprm.reporting.compare import MEASURES, Comparison, Row
from mprm.reporting.tables import Table

# Best setting against the second; best selection against Random, against Full; any other selection against Random.
KINDS = ("best", "best_random", "best_full", "random")
BASELINES = ("Random", "Full")  # what selections are measured against

BETTER, WORSE, EVEN, UNKNOWN = "better", "worse", "not distinguishable", "not comparable"
RELATIONS = {BETTER: "better than", WORSE: "worse than", EVEN: "not distinguishable from"}


class Difference(Protocol):
    """A minus B in one measure (a key of MEASURES), with its 95 % interval; the seeds are those that both have, each
    their differences."""

    @property
    def measure(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    @property
    def each(self) -> tuple[float, ...]: ...


@dataclass(frozen=True, kw_only=True)
class Question:
    """Is setting a better than setting b?

    kind: one of KINDS. among: how many settings a was chosen from as the best; 1 where it was not, or where an earlier
    question says so.
    """

    kind: str
    a: Row
    b: Row
    among: int = 1


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer to a question.

    outcome: in the first measure, "better", "worse", "not distinguishable", or "not comparable" when there is none.
    words: one sentence or two. differences: the main measure first.
    """

    question: Question
    outcome: str
    words: str
    differences: tuple[Difference, ...]


def questions(comparison: Comparison) -> list[Question]:
    """The pairs worth asking about: of a group, settings that differ in selector, alpha and ratio only, in this order.

    The setting of highest mean AUC against the second; the best selection (neither Random nor Full, if there is one)
    against Random at the same ratio and against Full; every other selection against Random at the same ratio. No pair
    is asked about twice.
    """
    asked: list[Question] = []
    for group in comparison.groups:
        for other in dict.fromkeys(row.other for row in group.rows):
            asked += _within([row for row in group.rows if row.other == other and row.auc])
    return asked


def _within(rows: list[Row]) -> list[Question]:
    if len(rows) < 2:
        return []
    best, second, *_ = sorted(rows, key=_auc, reverse=True)
    selections = [row for row in rows if row.selector not in BASELINES]
    ours = max(selections, key=_auc, default=best)
    pairs: list[tuple[str, Row, Row | None, int]] = [
        ("best", best, second, len(rows)),
        ("best_random", ours, _random(ours, rows), len(selections)),
        ("best_full", ours, next((row for row in rows if row.selector == "Full"), None), len(selections)),
    ]
    pairs += [("random", row, _random(row, rows), 1) for row in selections]
    asked: list[Question] = []
    for kind, a, b, among in pairs:
        if b is None or b is a or any({question.a, question.b} == {a, b} for question in asked):
            continue
        said = any(question.a is a for question in asked)
        asked.append(Question(kind=kind, a=a, b=b, among=1 if said else among))
    return asked


def _auc(row: Row) -> float:
    assert row.auc
    return row.auc.value


def _random(row: Row, rows: list[Row]) -> Row | None:
    """Random at the ratio of this row."""
    # the ratio of a count is a realised one, and differs in the last digits
    return next((r for r in rows if r.selector == "Random" and math.isclose(r.ratio, row.ratio, rel_tol=1e-3)), None)


def verdict(question: Question, differences: Sequence[Difference], reason: str = "") -> Verdict:
    """Put the differences of a pair into words.

    Args:
        question: the pair.
        differences: a minus b, the main measure first; none when the two can not be compared.
        reason: why there are none.
    """
    a, b = question.a.label, question.b.label
    if not differences:
        words = f"{a} and {b} can not be compared: {reason}"
        return Verdict(question=question, outcome=UNKNOWN, words=words, differences=())
    main, *rest = differences
    found = outcome(main)
    if question.kind == "best":
        begin = f"{a} has the highest mean AUC, {_auc(question.a):.3f}. It is {RELATIONS[found]} the second, {b}"
    else:
        begin = f"{a} is {RELATIONS[found]} {b}"
    numbers = "; ".join(
        [f"{MEASURES[main.measure]} {numbers_of(main)}, {_seeds(main)}"]
        + [f"{MEASURES[other.measure]} {numbers_of(other)}, {outcome(other)}" for other in rest]
    )
    words = f"{begin}: {numbers}"
    if question.among > 1:
        words += f". Chosen as the best of {question.among} on these very numbers, so they flatter it"
    if len(main.seeds) < FEWEST:
        words += " (the interval is over the benchmark's solutions: it holds for these trainings only)"
    return Verdict(question=question, outcome=found, words=words, differences=tuple(differences))


def outcome(difference: Difference) -> str:
    """better or worse where the interval leaves out 0."""
    return BETTER if difference.low > 0 else WORSE if difference.high < 0 else EVEN


def numbers_of(difference: Difference) -> str:
    """+0.012 [0.003, 0.020] for AUC, +1.2 [0.3, 2.0] in points for F1."""
    low, high = (_number(end, difference) for end in (difference.low, difference.high))
    return f"{_number(difference.value, difference, '+')} [{low}, {high}]"


def _number(value: float, difference: Difference, sign: str = "") -> str:
    return f"{value:{sign}.3f}" if difference.measure == "auc" else f"{100 * value:{sign}.1f}"


def _seeds(difference: Difference) -> str:
    """'5 seeds'; of two what each of them says."""
    n = len(difference.seeds)
    each = ", ".join(_number(value, difference, "+") for value in difference.each) if n == 2 else ""
    return "1 seed" if n == 1 else f"{n} seeds ({each})" if each else f"{n} seeds"


def verdicts_table(verdicts: Sequence[Verdict]) -> Table:
    """One row per question: the two settings, and the outcome with the difference in every measure."""
    present = {difference.measure for verdict in verdicts for difference in verdict.differences}
    measures = [measure for measure in MEASURES if measure in present]
    rows = []
    for one in verdicts:
        by_measure = {difference.measure: difference for difference in one.differences}
        cells = [
            f"{outcome(by_measure[measure])}: {numbers_of(by_measure[measure])}" if measure in by_measure else "-"
            for measure in measures
        ]
        seeds = str(len(one.differences[0].seeds)) if one.differences else "-"
        rows.append((one.question.a.label, one.question.b.label, seeds, *cells))
    best = next((one.question.a.label for one in verdicts if one.question.kind == "best"), "")
    note = (
        "Setting minus the one it is compared with, in AUC and in points of F1: mean over the seeds that both have. "
        "Brackets: 95 %, from the seeds' paired differences (Student's t) and a bootstrap over the benchmark's "
        "solutions that draws the same ones for both; below three seeds from the bootstrap alone, so for these "
        "trainings only. Each pair is asked by itself: of twenty without a difference, one will seem to have one."
    )
    if any(one.question.among > 1 for one in verdicts):
        note += " The best setting was chosen on these very numbers, so they flatter it."
    columns = ("setting", "compared with", "seeds", *(MEASURES[measure] for measure in measures))
    return Table("Is the difference real?", columns, tuple(rows), note, best)
