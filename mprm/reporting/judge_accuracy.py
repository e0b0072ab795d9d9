"""How often a judge is right, stage after stage and measure by measure, in words and in tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mprm.metrics.estimate import points
from mprm.metrics.results import Estimate, JudgeAccuracy, JudgeResults, PairAccuracy, PairSource
from mprm.reporting.report import Table
from mprm.reporting.verdicts import listed

STAGES = {"untrained": "untrained", "sft": "after SFT", "rl": "after RL", "reward_model": "reward model"}
WHEN = {"untrained": "Without training", "sft": "After SFT", "rl": "After RL", "reward_model": "Without reasoning"}


def measured(results: JudgeResults) -> dict[str, JudgeAccuracy]:
    """What was measured, in the order of the stages."""
    return {stage: results.judges[stage] for stage in STAGES if stage in results.judges}


def accuracy_sentences(results: JudgeResults) -> list[str]:
    """How right the judge is after every stage, and what the stage has changed."""
    said = []
    for place, (stage, judge) in enumerate(measured(results).items()):
        right = by_measure(results, judge.accuracy, judge.votes)
        shares = listed([f"{share.points()} % {how}" for how, share in right.items()])
        said.append(f"{WHEN[stage]} {'it' if place else 'the judge'} is right in {shares}.")
        if changes := _gains(results, stage):
            said.append(_change(stage, changes))
    return said


def by_measure(results: JudgeResults, one: Estimate, votes: Sequence[Estimate]) -> dict[str, Estimate]:
    """An accuracy, or a difference of two, in the measures there are: of the one response that is measured, of a
    sampled one, and of all that were sampled, in a vote."""
    found = {"greedily" if results.temperature == 0 else f"at temperature {results.temperature:g}": one}
    if votes:
        found[f"sampled at temperature {results.vote_temperature:g}"] = votes[0]
    if len(votes) > 1:
        found[f"in a vote of {len(votes)}"] = votes[-1]
    return found


def _gains(results: JudgeResults, stage: str) -> dict[str, Estimate]:
    """The paired differences from the stage before, by measure; {} of the first stage."""
    name = next((name for name in results.differences if name.startswith(f"{stage} - ")), "")
    return by_measure(results, results.differences[name], results.vote_differences.get(name, ())) if name else {}


def _change(stage: str, changes: dict[str, Estimate]) -> str:
    """What a training has changed, with one judgement where all measures agree."""
    judged: dict[str, list[str]] = {}
    for how, change in changes.items():
        judged.setdefault(change.relation(), []).append(how)
    by = listed([f"{change.signed_points()} points {how}" for how, change in changes.items()])
    relations = [f"{relation} before{f' {listed(how)}' * (len(judged) > 1)}" for relation, how in judged.items()]
    return f"{stage.upper()} changes this by {by}: {'; '.join(relations)}."


def judges_table(results: JudgeResults) -> Table:
    """A column per stage that was measured."""
    judges = measured(results)
    right = [by_measure(results, judge.accuracy, judge.votes) for judge in judges.values()]
    gains = [_gains(results, stage) for stage in judges]
    rows = []
    for how in right[0] if right else ():
        rows.append((f"right {how}", *(one[how].points() for one in right)))
        if any(gains):
            rows.append(("minus before", *(one[how].signed_points() if one else "-" for one in gains)))
    shown = [(f"{100 * one.macro_accuracy:.1f}", one.consistent.points(), points(one.first)) for one in judges.values()]
    rows += zip(("macro", "consistent", "first"), *shown, strict=True) if shown else ()
    note = (
        "Right: verdicts, every pair judged in both orders; no verdict counts as wrong. Sampled: mean of judge.votes "
        "responses per order. Vote: the verdict that more of them have; a tie counts a half. Minus before: paired "
        "difference in points. Macro: mean over sources. Consistent: the same answer wins in both orders. First: "
        "verdicts for the answer that is shown first, 50 without a position bias. Brackets: 95 % bootstrap over the "
        "benchmark's pairs, for this training."
    )
    return Table("The judge by stage", ("", *(f"{STAGES[stage]} (%)" for stage in judges)), tuple(rows), note)


def source_tables(results: JudgeResults) -> list[Table | None]:
    """Accuracy by source in both orders, and as published by number of votes."""
    judges = measured(results)
    note = "ACC+: items of which all pairs are judged right, the mean over both orders of the answers."
    tables = [_by_source("Accuracy by source", note, judges)]
    for k in sorted({one.votes for judge in judges.values() for one in judge.published}):
        found = {stage: one for stage, judge in judges.items() for one in judge.published if one.votes == k}
        tables.append(_by_source("As published" + (f", vote of {k}" if k > 1 else ""), f"{results.rule}.", found))
    return tables


def _by_source(title: str, note: str, judges: Mapping[str, PairAccuracy]) -> Table | None:
    """A column per judge; None of a single source."""
    parts: dict[str, list[PairSource | None]] = {"all": [*judges.values()]}
    for name in dict.fromkeys(name for judge in judges.values() for name in judge.sources):
        parts[name] = [judge.sources.get(name) for judge in judges.values()]
    if len(parts) < 3:
        return None
    rows: list[tuple[str, ...]] = []
    for name, of in parts.items():
        n = max(one.pairs for one in of if one)
        rows.append((f"{name}, {n:,} pairs", *(points(one.accuracy if one else None) for one in of)))
    rows.append(("macro", *(f"{100 * judge.macro_accuracy:.1f}" for judge in judges.values())))
    for name, of in parts.items():
        if n := max(one.items for one in of if one):
            rows.append((f"ACC+ {name}, {n:,} items", *(points(one.acc_plus if one else None) for one in of)))
    rows.append(("pairs left out", *(f"{judge.left_out:,}" for judge in judges.values())))
    columns = ("source", *(f"{STAGES[stage]} (%)" for stage in judges))
    return Table(title, columns, tuple(rows), f"{note} Brackets: 95 % bootstrap.")
