"""A reward benchmark counted as its own scripts count, beside our measure of both orders.

Shape suffixes: P pairs, 2 orders (as in the record, swapped), K responses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mprm.metrics.estimate import Ints
from mprm.metrics.pairwise import Judgements, accuracies
from mprm.metrics.results import PublishedAccuracy

if TYPE_CHECKING:
    from mprm.data.reward_benchmarks import Published

ORDERS_SEED = 0


def as_published(judged: Judgements, rule: Published) -> tuple[PublishedAccuracy, ...]:
    """By the rule of the benchmark, for every number of votes that it names and that were drawn; of the one response
    that is measured where none were drawn or the rule names no votes; of no pair that is left there is nothing."""
    right_P2K, valid_P2K = judged.right_P2K, judged.valid_P2K
    if not rule.votes or not right_P2K.shape[2]:
        right_P2K, valid_P2K = judged.right_P2[:, :, None], judged.valid_P2[:, :, None]
    n_pairs, _, n = right_P2K.shape
    order_P1K = (presented(n_pairs, n) if rule.random_order else np.zeros((n_pairs, n), dtype=np.int64))[:, None]
    right_PK, valid_PK = (np.take_along_axis(one_P2K, order_P1K, axis=1)[:, 0] for one_P2K in (right_P2K, valid_P2K))
    found = []
    for k in rule.votes or (1,):
        said_P = valid_PK[:, :k].all(axis=1)
        won_P = said_P & (2 * right_PK[:, :k].sum(axis=1) > k)
        coin_P = ~said_P & (rule.silent == "coin")
        kept_P = said_P | (rule.silent != "left_out")
        if k <= n and kept_P.any():
            right_P2 = np.stack([won_P | coin_P, won_P], axis=1)  # of a coin both falls, a half each
            item_P = None if judged.item_P is None else judged.item_P[kept_P]
            shares = accuracies(right_P2[kept_P], judged.source_P[kept_P], item_P)
            found.append(PublishedAccuracy(votes=k, left_out=int((~kept_P).sum()), **shares))
    return tuple(found)


def presented(n_pairs: int, n: int) -> Ints:
    """The order in which a pair is shown for every response, (P, K): 0 as in the record, 1 swapped; drawn with a seed
    of its own, the same for every judge."""
    return np.random.default_rng(ORDERS_SEED).integers(2, size=(n_pairs, n))
