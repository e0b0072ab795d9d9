"""How often a judge is right, and whether its entropy tells: pairwise accuracy, position bias, accuracy by entropy.

A pair is judged once in either order. Both judgements count; intervals are bootstrapped over pairs.

Shape suffixes: P pairs, 2 orders (as in the record, swapped), E bins of entropy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mprm.judge.judge import NAMES
from mprm.metrics.estimate import Resamples

BINS = 5


@dataclass(frozen=True)
class Judged:
    """The verdicts on pairs. source_P: names; first_P2: the verdict is A; valid_P2: there is a verdict; right_P2: it is
    that of the label; entropy_P2: of the response, nats; tokens_P2: its length; in_format_P2: the verdict is in the
    words that judge.verdict wants; item_P: names of the items that the pairs belong to, None where they stand alone."""

    source_P: np.ndarray
    first_P2: np.ndarray
    valid_P2: np.ndarray
    right_P2: np.ndarray
    entropy_P2: np.ndarray
    tokens_P2: np.ndarray
    in_format_P2: np.ndarray
    item_P: np.ndarray | None = None


def judged(
    records: Sequence[dict[str, Any]], sources: dict[str, str], items: Mapping[str, str] | None = None
) -> Judged:
    """Of what respond() has kept of both orders of every pair; sources: of the pairs by id, which also gives their
    order; items: of the pairs by id, where several belong to one."""
    of = {(record["id"], record["swapped"]): record for record in records}
    both = [[of[name, swapped] for swapped in (False, True)] for name in sources]
    first = [[record["responses"][0] for record in orders] for orders in both]

    def each(value: Any) -> np.ndarray:
        return np.array([[value(response) for response in orders] for orders in first])

    better_P2 = np.array([[record["better"] for record in orders] for orders in both])
    verdict_P2 = each(lambda response: response["verdict"] or "")
    return Judged(
        source_P=np.array(list(sources.values())),
        first_P2=verdict_P2 == NAMES[0],
        valid_P2=verdict_P2 != "",
        right_P2=verdict_P2 == better_P2,
        entropy_P2=each(lambda response: response["entropy"]),
        tokens_P2=each(lambda response: response["n_tokens"]),
        in_format_P2=each(lambda response: response.get("in_format", response["verdict"] is not None)),
        item_P=np.array([items[name] for name in sources]) if items else None,
    )


def measure(judgements: Judged, seed: int) -> dict[str, Any]:
    """Everything that is said of one judge.

    accuracy: share of right verdicts, none counts as wrong; in_format, accuracy_in_format: share of verdicts, and of
    right ones, in the words that judge.verdict wants, which is all that reinforcement learning rewards;
    macro_accuracy: mean over sources; sources; acc_plus: of items, see there; consistent: share of pairs of which the
    same answer wins in both orders; first: share of verdicts for the answer that is shown first, 0.5 without a position
    bias; without_verdict; entropy, tokens: means; bins: pairs by the mean entropy of their two responses, as many in
    each, with accuracy; tells: chance that of a wrong and a right response the wrong one has the higher entropy, null
    where all are alike. Values have 95 % intervals over pairs.
    """
    right_P, entropy_P = judgements.right_P2.mean(axis=1), judgements.entropy_P2.mean(axis=1)
    resamples = Resamples(len(right_P), seed)
    both_P = judgements.valid_P2.all(axis=1)
    return {
        "pairs": len(right_P),
        "accuracy": resamples.mean(right_P),
        "macro_accuracy": float(np.mean([right_P[rows].mean() for rows in by_source(judgements).values()])),
        "sources": {
            name: {
                "pairs": len(rows),
                "accuracy": Resamples(len(rows), seed).mean(right_P[rows]),
                "acc_plus": acc_plus(judgements, rows, seed),
            }
            for name, rows in by_source(judgements).items()
        },
        "acc_plus": acc_plus(judgements, np.arange(len(right_P)), seed),
        "consistent": resamples.mean((both_P & (judgements.first_P2.sum(axis=1) == 1)).astype(float)),
        "first": first_share(judgements, seed),
        "without_verdict": float(1 - judgements.valid_P2.mean()),
        "in_format": float(judgements.in_format_P2.mean()),
        "accuracy_in_format": float((judgements.right_P2 & judgements.in_format_P2).mean()),
        "entropy": float(entropy_P.mean()),
        "tokens": float(judgements.tokens_P2.mean()),
        "bins": entropy_bins(right_P, entropy_P, seed),
        "tells": told_apart(judgements.entropy_P2.ravel(), judgements.right_P2.ravel()),
    }


def by_source(judgements: Judged) -> dict[str, np.ndarray]:
    """Rows of every source, in the order in which they first come."""
    names = list(dict.fromkeys(judgements.source_P.tolist()))
    return {name: np.flatnonzero(judgements.source_P == name) for name in names}


def acc_plus(judgements: Judged, rows: np.ndarray, seed: int) -> dict[str, float] | None:
    """Share of items all of whose pairs are judged right, the mean over both orders of the answers, with the interval
    over items; None where pairs stand alone. MM-RLHF-RewardBench's ACC+ (arXiv 2502.10391)."""
    if judgements.item_P is None:
        return None
    item_R = judgements.item_P[rows]
    right_I = [judgements.right_P2[rows[item_R == item]].all(axis=0).mean() for item in dict.fromkeys(item_R)]
    return {"items": len(right_I), **Resamples(len(right_I), seed).mean(np.array(right_I))}


def first_share(judgements: Judged, seed: int) -> dict[str, float] | None:
    """Share of A among the verdicts, None without any; the pairs that have one are resampled."""
    valid_P = judgements.valid_P2.sum(axis=1).astype(float)
    rows = np.flatnonzero(valid_P)
    if not len(rows):
        return None
    others_P = valid_P - judgements.first_P2.sum(axis=1)
    return Resamples(len(rows), seed).saved(others_P[rows], valid_P[rows])  # 1 - (share of the others)


def entropy_bins(right_P: np.ndarray, entropy_P: np.ndarray, seed: int, bins: int = BINS) -> list[dict[str, Any]]:
    """Pairs cut by entropy into bins of as many each, lowest first: from, to and mean entropy (nats), pairs,
    accuracy."""
    cut = np.array_split(np.argsort(entropy_P, kind="stable"), bins)
    return [
        {
            "from": float(entropy_P[rows[0]]),
            "to": float(entropy_P[rows[-1]]),
            "entropy": float(entropy_P[rows].mean()),
            "pairs": len(rows),
            "accuracy": Resamples(len(rows), seed).mean(right_P[rows]),
        }
        for rows in cut
        if len(rows)
    ]


def told_apart(entropy_N: np.ndarray, right_N: np.ndarray) -> float | None:
    """P(entropy of a wrong one > entropy of a right one), ties count a half; None where all are right or all wrong.

    Example: right ones at 0.1 and 0.3, a wrong one at 0.2: 0.5.
    """
    right_R, wrong_W = np.sort(entropy_N[right_N]), entropy_N[~right_N]
    if not len(right_R) or not len(wrong_W):
        return None
    below_W = np.searchsorted(right_R, wrong_W, side="left") + np.searchsorted(right_R, wrong_W, side="right")
    return float(below_W.mean() / 2 / len(right_R))


def difference(one: Judged, other: Judged, seed: int) -> dict[str, float]:
    """Accuracy of `one` minus that of `other` on the same pairs, paired."""
    return Resamples(len(one.right_P2), seed).mean(one.right_P2.mean(axis=1) - other.right_P2.mean(axis=1))
