"""Adaptive best-of-N (BetaPRM, arXiv 2605.15529): candidates are drawn until one is surely the best.

Shape suffixes: M candidates of a question, O orders, N the candidates of an order, Q questions, W ways of
drawing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mprm.data.questions import CandidateSet
from mprm.metrics.best_of_n import Scores, candidate_scores, orders
from mprm.metrics.best_of_n_results import AdaptiveResults, Draws
from mprm.metrics.estimate import DIFFERENCE, SHARE, Floats, mean, saved
from mprm.metrics.predictions import StepScores

# As published (arXiv 2605.15529).
AT_ONCE = 4  # candidates to start with, and to add
LIMIT = 16  # candidates at most
RISK = 0.5  # standard deviations by which an unsure step is worth less
WIDTH = 0.3  # of the bounds, in mean standard deviations

ADAPTIVE, ALL, ALL_MEAN = range(3)  # ways of drawing; behind them those of fixed numbers
ACCURACY, CANDIDATES, TOKENS = range(3)  # what is measured of a way


def adaptive(sets: Sequence[CandidateSet], scores: Scores, seed: int, n_orders: int = 64) -> AdaptiveResults:
    """Accuracy and cost of drawing candidates until the best is sure, beside all N and fixed numbers of them. A
    question's candidates come in `n_orders` random orders, of which the first N = min(LIMIT, M) are used; all numbers
    are means over orders and questions. `adaptive`, `all` and `fixed` choose by the same score S = mean(mu - RISK
    sigma); `all_mean` by the mean of P(yes). Raises ValueError for scores without kappa."""
    n_least = min(len(question.candidates) for question in sets)
    fixed = [n for n in range(AT_ONCE, LIMIT + 1, AT_ONCE) if n <= n_least]
    values_QW3 = np.stack(
        [
            _measured(question, scores_M, fixed, n_orders, np.random.default_rng([seed, row]))
            for row, (question, scores_M) in enumerate(zip(sets, scores, strict=True))
        ]
    )
    tokens_known = all(candidate.n_tokens is not None for question in sets for candidate in question.candidates)
    costs = {"candidates": CANDIDATES} | ({"tokens": TOKENS} if tokens_known else {})

    def draws(way: int) -> Draws:
        accuracy_Q, candidates_Q, tokens_Q = values_QW3[:, way].T
        tokens = mean(tokens_Q, None) if tokens_known else None
        return Draws(accuracy=mean(accuracy_Q, SHARE), candidates=mean(candidates_Q, None), tokens=tokens)

    accuracy_QW = values_QW3[..., ACCURACY]
    return AdaptiveResults(
        orders=n_orders,
        limit=min(LIMIT, max(len(question.candidates) for question in sets)),
        adaptive=draws(ADAPTIVE),
        all=draws(ALL),
        all_mean=draws(ALL_MEAN),
        saved={
            name: saved(values_QW3[:, ADAPTIVE, cost], values_QW3[:, ALL, cost])
            for name, cost in costs.items()
            if values_QW3[:, ALL, cost].any()
        },
        minus_all=mean(accuracy_QW[:, ADAPTIVE] - accuracy_QW[:, ALL], DIFFERENCE),
        minus_all_mean=mean(accuracy_QW[:, ADAPTIVE] - accuracy_QW[:, ALL_MEAN], DIFFERENCE),
        fixed={n: draws(way) for way, n in enumerate(fixed, start=ALL_MEAN + 1)},
    )


def candidates_needed(score_N: Floats, spread_N: Floats) -> int:
    """How many of the candidates of an order are drawn: AT_ONCE, and as many more again until the one with the best
    lower bound score - WIDTH spread is above the upper bound of every other. Scores are -inf without one."""
    low_N, high_N = score_N - WIDTH * spread_N, score_N + WIDTH * spread_N
    for n in range(AT_ONCE, len(score_N), AT_ONCE):
        best = int(low_N[:n].argmax())
        if low_N[best] > np.delete(high_N[:n], best).max():
            return n
    return len(score_N)


def bounds(scores_M: Sequence[StepScores | None], where: str) -> tuple[Floats, Floats]:
    """S = mean over the steps of mu - RISK sigma, and u = mean sigma, of every candidate, (M,); -inf and 0 without a
    score. Raises ValueError for scores without kappa."""
    score_M, spread_M = np.full(len(scores_M), -np.inf), np.zeros(len(scores_M))
    for m, scores in enumerate(scores_M):
        if scores is None:
            continue
        if (sigmas := scores.sigmas) is None:
            raise ValueError(
                f"question {where} has scores without kappa; adaptive best-of-N needs a model with that head"
            )
        score_M[m] = np.mean(np.array(scores.scores) - RISK * np.array(sigmas))
        spread_M[m] = np.mean(sigmas)
    return score_M, spread_M


def _measured(
    question: CandidateSet,
    scores_M: Sequence[StepScores | None],
    fixed: Sequence[int],
    n_orders: int,
    rng: np.random.Generator,
) -> Floats:
    """Accuracy, candidates and tokens of every way of drawing, means over the orders, (W, 3)."""
    score_M, spread_M = bounds(scores_M, question.id)
    correct_M = np.array([candidate.correct for candidate in question.candidates])
    tokens_M = np.array([candidate.n_tokens or 0 for candidate in question.candidates])
    order_ON = orders(len(correct_M), n_orders, rng)[:, :LIMIT]
    needed_O = np.array([candidates_needed(score_M[order], spread_M[order]) for order in order_ON])
    n = order_ON.shape[1]
    ways = [(score_M, needed_O), (score_M, n), (candidate_scores(scores_M, "mean"), n), *((score_M, k) for k in fixed)]
    measured = []
    for worth_M, used in ways:
        drawn_ON = np.arange(n) < np.broadcast_to(used, n_orders)[:, None]
        # One behind what is drawn never wins, not even where nothing drawn could be scored: argmax takes the first.
        best_O = np.where(drawn_ON, worth_M[order_ON], -np.inf).argmax(axis=1)
        right_O = correct_M[order_ON[np.arange(n_orders), best_O]]
        tokens_O = (tokens_M[order_ON] * drawn_ON).sum(axis=1)
        measured.append([right_O.mean(), np.mean(used), tokens_O.mean()])
    return np.array(measured)
