"""One question: how often the choice among n of its M candidates is right, for n = 1..M.

The n candidates are a random subset, and everything is the mean over subsets: in closed form where there is one, over
random orders for votes. Shape suffixes: M candidates, N = 1..n_max, D random orders, K classes of answers.
"""

from functools import cache
from math import comb

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

DRAWS = 256
TIED = 1e-9  # of the sum: adding the same weights in another order changes it by less


def best_of_n(score_M: Floats, correct_M: Bools) -> Floats:
    """How often the best of n is right, (M,). -inf: could not be scored, ranks last.

    The best of a subset lies in a group of equal scores, B candidates being better and G in the group, with probability
    [C(M - B, n) - C(M - B - G, n)] / C(M, n), and every member of the group is then equally likely chosen. Example: of
    three candidates the second best is right. It is chosen of n = 1 in 1/3 of the cases, of n = 2 in 1/3 (the subset
    without the best), of n = 3 never.
    """
    _, group_M, size_G = np.unique(-score_M, return_inverse=True, return_counts=True)
    right_G = np.bincount(group_M, weights=correct_M) / size_G
    avoids_BN = _avoids(len(score_M))
    end_G = np.cumsum(size_G)
    return np.asarray(right_G @ (avoids_BN[end_G - size_G] - avoids_BN[end_G]))


def pass_at_n(correct_M: Bools) -> Floats:
    """How often one of n is right, (M,): 1 - C(M - c, n) / C(M, n), c of M being right."""
    return np.asarray(1 - _avoids(len(correct_M))[int(correct_M.sum())])


def orders(n_candidates: int, draws: int, rng: np.random.Generator) -> Ints:
    """Random orders of the candidates, (D, M). The first n of a random order are a random subset."""
    return rng.permuted(np.tile(np.arange(n_candidates), (draws, 1)), axis=1)


def vote(class_M: Ints, weight_M: Floats, correct_M: Bools, order_DN: Ints) -> Floats:
    """How often the answer with the most weight among the first n of an order is right, (N,).

    A class of equal answers is as right as its members are on average; -1 does not vote. Of tied answers one is taken
    at random. Where nobody with a weight votes the answer is wrong.
    """
    voters_M = class_M >= 0
    if not voters_M.any():
        return np.zeros(order_DN.shape[1])
    right_K = np.bincount(class_M[voters_M], weights=correct_M[voters_M]) / np.bincount(class_M[voters_M])
    weight_KM = np.where(np.arange(len(right_K))[:, None] == class_M, weight_M, 0.0)
    total_KDN = weight_KM[:, order_DN]
    np.cumsum(total_KDN, axis=2, out=total_KDN)
    most_DN = total_KDN.max(axis=0)
    wins_KDN = total_KDN >= most_DN * (1 - TIED)
    right = np.flatnonzero(right_K)
    share_DN = np.tensordot(right_K[right], wins_KDN[right], axes=1) / wins_KDN.sum(axis=0)
    return np.asarray(np.where(most_DN > 0, share_DN, 0.0).mean(axis=0))


@cache
def _avoids(n_candidates: int) -> Floats:
    """Chance that n random candidates avoid b given ones: C(M - b, n) / C(M, n), rows b = 0..M, columns n = 1..M."""
    sizes = range(1, n_candidates + 1)
    rows = [[comb(n_candidates - b, n) / comb(n_candidates, n) for n in sizes] for b in range(n_candidates + 1)]
    return np.array(rows)
