"""A reward benchmark counted as its own scripts count, beside our measure of both orders.

Shape suffixes: P pairs, 2 orders (as in the record, swapped), K responses, R some of the pairs, I items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mprm.metrics.estimate import SHARE, Bools, Estimate, Floats, Ints, mean
from mprm.metrics.pairwise import Judgements
from mprm.metrics.results import PublishedAccuracy

if TYPE_CHECKING:
    from mprm.data.reward_benchmarks import Published

ORDERS_SEED = 0


def as_published(judged: Judgements, rule: Published) -> tuple[PublishedAccuracy, ...]:
    """By the rule of the benchmark, for every number of votes that it names and that were drawn; of the one response
    that is measured where none were drawn or the rule names no votes."""
    right_P2K, valid_P2K = judged.right_P2K, judged.valid_P2K
    if not rule.votes or not right_P2K.shape[2]:
        right_P2K, valid_P2K = judged.right_P2[:, :, None], judged.valid_P2[:, :, None]
    n_pairs, _, n = right_P2K.shape
    order_PK = presented(n_pairs, n) if rule.random_order else np.zeros((n_pairs, n), dtype=np.int64)
    right_PK, valid_PK = (
        np.take_along_axis(one_P2K, order_PK[:, None], axis=1)[:, 0] for one_P2K in (right_P2K, valid_P2K)
    )
    return tuple(_of_votes(judged, rule, right_PK[:, :k], valid_PK[:, :k]) for k in rule.votes or (1,) if k <= n)


def presented(n_pairs: int, n: int) -> Ints:
    """The order in which a pair is shown for every response, (P, K): 0 as in the record, 1 swapped; drawn with a seed
    of its own, the same for every judge."""
    return np.random.default_rng(ORDERS_SEED).integers(2, size=(n_pairs, n))


def _of_votes(judged: Judgements, rule: Published, right_PK: Bools, valid_PK: Bools) -> PublishedAccuracy:
    said_P = valid_PK.all(axis=1)
    won_P = 2 * right_PK.sum(axis=1) > right_PK.shape[1]
    score_P = np.where(said_P, won_P, np.nan if rule.silent is None else rule.silent)
    rows = {name: judged.source_P == name for name in dict.fromkeys(judged.source_P.tolist())}
    sources = {name: _mean(score_P[rows_P]) for name, rows_P in rows.items()}
    groups = [None if one is None else one.value for one in sources.values()]
    return PublishedAccuracy(
        votes=right_PK.shape[1],
        left_out=int(np.isnan(score_P).sum()),
        accuracy=_mean(score_P),
        macro_accuracy=None if None in groups else float(np.mean([one for one in groups if one is not None])),
        sources=sources,
        acc_plus=_acc_plus(judged.item_P, won_P & said_P),
        source_acc_plus={
            name: _acc_plus(None if judged.item_P is None else judged.item_P[rows_P], (won_P & said_P)[rows_P])
            for name, rows_P in rows.items()
        },
    )


def _mean(score_R: Floats) -> Estimate | None:
    """Over those that count; None where none does."""
    counted_R = score_R[~np.isnan(score_R)]
    return mean(counted_R, SHARE) if len(counted_R) else None


def _acc_plus(item_R: np.ndarray | None, right_R: Bools) -> Estimate | None:
    """Share of the items all of whose pairs are right; None where pairs stand alone."""
    if item_R is None:
        return None
    return mean(np.array([float(right_R[item_R == item].all()) for item in dict.fromkeys(item_R.tolist())]), SHARE)
