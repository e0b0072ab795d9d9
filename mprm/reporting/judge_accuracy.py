"""How often a judge is right, stage after stage and measure by measure, in words and in tables."""

from __future__ import annotations

from collections.abc import Sequence

from mprm.metrics.results import Estimate, JudgeAccuracy, JudgeResults, PublishedAccuracy
from mprm.reporting.report import Table
from mprm.reporting.verdicts import listed

STAGES = {"untrained": "untrained", "sft": "after SFT", "rl": "after RL"}
WHEN = {"untrained": "Without training", "sft": "After SFT", "rl": "After RL"}


def measured(results: JudgeResults) -> dict[str, JudgeAccuracy]:
    """What was measured, in the order of the stages."""
    return {stage: results.judges[stage] for stage in STAGES if stage in results.judges}


def gain(results: JudgeResults, stage: str) -> Estimate | None:
    """Accuracy of a stage minus that of the one before it."""
    return next((one for name, one in results.differences.items() if name.startswith(f"{stage} - ")), None)


def vote_gain(results: JudgeResults, stage: str) -> Sequence[Estimate]:
    """The same of votes of K = 1, 2, .., K = 1: of a sampled response."""
    return next((votes for name, votes in results.vote_differences.items() if name.startswith(f"{stage} - ")), ())


def accuracy_sentences(results: JudgeResults) -> list[str]:
    """How right the judge is after every stage, and what the stage has changed."""
    said = []
    for place, (stage, judge) in enumerate(measured(results).items()):
        right = by_measure(results, judge.accuracy, judge.votes)
        shares = listed([f"{share.points()} % {how}" for how, share in right.items()])
        said.append(f"{WHEN[stage]} {'it' if place else 'the judge'} is right in {shares}.")
        if difference := gain(results, stage):
            said.append(_change(stage, by_measure(results, difference, vote_gain(results, stage))))
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


def _change(stage: str, changes: dict[str, Estimate]) -> str:
    """What a training has changed, with one judgement where all measures agree."""
    judged: dict[str, list[str]] = {}
    for how, change in changes.items():
        judged.setdefault(change.relation(), []).append(how)
    by = listed([f"{change.signed_points()} points {how}" for how, change in changes.items()])
    relations = [f"{relation} before{f' {listed(how)}' * (len(judged) > 1)}" for relation, how in judged.items()]
    return f"{stage.upper()} changes this by {by}: {'; '.join(relations)}."


def judges_table(results: JudgeResults) -> Table:
    """Every stage that was measured."""
    rows = []
    for stage, judge in measured(results).items():
        before = gain(results, stage)
        numbers = (judge.accuracy.points(), before.signed_points() if before else "-")
        shown = (judge.consistent.points(), judge.first.points() if judge.first else "-")
        rows.append((STAGES[stage], *numbers, f"{100 * judge.macro_accuracy:.1f}", *shown))
    note = (
        "Accuracy: right verdicts, every pair judged in both orders; no verdict counts as wrong. Minus before: paired "
        "difference in points. Macro: mean over sources. Consistent: the same answer wins in both orders. First: "
        "verdicts for the answer that is shown first, 50 without a position bias. Brackets: 95 % bootstrap over the "
        "benchmark's pairs, for this training."
    )
    columns = ("judge", "accuracy (%)", "minus before", "macro (%)", "consistent (%)", "first (%)")
    return Table("The judge by stage", columns, tuple(rows), note, rows[-1][0] if rows else "")


def votes_table(results: JudgeResults) -> Table | None:
    """Accuracy by how the verdict is found; None where nothing was sampled."""
    judges = {stage: judge for stage, judge in measured(results).items() if judge.votes}
    if not judges:
        return None
    n = len(next(iter(judges.values())).votes)
    shown = sorted({1, n // 2, n} - {0})
    rows = []
    for stage, judge in judges.items():
        rows.append((STAGES[stage], *(one.points() for one in (judge.accuracy, *(judge.votes[k - 1] for k in shown)))))
        if before := gain(results, stage):
            minus = (before, *(vote_gain(results, stage)[k - 1] for k in shown))
            rows.append(("minus before", *(value.signed_points() for value in minus)))
    note = (
        f"Sampled: one of {n} responses per order at temperature {results.vote_temperature:g}. Vote: the verdict that "
        "more of so many of these have, the mean over all choices; a tie counts a half, no verdict as wrong. Minus "
        "before: paired difference in points. Brackets: 95 % bootstrap."
    )
    columns = ("judge", "accuracy (%)", *("sampled (%)" if k == 1 else f"vote of {k} (%)" for k in shown))
    return Table("One response and votes", columns, tuple(rows), note)


def published_table(results: JudgeResults) -> Table | None:
    """Accuracy as the benchmark's own scripts count it; None where it has none."""
    judges = measured(results)
    if not results.rule or not judges:
        return None
    rows = [("ours, in both orders", *(judge.accuracy.points() for judge in judges.values()))]
    for of_votes in zip(*(judge.published for judge in judges.values()), strict=True):
        vote = f" in a vote of {of_votes[0].votes}" if of_votes[0].votes > 1 else ""
        by_judge = [_published(one) for one in of_votes]
        rows += [(f"{name}{vote}", *(one[name] for one in by_judge)) for name in by_judge[0]]
    columns = ("measure", *(f"{STAGES[stage]} (%)" for stage in judges))
    return Table("As published", columns, tuple(rows), f"{results.rule}. Brackets: 95 % bootstrap.")


def _published(one: PublishedAccuracy) -> dict[str, str]:
    macro = None if one.macro_accuracy is None else Estimate(one.macro_accuracy)
    shares = {"accuracy": one.accuracy, "macro accuracy": macro, **one.sources}
    if one.acc_plus:
        shares |= {"ACC+": one.acc_plus, **{f"ACC+ {name}": share for name, share in one.source_acc_plus.items()}}
    shown = {name: share.points() if share else "-" for name, share in shares.items()}
    return shown | {"pairs left out": f"{one.left_out:,}"}


def sources_table(results: JudgeResults, acc_plus: bool = False) -> Table | None:
    """Accuracy, or ACC+, by source of the pair, a column per judge; None where that says nothing."""
    judges = measured(results)
    names = list(next(iter(judges.values())).sources) if judges else []
    if not any(judge.acc_plus for judge in judges.values()) if acc_plus else len(names) < 2:
        return None
    rows = []
    for name in [*names, "all"] if acc_plus else names:
        parts = [judge if name == "all" else judge.sources[name] for judge in judges.values()]
        values = [part.acc_plus if acc_plus else part.accuracy for part in parts]
        size = parts[0].items if acc_plus else parts[0].pairs
        rows.append((name, f"{size:,}", *(value.points() if value else "-" for value in values)))
    columns = ("source", "items" if acc_plus else "pairs", *(f"{STAGES[stage]} (%)" for stage in judges))
    note = "Items of which all pairs are judged right, the mean over both orders of the answers. " if acc_plus else ""
    title = "ACC+" if acc_plus else "Accuracy by source"
    return Table(title, columns, tuple(rows), f"{note}Brackets: 95 % bootstrap.")
