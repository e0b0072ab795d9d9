"""A judge in sentences: how often it is right, whether its entropy tells, and what the kept pairs are worth.

All take the content of results.json as the tasks of judges write it; accuracies are shares there, percent here.
"""

from __future__ import annotations

from typing import Any

from mprm.reporting.choice_tables import points, relation
from mprm.reporting.tables import Estimate

Results = dict[str, Any]
STAGES = {"untrained": "untrained", "sft": "after SFT", "rl": "after RL"}


def judges(results: Results) -> dict[str, dict[str, Any]]:
    """What was measured, by stage, in the order of the stages."""
    found = results.get("judges", {})
    return {stage: found[stage] for stage in STAGES if stage in found}


def percent(number: dict[str, Any] | None) -> str:
    """'81.2 [79.0, 83.4]'; '-' for none."""
    return "-" if number is None else Estimate(**number).points()


def span(entropies: dict[str, Any]) -> str:
    """The range of a bin: '0.010 to 0.034'."""
    return f"{entropies['from']:.3f} to {entropies['to']:.3f}"


def headline(results: Results) -> str:
    """How many pairs were kept, and how well the judge of the last stage does."""
    curation, measured = results.get("curation"), judges(results)
    said = []
    if curation:
        said.append(f"{curation['kept']:,} of {curation['eligible']:,} labelled pairs were kept.")
    if measured:
        stage, last = list(measured.items())[-1]
        said.append(
            f"On {last['pairs']:,} pairs of the benchmark, each judged in both orders, the judge is right in "
            f"{percent(last['accuracy'])} % {_when(stage)}."
        )
    return " ".join(said) or "No judge has been measured and no pair has been chosen yet."


def _when(stage: str) -> str:
    return "without training" if stage == "untrained" else STAGES[stage]


def difference_of(results: Results, stage: str) -> dict[str, float] | None:
    """Accuracy of a stage minus that of the one before it."""
    found: dict[str, dict[str, float]] = results.get("differences", {})
    return next((number for name, number in found.items() if name.startswith(f"{stage} - ")), None)


def sentences(results: Results) -> list[str]:
    """What can be said of the judge, of its entropy, and of the pairs that were kept."""
    measured, curation = judges(results), results.get("curation") or {}
    said = []
    for place, (stage, judge) in enumerate(measured.items()):
        text = f"{_begin(stage)} {'it' if place else 'the judge'} is right in {percent(judge['accuracy'])} %"
        difference = difference_of(results, stage)
        said.append(
            f"{text}, {relation(difference)} before: {points(difference)} points." if difference else f"{text}."
        )
    if measured:
        stage = "sft" if "sft" in measured else next(iter(measured))  # pairs are kept by the entropy after SFT
        said += _trend(f"{_begin(stage)} accuracy", measured[stage]["bins"], "accuracy")
    bins = curation.get("bins") or []
    said += _trend("On the training pairs agreement with the labels", bins, "accuracy")
    said += _trend("The share of wrong labels among them", bins, "flipped")
    if flipped := curation.get("flipped"):
        said.append(_flipped_words(flipped))
    return said + _position_words(measured) + _format_words(measured)


def _begin(stage: str) -> str:
    words = _when(stage)
    return words[0].upper() + words[1:]


def _trend(what: str, bins: list[dict[str, Any]], key: str) -> list[str]:
    """Does it fall or rise with entropy? Only where the intervals of the two outer bins do not overlap."""
    if len(bins) < 2 or not all(one[key] for one in bins):
        return []
    lowest, highest = bins[0][key], bins[-1][key]
    if lowest["low"] > highest["high"]:
        goes = "falls with entropy"
    elif lowest["high"] < highest["low"]:
        goes = "rises with entropy"
    else:
        goes = "is not distinguishable between low and high entropy"
    return [
        f"{what} {goes}: {percent(lowest)} % in the lowest of {len(bins)} bins, {percent(highest)} % in the highest."
    ]


def _flipped_words(flipped: dict[str, Any]) -> str:
    difference = flipped["difference"]
    fewer = "fewer than" if difference["high"] < 0 else "more than" if difference["low"] > 0 else relation(difference)
    return (
        f"The kept pairs hold {100 * flipped['kept']:.1f} % wrong labels, {fewer} random subsets of that size, "
        f"{100 * flipped['random']:.1f} %: {points(difference)} points."
    )


def _position_words(measured: dict[str, dict[str, Any]]) -> list[str]:
    """Of the last judge; nothing where it has given no verdict."""
    if not measured or list(measured.values())[-1]["first"] is None:
        return []
    stage, judge = list(measured.items())[-1]
    first = judge["first"]
    if first["low"] > 0.5:
        bias = "it prefers the answer that is shown first"
    elif first["high"] < 0.5:
        bias = "it prefers the answer that is shown second"
    else:
        bias = "no position bias is distinguishable"
    return [f"{_begin(stage)} {bias}: {percent(first)} % of its verdicts are for the first."]


def _format_words(measured: dict[str, dict[str, Any]]) -> list[str]:
    """Of the last judge: how many verdicts there are, and how many in the strict format."""
    if not measured or "in_format" not in list(measured.values())[-1]:
        return []
    stage, judge = list(measured.items())[-1]
    return [
        f"{_begin(stage)} {100 * (1 - judge['without_verdict']):.1f} % of its responses have a verdict, "
        f"{100 * judge['in_format']:.1f} % in the words of judge.verdict."
    ]
