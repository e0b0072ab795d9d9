"""How often a judge is right, stage after stage and measure by measure, in words and in tables."""

from __future__ import annotations

from collections.abc import Sequence

from mprm.metrics.results import Estimate, JudgeAccuracy, JudgeResults
from mprm.reporting.report import Table

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
        text = f"{WHEN[stage]} {'it' if place else 'the judge'} is right in "
        if len(right) > 1:
            said.append(text + _listed([f"{value.points()} % {how}" for how, value in right.items()]) + ".")
            said += _change(results, stage)
        else:
            difference = gain(results, stage)
            change = f", {difference.relation()} before: {difference.signed_points()} points" if difference else ""
            said.append(f"{text}{judge.accuracy.points()} %{change}.")
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


def _change(results: JudgeResults, stage: str) -> list[str]:
    """What a training has changed, one judgement if all measures agree."""
    if not (difference := gain(results, stage)):
        return []
    changes = by_measure(results, difference, vote_gain(results, stage))
    judged: dict[str, list[str]] = {}
    for how, change in changes.items():
        judged.setdefault(change.relation(), []).append(how)
    by = _listed([f"{change.signed_points()} points {how}" for how, change in changes.items()])
    said = [f"{relation} before {_listed(how)}" for relation, how in judged.items()]
    if len(judged) == 1:
        said = [f"{next(iter(judged))} before by every measure"]
    return [f"{stage.upper()} changes this by {by}: {'; '.join(said)}."]


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


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
