"""How often a judge is right, and whether its entropy tells: pairwise accuracy, position bias, accuracy by entropy.

A pair is judged once in either order, and K times more where votes are measured. Both orders count; intervals are
bootstrapped over pairs.

Shape suffixes: P pairs, 2 orders (as in the record, swapped), K further responses, or how many of them vote, R some of
the pairs, I items of several pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import comb
from typing import Any, cast

import numpy as np

from mprm.metrics.estimate import DIFFERENCE, SHARE, Bools, Estimate, Floats, mean, means, saved
from mprm.metrics.results import EntropyBin, JudgeAccuracy, PairSource
from mprm.metrics.step_metrics import LabelledSteps, rankings

RESPONSES, VOTES = "responses", "votes"  # in a record: what is judged by, and the further responses
FIRST = "A"  # the verdict for the answer that is presented first
BINS = 5


@dataclass(frozen=True)
class Judgements:
    """The verdicts on pairs."""

    source_P: np.ndarray  # names
    first_P2: Bools  # the verdict is for the answer that is presented first
    valid_P2: Bools  # there is a verdict
    right_P2: Bools  # it is that of the label
    entropy_P2: Floats  # of the response, nats; NaN where a server does not tell
    tokens_P2: Floats  # its length; NaN likewise
    in_format_P2: Bools  # the verdict is in the words that judge.verdict wants
    right_P2K: Bools  # of the further responses
    valid_P2K: Bools
    item_P: np.ndarray | None = None  # names of the items that pairs belong to, None where they stand alone


def judgements(
    records: Sequence[dict[str, Any]], sources: Mapping[str, str], items: Mapping[str, str] | None = None
) -> Judgements:
    """Of the records of responses to both orders of every pair.

    sources: of the pairs by id, which also gives their order; items: of the pairs by id, where several belong to one.
    """
    of = {(record["id"], record["swapped"]): record for record in records}
    both = [[of[name, swapped] for swapped in (False, True)] for name in sources]

    def each(key: str) -> np.ndarray:
        return np.array([[record[RESPONSES][0][key] for record in orders] for orders in both])

    def verdicts(name: str) -> np.ndarray:  # (P, 2, responses)
        return np.array([[[o["verdict"] or "" for o in one.get(name, [])] for one in orders] for orders in both], str)

    better_P2 = np.array([[record["better"] for record in orders] for orders in both])
    verdict_P2, vote_P2K = verdicts(RESPONSES)[:, :, 0], verdicts(VOTES)
    return Judgements(
        source_P=np.array(list(sources.values())),
        first_P2=verdict_P2 == FIRST,
        valid_P2=verdict_P2 != "",
        right_P2=verdict_P2 == better_P2,
        entropy_P2=each("entropy").astype(float),
        tokens_P2=each("n_tokens").astype(float),
        in_format_P2=each("in_format"),
        right_P2K=vote_P2K == better_P2[:, :, None],
        valid_P2K=vote_P2K != "",
        item_P=np.array([items[name] for name in sources]) if items else None,
    )


def measure_judge(judged: Judgements) -> JudgeAccuracy:
    """All that is said of one judge."""
    right_P, entropy_P = judged.right_P2.mean(axis=1), judged.entropy_P2.mean(axis=1)
    told = bool(np.isfinite(entropy_P).all())
    consistent_P = judged.valid_P2.all(axis=1) & (judged.first_P2.sum(axis=1) == 1)
    writes = bool(judged.tokens_P2.any())  # a reward model gives scores: they have no entropy and know no order
    return JudgeAccuracy(
        **accuracies(judged.right_P2, judged.source_P, judged.item_P),
        votes=means(vote_accuracies(judged)),
        consistent=mean(consistent_P.astype(float), SHARE),
        first=first_share(judged) if writes else None,
        without_verdict=float(1 - judged.valid_P2.mean()),
        in_format=float(judged.in_format_P2.mean()),
        accuracy_in_format=float((judged.right_P2 & judged.in_format_P2).mean()),
        entropy=float(entropy_P.mean()) if told else None,
        tokens=float(tokens) if np.isfinite(tokens := judged.tokens_P2.mean()) else None,
        bins=entropy_bins(right_P, entropy_P) if told else (),
        tells=told_apart(judged.entropy_P2.ravel(), judged.right_P2.ravel()) if told else None,
    )


def accuracies(right_P2: Bools, source_P: np.ndarray, item_P: np.ndarray | None) -> dict[str, Any]:
    """The fields of PairAccuracy. ACC+ (arXiv 2502.10391) is the share of items all of whose pairs are judged right,
    the mean over both orders of the answers, with the interval over items; none where pairs stand alone."""

    def of(rows_P: Bools) -> PairSource:
        right_R2 = right_P2[rows_P]
        accuracy = mean(right_R2.mean(axis=1), SHARE)
        if item_P is None:
            return PairSource(pairs=len(right_R2), accuracy=accuracy)
        item_R = item_P[rows_P]
        all_I = [right_R2[item_R == item].all(axis=0).mean() for item in dict.fromkeys(item_R.tolist())]
        plus = mean(np.array(all_I), SHARE)
        return PairSource(pairs=len(right_R2), accuracy=accuracy, items=len(all_I), acc_plus=plus)

    sources = {name: of(source_P == name) for name in dict.fromkeys(source_P.tolist())}
    macro_accuracy = float(np.mean([one.accuracy.value for one in sources.values()]))
    return {**vars(of(np.ones(len(source_P), bool))), "macro_accuracy": macro_accuracy, "sources": sources}


def vote_accuracies(judged: Judgements) -> Floats:
    """How right votes of K = 1, 2, .. of the further responses are, (P, K): the mean over both orders. K = 1 is the
    accuracy of a single one."""
    right_P2, n = judged.right_P2K.sum(axis=2), judged.right_P2K.shape[2]
    wrong_P2 = judged.valid_P2K.sum(axis=2) - right_P2
    found_P2K = np.vectorize(partial(vote_accuracy, n=n), signature="(),()->(k)")(right_P2, wrong_P2)
    return cast(Floats, found_P2K.mean(axis=1))


@cache
def vote_accuracy(right: int, wrong: int, n: int) -> Floats:
    """How right a vote of K = 1..n of n responses is, (K,), whichever K they are: the mean over all choices.

    `right` of the responses have the right verdict, `wrong` the other one. The verdict that more of the K have wins; a
    tie counts a half, a fair coin's expectation; without any verdict the vote is wrong, as a response is.
    Example: of 3 responses 2 are right and 1 is wrong. K = 1: 2/3. K = 2: one choice of three is right, two are tied:
    1/3 + 2/3 x 1/2 = 2/3. K = 3: 1.
    """
    won_V = np.zeros(right + wrong + 1)  # by number of verdicts: choices that win, a tie for a half
    for r in range(right + 1):
        for w in range(wrong + 1):
            won_V[r + w] += comb(right, r) * comb(wrong, w) * (1.0 if r > w else 0.5 * (r == w > 0))
    silent = n - right - wrong
    choices = [comb(n, k) for k in range(n + 1)]
    return (np.convolve(won_V, [comb(silent, k) for k in range(silent + 1)]) / choices)[1:]


def vote_differences(one: Judgements, other: Judgements) -> tuple[Estimate, ...]:
    """Accuracy of the votes of K = 1, 2, .. of `one` minus that of `other` on the same pairs, paired."""
    return tuple(mean(differences_P, DIFFERENCE) for differences_P in (vote_accuracies(one) - vote_accuracies(other)).T)


def accuracy_difference(one: Judgements, other: Judgements) -> Estimate:
    """Accuracy of `one` minus that of `other` on the same pairs, paired."""
    return mean(one.right_P2.mean(axis=1) - other.right_P2.mean(axis=1), DIFFERENCE)


def first_share(judged: Judgements) -> Estimate | None:
    """Share of the first answer among the verdicts, None without any; the pairs that have one are resampled."""
    valid_P = judged.valid_P2.sum(axis=1).astype(float)
    rows_R = np.flatnonzero(valid_P)
    if not len(rows_R):
        return None
    others_P = valid_P - judged.first_P2.sum(axis=1)
    return saved(others_P[rows_R], valid_P[rows_R])  # 1 - (share of the others)


def entropy_bins(
    right_P: Floats, entropy_P: Floats, bins: int = BINS, flipped_P: Floats | None = None
) -> tuple[EntropyBin, ...]:
    """Pairs cut by entropy into bins of as many each, lowest first. flipped_P: 1 for a wrong label, else 0."""
    found = []
    for rows_R in np.array_split(np.argsort(entropy_P, kind="stable"), bins):
        if not len(rows_R):
            continue
        found.append(
            EntropyBin(
                lowest=float(entropy_P[rows_R[0]]),
                highest=float(entropy_P[rows_R[-1]]),
                entropy=float(entropy_P[rows_R].mean()),
                pairs=len(rows_R),
                accuracy=mean(right_P[rows_R], SHARE),
                flipped=None if flipped_P is None else mean(flipped_P[rows_R], SHARE),
            )
        )
    return tuple(found)


def told_apart(entropy_N: Floats, right_N: Bools) -> float | None:
    """P(entropy of a wrong one > entropy of a right one), ties count a half; None where all are right or all wrong."""
    one = LabelledSteps(("",), np.zeros(1, dtype=int), np.zeros(len(right_N), dtype=int), right_N, -entropy_N)
    auc = float(rankings(one, np.ones((1, 1)))[0][0])
    return None if np.isnan(auc) else auc
