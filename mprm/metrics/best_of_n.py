"""Best-of-N: what reward models choose among the candidates of every question, beside the policy alone and its votes.

Shape suffixes: M candidates of a question, Q questions, N numbers of candidates 1..n_max.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from mprm.data.answers import answer_classes
from mprm.data.candidates import CandidateSet
from mprm.metrics.aggregate import AGGREGATORS
from mprm.metrics.curves import DRAWS, best_of_n, orders, pass_at_n, vote
from mprm.metrics.estimate import Floats, Resamples
from mprm.metrics.results import BestOfNBenchmark, BestOfNResults, Between, Method
from mprm.metrics.step_scores import StepScores

Scores = Sequence[Sequence[StepScores | None]]  # by question and candidate; None: could not be scored
Curves = dict[tuple[str, str], Floats]  # (POLICY or model, name) -> (N,) of one question, or (Q, N)

POLICY = ""


def rerank(
    sets: Sequence[CandidateSet], scores_by_model: Mapping[str, Scores], aggregate: str, seed: int
) -> BestOfNResults:
    """Accuracy for n = 1..n_max candidates, n_max being the least number that a question has.

    Args:
        sets: the questions.
        scores_by_model: model -> scores of every candidate of every question, in the order of `sets`.
        aggregate: name of the aggregator by which models are compared with each other; all are reported.
        seed: of the orders in which candidates vote, and of the bootstrap over questions.

    Per source, and for "all": the policy's pass@1 (a candidate at random: the same for every n), majority and pass@N;
    per model every aggregator of AGGREGATORS, weighted_majority (weight: mean P(yes), 0 where there is no score) and
    `ties`, the questions whose best score is shared by several of all their candidates. Differences are at n_max.

    Raises:
        ValueError: `aggregate` is unknown.
    """
    check_aggregate(aggregate)
    n_max = min(len(question.candidates) for question in sets)
    each = [
        _curves(question, {model: scores[row] for model, scores in scores_by_model.items()}, n_max, [seed, row])
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
                Resamples(int(chosen_Q.sum()), seed),
            )
            for name, chosen_Q in (rows | {"all": np.ones(len(sets), dtype=bool)}).items()
        },
    )


def choices(sets: Sequence[CandidateSet], scores: Scores, aggregate: str) -> list[dict[str, Any]]:
    """What one model chooses among all candidates of every question, beside the answer that most of them give.

    choice: index of the best candidate, the first of `ties` equal ones; null, as are its answer, correct and score,
    where none could be scored. majority: the most frequent answer, the first of equally frequent ones; right when at
    least half of the candidates that give it are.

    Raises:
        ValueError: `aggregate` is unknown.
    """
    check_aggregate(aggregate)
    return [_choice(*pair, aggregate) for pair in zip(sets, scores, strict=True)]


def check_aggregate(aggregate: str) -> None:
    """Raise ValueError for the name of no aggregator."""
    if aggregate not in AGGREGATORS:
        raise ValueError(f"aggregate={aggregate} is unknown; choose one of {', '.join(AGGREGATORS)}")


def candidate_scores(scores_M: Sequence[StepScores | None], aggregate: str) -> Floats:
    """One score per candidate, (M,); -inf where there is none."""
    worth = AGGREGATORS[aggregate]
    return np.array([-np.inf if scores is None else worth(np.array(scores.log_odds)) for scores in scores_M])


def _curves(
    question: CandidateSet, scores: Mapping[str, Sequence[StepScores | None]], n_max: int, seed: list[int]
) -> Curves:
    """All curves of one question, (N,). Votes of all models are counted over the same orders."""
    correct_M = np.array([candidate.correct for candidate in question.candidates])
    class_M = np.array(answer_classes([candidate.final_answer for candidate in question.candidates]))
    order_DN = orders(len(correct_M), DRAWS, np.random.default_rng(seed))[:, :n_max]
    curves = {
        (POLICY, "pass@1"): np.full(n_max, correct_M.mean()),
        (POLICY, "majority"): vote(class_M, np.ones(len(correct_M)), correct_M, order_DN),
        (POLICY, "pass@N"): pass_at_n(correct_M)[:n_max],
    }
    for model, scores_M in scores.items():
        for name in AGGREGATORS:
            curves[model, name] = best_of_n(candidate_scores(scores_M, name), correct_M)[:n_max]
        weight_M = np.maximum(candidate_scores(scores_M, "mean"), 0.0)
        curves[model, "weighted_majority"] = vote(class_M, weight_M, correct_M, order_DN)
    return curves


def _benchmark(curves: Curves, ties: dict[str, int], aggregate: str, resamples: Resamples) -> BestOfNBenchmark:
    last = {key: values_QN[:, -1] for key, values_QN in curves.items()}
    methods: dict[str, dict[str, Method]] = {POLICY: {}, **{model: {} for model in ties}}
    for (owner, name), values_QN in curves.items():
        others = () if owner == POLICY and name != "pass@N" else ("pass@1", "majority")
        minus = {other: resamples.mean(last[owner, name] - last[POLICY, other]) for other in others}
        methods[owner][name] = Method(accuracy=resamples.means(values_QN), minus=minus)
    between = [
        Between(a=a, b=b, difference=resamples.mean(last[a, aggregate] - last[b, aggregate]))
        for a, b in combinations(ties, 2)
    ]
    return BestOfNBenchmark(
        questions=len(last[POLICY, "pass@1"]),
        policy=methods.pop(POLICY),
        models=methods,
        ties=ties,
        between=tuple(between),
    )


def _choice(question: CandidateSet, scores_M: Sequence[StepScores | None], aggregate: str) -> dict[str, Any]:
    score_M = candidate_scores(scores_M, aggregate)
    best = int(score_M.argmax()) if _n_best(score_M) else None
    chosen = None if best is None else question.candidates[best]
    answers = [candidate.final_answer for candidate in question.candidates]
    class_M = np.array(answer_classes(answers))
    votes_K = np.bincount(class_M[class_M >= 0])
    givers = np.flatnonzero(class_M == votes_K.argmax()) if len(votes_K) else np.array([], dtype=np.int64)
    return {
        "id": question.id,
        "source": question.source,
        "choice": best,
        "final_answer": None if chosen is None else chosen.final_answer,
        "correct": None if chosen is None else chosen.correct,
        "score": None if best is None else float(score_M[best]),
        "ties": _n_best(score_M),
        "majority": answers[givers[0]] if len(givers) else None,
        "majority_correct": bool(len(givers))
        and bool(np.mean([question.candidates[m].correct for m in givers]) >= 0.5),
    }


def _n_best(score_M: Floats) -> int:
    """How many share the best score; 0 when none could be scored."""
    return int(((score_M == score_M.max()) & (score_M > -np.inf)).sum())
