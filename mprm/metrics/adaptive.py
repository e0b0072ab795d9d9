"""Adaptive best-of-N (BetaPRM, arXiv 2605.15529): candidates are drawn until one is surely the best.

Shape suffixes: M candidates of a question, O orders, N the candidates of an order, Q questions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mprm.data.questions import CandidateSet
from mprm.metrics.best_of_n import Scores, candidate_scores, orders
from mprm.metrics.estimate import Floats, Ints, Resamples
from mprm.metrics.predictions import StepScores
from mprm.metrics.results import AdaptiveResults, Draws

# As published (arXiv 2605.15529).
AT_ONCE = 4  # candidates to start with, and to add
LIMIT = 16  # candidates at most
RISK = 0.5  # standard deviations by which an unsure step is worth less
WIDTH = 0.3  # of the bounds, in mean standard deviations

COSTS = ("candidates", "tokens")


def adaptive(sets: Sequence[CandidateSet], scores: Scores, seed: int, n_orders: int = 64) -> AdaptiveResults:
    """Accuracy and cost of drawing candidates until the best is sure, beside all N and fixed numbers of them.

    A question's candidates come in `n_orders` random orders, of which the first N = min(LIMIT, M) are used; all numbers
    are means over orders and questions. `adaptive`, `all` and `fixed` choose by the same score S = mean(mu - RISK
    sigma); `all_mean` by the mean of P(yes).

    Raises:
        ValueError: scores without kappa.
    """
    n_least = min(len(question.candidates) for question in sets)
    fixed = [n for n in range(AT_ONCE, LIMIT + 1, AT_ONCE) if n <= n_least]
    values: dict[str, list[float]] = {}
    for row, (question, scores_M) in enumerate(zip(sets, scores, strict=True)):
        rng = np.random.default_rng([seed, row])
        order_ON = orders(len(question.candidates), n_orders, rng)[:, :LIMIT]
        for name, value in _question(question, scores_M, order_ON, fixed).items():
            values.setdefault(name, []).append(value)
    resamples = Resamples(len(sets), seed)
    value_Q = {name: np.array(column) for name, column in values.items()}
    tokens_known = all(candidate.n_tokens is not None for question in sets for candidate in question.candidates)
    costs = COSTS if tokens_known else COSTS[:1]

    def draws(way: str) -> Draws:
        found = {name: resamples.mean(value_Q[f"{way} {name}"]) for name in ("accuracy", *costs)}
        return Draws(accuracy=found["accuracy"], candidates=found["candidates"], tokens=found.get("tokens"))

    accuracy_Q = value_Q["adaptive accuracy"]
    return AdaptiveResults(
        orders=n_orders,
        limit=LIMIT,
        adaptive=draws("adaptive"),
        all=draws("all"),
        all_mean=draws("all_mean"),
        saved={
            cost: resamples.saved(value_Q[f"adaptive {cost}"], value_Q[f"all {cost}"])
            for cost in costs
            if value_Q[f"all {cost}"].any()
        },
        minus_all=resamples.mean(accuracy_Q - value_Q["all accuracy"]),
        minus_all_mean=resamples.mean(accuracy_Q - value_Q["all_mean accuracy"]),
        fixed={n: draws(f"fixed {n}") for n in fixed},
    )


def candidates_needed(score_N: Floats, spread_N: Floats) -> int:
    """How many of the candidates of an order are drawn: AT_ONCE, and as many more again until the one with the best
    lower bound score - WIDTH spread is above the upper bound of every other.

    score_N: S of the candidates in the order in which they are drawn, -inf for one that could not be scored (its bounds
    are -inf, too); spread_N: u, their mean sigma.
    """
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


def _question(
    question: CandidateSet, scores_M: Sequence[StepScores | None], order_ON: Ints, fixed: list[int]
) -> dict[str, float]:
    """Accuracy, candidates and tokens of every way of drawing, means over the orders."""
    score_M, spread_M = bounds(scores_M, question.id)
    correct_M = np.array([candidate.correct for candidate in question.candidates])
    tokens_M = np.array([candidate.n_tokens or 0 for candidate in question.candidates])
    n_orders, n = order_ON.shape
    needed_O = np.array([candidates_needed(score_M[order], spread_M[order]) for order in order_ON])
    ways: dict[str, tuple[Floats, Ints]] = {
        "adaptive": (score_M, needed_O),
        "all": (score_M, np.full(n_orders, n)),
        "all_mean": (candidate_scores(scores_M, "mean"), np.full(n_orders, n)),
        **{f"fixed {count}": (score_M, np.full(n_orders, count)) for count in fixed},
    }
    found: dict[str, float] = {}
    for name, (worth_M, used_O) in ways.items():
        drawn_ON = np.arange(n) < used_O[:, None]
        # One behind what is drawn never wins, not even where nothing drawn could be scored: argmax takes the first.
        best_O = np.where(drawn_ON, worth_M[order_ON], -np.inf).argmax(axis=1)
        found[f"{name} accuracy"] = float(correct_M[order_ON[np.arange(n_orders), best_O]].mean())
        found[f"{name} candidates"] = float(used_O.mean())
        found[f"{name} tokens"] = float((tokens_M[order_ON] * drawn_ON).sum(axis=1).mean())
    return found
