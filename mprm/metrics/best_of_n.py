"""Best-of-N: what reward models choose among the candidates of every question, beside the policy alone and its votes.

The n candidates are a random subset of a question's M, and everything is the mean over subsets: in closed form where
there is one, over random orders for votes.

Shape suffixes: M candidates of a question, T steps of a candidate, Q questions, N numbers of candidates 1..n_max, D
random orders, K classes of equal answers, G groups of equal scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from mprm.data.answers import answer_classes
from mprm.data.questions import CandidateSet
from mprm.metrics.best_of_n_results import BestOfNBenchmark, BestOfNResults, Between, Method
from mprm.metrics.estimate import DIFFERENCE, Bools, Floats, Ints, mean, means
from mprm.metrics.predictions import StepScores

Scores = Sequence[Sequence[StepScores | None]]  # by question and candidate; None: could not be scored
Curves = dict[tuple[str, str], Floats]  # (POLICY or model, method) -> (N,) of one question, or (Q, N)

POLICY = ""
ORDERS = 256  # in which the candidates of a question vote
TIED = 1e-9  # of the sum: adding the same weights in another order changes it by less


def log_probability(log_odds_T: Floats) -> Floats:
    """log P(yes) of every step, without overflow."""
    return -np.logaddexp(0, -log_odds_T)


# What a candidate is worth, larger is better. The log of a product does not become zero with many steps. In a sum of
# log odds no step alone decides, and more steps that are rather right are better than few.
AGGREGATORS: dict[str, Callable[[Floats], float]] = {
    "mean": lambda log_odds_T: float(np.exp(log_probability(log_odds_T)).mean()),
    "min": lambda log_odds_T: float(np.exp(log_probability(log_odds_T.min()))),
    "product": lambda log_odds_T: float(log_probability(log_odds_T).sum()),
    "last": lambda log_odds_T: float(np.exp(log_probability(log_odds_T[-1]))),
    "sum_logits": lambda log_odds_T: float(log_odds_T.sum()),
}


def check_aggregate(aggregate: str) -> None:
    """Raise ValueError for the name of no aggregator."""
    if aggregate not in AGGREGATORS:
        raise ValueError(f"aggregate={aggregate} is unknown; choose one of {', '.join(AGGREGATORS)}")


def candidate_scores(scores_M: Sequence[StepScores | None], aggregate: str) -> Floats:
    """One score per candidate, (M,); -inf where there is none."""
    worth = AGGREGATORS[aggregate]
    return np.array([-np.inf if scores is None else worth(np.array(scores.log_odds)) for scores in scores_M])


def rerank(
    sets: Sequence[CandidateSet], scores_by_model: Mapping[str, Scores], aggregate: str, seed: int
) -> BestOfNResults:
    """Accuracy of every way of choosing, per source of questions and for "all".

    aggregate: by which models are compared with each other; all are reported.
    seed: of the orders in which candidates vote.
    Raises ValueError for an unknown `aggregate`.
    """
    check_aggregate(aggregate)
    n_max = min(len(question.candidates) for question in sets)
    each = [
        curves_of(question, {model: scores[row] for model, scores in scores_by_model.items()}, n_max, [seed, row])
        for row, question in enumerate(sets)
    ]
    curves = {key: np.stack([question[key] for question in each]) for key in each[0]}
    ties = {
        model: np.array([_n_best(candidate_scores(of_question, aggregate)) > 1 for of_question in scores])
        for model, scores in scores_by_model.items()
    }
    source_Q = np.array([question.source for question in sets])
    rows = {source: source_Q == source for source in sorted(set(source_Q.tolist()))}
    return BestOfNResults(
        aggregate=aggregate,
        n_max=n_max,
        questions=len(sets),
        seed=seed,
        benchmarks={
            name: _benchmark(
                {key: values_QN[chosen_Q] for key, values_QN in curves.items()},
                {model: int(tied_Q[chosen_Q].sum()) for model, tied_Q in ties.items()},
                aggregate,
            )
            for name, chosen_Q in (rows | {"all": np.ones(len(sets), dtype=bool)}).items()
        },
    )


def curves_of(
    question: CandidateSet, scores: Mapping[str, Sequence[StepScores | None]], n_max: int, seed: list[int]
) -> Curves:
    """All curves of one question, (N,). Votes of all models are counted over the same orders."""
    correct_M = np.array([candidate.correct for candidate in question.candidates])
    class_M = np.array(answer_classes([candidate.final_answer for candidate in question.candidates]))
    order_DN = orders(len(correct_M), ORDERS, np.random.default_rng(seed))[:, :n_max]
    curves = {
        (POLICY, "pass@1"): np.full(n_max, correct_M.mean()),
        (POLICY, "majority"): vote(class_M, np.ones(len(correct_M)), correct_M, order_DN),
        (POLICY, "pass@N"): pass_at_n(correct_M)[:n_max],
    }
    for model, scores_M in scores.items():
        for name in AGGREGATORS:
            curves[model, name] = best_of_n(candidate_scores(scores_M, name), correct_M)[:n_max]
        weight_M = np.maximum(candidate_scores(scores_M, "mean"), 0.0)  # 0 where there is no score
        curves[model, "weighted_majority"] = vote(class_M, weight_M, correct_M, order_DN)
    return curves


def _benchmark(curves: Curves, ties: dict[str, int], aggregate: str) -> BestOfNBenchmark:
    last = {key: values_QN[:, -1] for key, values_QN in curves.items()}
    methods: dict[str, dict[str, Method]] = {POLICY: {}, **{model: {} for model in ties}}
    for (owner, name), values_QN in curves.items():
        others = () if owner == POLICY and name != "pass@N" else ("pass@1", "majority")
        minus = {other: mean(last[owner, name] - last[POLICY, other], DIFFERENCE) for other in others}
        methods[owner][name] = Method(accuracy=means(values_QN), minus=minus)
    between = [
        Between(a=a, b=b, difference=mean(last[a, aggregate] - last[b, aggregate], DIFFERENCE))
        for a, b in combinations(ties, 2)
    ]
    return BestOfNBenchmark(
        questions=len(last[POLICY, "pass@1"]),
        policy=methods.pop(POLICY),
        models=methods,
        ties=ties,
        between=tuple(between),
    )


def choices(sets: Sequence[CandidateSet], scores: Scores, aggregate: str) -> list[dict[str, Any]]:
    """What one model chooses among all candidates of every question, beside the answer that most of them give.

    choice: index of the best candidate, the first of `ties` equal ones; null, as are its answer, correct and score,
    where none could be scored. accuracy: how often the best of n_max of the candidates is right, as in rerank().
    majority: the most frequent answer, the first of equally frequent ones; right when at least half of the candidates
    that give it are. Raises ValueError for an unknown `aggregate`.
    """
    check_aggregate(aggregate)
    found, n_max = [], min(len(question.candidates) for question in sets)
    for question, scores_M in zip(sets, scores, strict=True):
        correct_M = np.array([candidate.correct for candidate in question.candidates])
        score_M = candidate_scores(scores_M, aggregate)
        best = int(score_M.argmax()) if _n_best(score_M) else None
        chosen = None if best is None else question.candidates[best]
        answers = [candidate.final_answer for candidate in question.candidates]
        class_M = np.array(answer_classes(answers))
        votes_K = np.bincount(class_M[class_M >= 0])
        givers = np.flatnonzero(class_M == votes_K.argmax()).tolist() if len(votes_K) else []
        right = [question.candidates[m].correct for m in givers]
        found.append(
            {
                "id": question.id,
                "source": question.source,
                "choice": best,
                "final_answer": None if chosen is None else chosen.final_answer,
                "correct": None if chosen is None else chosen.correct,
                "score": None if best is None else float(score_M[best]),
                "ties": _n_best(score_M),
                "accuracy": float(best_of_n(score_M, correct_M)[n_max - 1]),
                "majority": answers[givers[0]] if givers else None,
                "majority_correct": bool(givers) and 2 * sum(right) >= len(right),
            }
        )
    return found


def _n_best(score_M: Floats) -> int:
    """How many share the best score; 0 when none could be scored."""
    return int(((score_M == score_M.max()) & (score_M > -np.inf)).sum())


# ---- one question: how often the choice among n of its candidates is right


def best_of_n(score_M: Floats, correct_M: Bools) -> Floats:
    """How often the best of n = 1..M is right, (M,). -inf: could not be scored, ranks last. The best of a subset lies
    in a group of equal scores, B candidates being better and G in the group, with probability [C(M - B, n) - C(M - B -
    G, n)] / C(M, n), and every member of the group is then equally likely chosen."""
    _, group_M, size_G = np.unique(-score_M, return_inverse=True, return_counts=True)
    right_G = np.bincount(group_M, weights=correct_M) / size_G
    avoids_BN = _avoids(len(score_M))
    end_G = np.cumsum(size_G)
    return np.asarray(right_G @ (avoids_BN[end_G - size_G] - avoids_BN[end_G]))


def pass_at_n(correct_M: Bools) -> Floats:
    """How often one of n is right, (M,): 1 - C(M - c, n) / C(M, n), c of M being right."""
    return np.asarray(1 - _avoids(len(correct_M))[int(correct_M.sum())])


@cache
def _avoids(n_candidates: int) -> Floats:
    """Chance that n random candidates avoid b given ones: C(M - b, n) / C(M, n), rows b = 0..M, columns n = 1..M."""
    sizes = range(1, n_candidates + 1)
    rows = [[comb(n_candidates - b, n) / comb(n_candidates, n) for n in sizes] for b in range(n_candidates + 1)]
    return np.array(rows)


def orders(n_candidates: int, draws: int, rng: np.random.Generator) -> Ints:
    """Random orders of the candidates, (D, M). The first n of a random order are a random subset."""
    return rng.permuted(np.tile(np.arange(n_candidates), (draws, 1)), axis=1)


def vote(class_M: Ints, weight_M: Floats, correct_M: Bools, order_DN: Ints) -> Floats:
    """How often the answer with the most weight among the first n of an order is right, (N,). A class of equal answers
    is as right as its members are on average; -1 does not vote. Of tied answers one is taken at random. Where nobody
    with a weight votes the answer is wrong."""
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
