"""Reranking of whole files: per source and in all, models beside the policy and each other."""

import json
import math
from collections.abc import Callable
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm.data.questions import CandidateSet
from mprm.metrics.best_of_n import AGGREGATORS, best_of_n, choices, orders, pass_at_n, rerank, vote
from mprm.metrics.best_of_n_results import Between, Method
from mprm.metrics.estimate import DIFFERENCE, mean
from mprm.metrics.predictions import StepScores
from mprm.metrics.results import Estimate

Scored = Callable[..., list[StepScores | None]]
MakeSet = Callable[..., CandidateSet]


def values(method: Method) -> list[float]:
    return [one.value for one in method.accuracy]


@pytest.fixture
def sets(make_set: MakeSet) -> list[CandidateSet]:
    """Two questions of one source, one of another with a candidate more than n_max = 3."""
    return [make_set("a", "10 9 9"), make_set("b", "10 10 8"), make_set("c", "7 10 - 10", source="t")]


@pytest.fixture
def good(scored: Scored) -> list[list[StepScores | None]]:
    return [scored(0.9, 0.2, 0.1), scored(0.8, 0.3, 0.8), scored(None, 0.6, 0.5, 0.4)]


@pytest.fixture
def bad(scored: Scored) -> list[list[StepScores | None]]:
    return [scored(0.1, 0.2, 0.3), scored(0.2, 0.1, 0.9), scored(None, None, None, None)]


def test_accuracy_by_hand(sets: list[CandidateSet], good: Any, bad: Any) -> None:
    report = rerank(sets, {"good": good, "bad": bad}, "mean", seed=0)
    assert (report.aggregate, report.n_max, report.questions, report.seed) == ("mean", 3, 3, 0)
    assert {name: of.questions for name, of in report.benchmarks.items()} == {"s": 2, "t": 1, "all": 3}
    of_s = report.benchmarks["s"]
    assert values(of_s.policy["pass@1"]) == pytest.approx([1 / 2] * 3)  # of 1/3 and 2/3
    assert values(of_s.policy["pass@N"]) == pytest.approx([1 / 2, (2 / 3 + 1) / 2, 1])
    assert of_s.policy["majority"].accuracy[-1].value == pytest.approx(1 / 2)
    # n = 2: a: 10 is best in two of three pairs; b: {0, 1}: 1, {0, 2}: tied, 1/2, {1, 2}: 0.
    assert values(of_s.models["good"]["mean"]) == pytest.approx([1 / 2, (2 / 3 + 1 / 2) / 2, (1 + 1 / 2) / 2])
    assert of_s.models["bad"]["mean"].accuracy[-1].value == 0
    assert of_s.models["good"]["weighted_majority"].accuracy[-1].value == 1  # 0.9 : 0.3 and 1.1 : 0.8
    assert of_s.ties == {"good": 1, "bad": 0}
    # c, n = 3 of 4: the unscored one is chosen only where it is alone; with no score at all everyone is as good.
    of_t = report.benchmarks["t"]
    assert values(of_t.models["good"]["mean"]) == pytest.approx([1 / 2, (2 / 3), 3 / 4])
    assert values(of_t.models["bad"]["mean"]) == pytest.approx([1 / 2] * 3)
    assert values(of_t.models["bad"]["weighted_majority"]) == [0, 0, 0]
    assert of_t.ties["bad"] == 0


def test_differences_are_paired_by_question(sets: list[CandidateSet], good: Any, bad: Any) -> None:
    of_s = rerank(sets, {"good": good, "bad": bad}, "mean", seed=0).benchmarks["s"]
    # Per question: 1 - 1/3 and 1/2 - 2/3.
    minus = of_s.models["good"]["mean"].minus["pass@1"]
    assert minus.value == pytest.approx(1 / 4)
    assert minus.low < 0 < minus.high
    minus = of_s.models["good"]["mean"].minus["majority"]  # 1 - 0 and 1/2 - 1
    assert minus == mean(np.array([1, -1 / 2]), DIFFERENCE)
    (between,) = of_s.between
    assert (between.a, between.b) == ("good", "bad")
    assert between.difference == mean(np.array([1, 1 / 2]), DIFFERENCE)
    for name in ("pass@1", "majority"):
        assert of_s.policy[name].minus == {}


def test_every_number_lies_in_its_interval(sets: list[CandidateSet], good: Any, bad: Any) -> None:
    report = rerank(sets, {"good": good, "bad": bad}, "product", seed=3)
    for benchmark in report.benchmarks.values():
        for methods in benchmark.models.values():
            assert set(methods) == {*AGGREGATORS, "weighted_majority"}
        for method in (method for owner in (benchmark.policy, *benchmark.models.values()) for method in owner.values()):
            assert len(method.accuracy) == 3
            for one in method.accuracy:
                assert one.low is not None
                assert one.high is not None
                assert 0 <= one.low <= one.value + 1e-9
                assert one.value <= one.high + 1e-9 <= 1 + 1e-8


def test_the_seed_draws_the_orders_of_votes(make_set: MakeSet) -> None:
    some = [make_set(str(n), "10 10 9 8 - 9 10") for n in range(5)]
    first, again, other = (rerank(some, {}, "mean", seed).benchmarks["all"].policy for seed in (0, 0, 1))
    assert first == again
    assert values(first["majority"]) != values(other["majority"])
    assert values(first["majority"]) == pytest.approx(values(other["majority"]), abs=0.05)
    assert values(first["pass@N"]) == values(other["pass@N"])


def test_models_are_not_compared_by_what_they_are_called(sets: list[CandidateSet], good: Any) -> None:
    report = rerank(sets, {"x": good, "y": good}, "mean", seed=0).benchmarks["all"]
    assert report.models["x"] == report.models["y"]
    assert report.between == (Between(a="x", b="y", difference=Estimate(0, 0, 0)),)


def test_choices(sets: list[CandidateSet], good: Any, bad: Any) -> None:
    fields = ("id", "source", "choice", "final_answer", "correct", "ties", "majority", "majority_correct")
    found = choices(sets, good, "mean")
    assert [tuple(choice[name] for name in fields) for choice in found] == [
        ("a", "s", 0, "10", True, 1, "9", False),
        ("b", "s", 0, "10", True, 2, "10", True),
        ("c", "t", 1, "10", True, 1, "10", True),
    ]
    assert [choice["score"] for choice in found] == pytest.approx([0.9, 0.8, 0.6])
    unscored = choices(sets, bad, "min")[2]
    assert [unscored[name] for name in ("choice", "final_answer", "correct", "score", "ties")] == [None] * 4 + [0]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_where_nobody_answers_there_is_no_majority(make_set: MakeSet, scored: Scored) -> None:
    (found,) = choices([make_set("a", "- -")], [scored(0.5, 0.6)], "mean")
    assert (found["majority"], found["majority_correct"], found["choice"]) == (None, False, 1)
    report = rerank([make_set("a", "- -")], {}, "mean", seed=0)
    assert values(report.benchmarks["all"].policy["majority"]) == [0, 0]


def test_an_unknown_aggregate_is_one_line(sets: list[CandidateSet], good: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^aggregate=median is unknown; choose one of mean, min, product, last, sum_l"
    ):
        rerank(sets, {"good": good}, "median", seed=0)
    with pytest.raises(ValueError, match=r"^aggregate=median is unknown"):
        choices(sets, good, "median")


def test_longer_candidates_are_scored_over_all_of_their_steps(make_set: MakeSet) -> None:
    """Steps .9 .1 against .4: the mean prefers the first, the worst step the second."""
    steps = StepScores(tuple(np.log([9.0, 1 / 9]))), StepScores((float(np.log(2 / 3)),))
    some = [make_set("a", "10 9")]
    assert [choices(some, [steps], name)[0]["choice"] for name in ("mean", "min", "product", "last")] == [0, 1, 1, 1]


# ---- one candidate


def test_what_a_candidate_is_worth() -> None:
    """P(yes) = 3/4, 1/2, 1/5 are the log odds ln 3, 0, ln 1/4."""
    log_odds = np.log([3.0, 1.0, 0.25])
    found = {name: worth(log_odds) for name, worth in AGGREGATORS.items()}
    assert found == pytest.approx(
        {"mean": 1.45 / 3, "min": 0.2, "product": math.log(0.075), "last": 0.2, "sum_logits": math.log(0.75)}
    )


@given(st.lists(st.floats(-800, 800), min_size=1, max_size=50))
def test_extreme_log_odds_are_finite_and_in_range(log_odds: list[float]) -> None:
    with np.errstate(over="raise", invalid="raise"):
        found = {name: worth(np.array(log_odds)) for name, worth in AGGREGATORS.items()}
    assert all(math.isfinite(value) for value in found.values())
    assert 0 <= found["min"] <= found["mean"] + 1e-12
    assert found["mean"] <= 1 + 1e-12
    assert found["product"] <= math.log(found["min"]) + 1e-9 if found["min"] > 1e-300 else found["product"] < 0


def test_products_that_would_be_zero_are_told_apart() -> None:
    long, longer = (AGGREGATORS["product"](np.full(steps, -10.0)) for steps in (100, 101))
    assert math.exp(long) == math.exp(longer) == 0
    assert long > longer


# ---- one question against all of its subsets

M = 6
lengths = st.integers(1, M)
scores = st.sampled_from([-np.inf, 0.1, 0.2, 0.3])
candidates = lengths.flatmap(
    lambda m: st.tuples(st.lists(scores, min_size=m, max_size=m), st.lists(st.booleans(), min_size=m, max_size=m))
)


def over_subsets(n_candidates: int, value) -> list[float]:  # type: ignore[no-untyped-def]
    """Mean of value(subset) over all subsets of every size."""
    sizes = range(1, n_candidates + 1)
    return [float(np.mean([value(list(s)) for s in combinations(range(n_candidates), n)])) for n in sizes]


def test_curves_by_hand() -> None:
    """Three candidates, the second best is right: n = 1: 1/3; n = 2: in one of three subsets; n = 3: never."""
    assert best_of_n(np.array([0.1, 0.9, 0.5]), np.array([False, False, True])) == pytest.approx([1 / 3, 1 / 3, 0])
    assert pass_at_n(np.array([False, False, True])) == pytest.approx([1 / 3, 2 / 3, 1])
    # All tied: every member is equally likely, whatever n is.
    assert best_of_n(np.zeros(4), np.array([True, False, False, False])) == pytest.approx([0.25] * 4)


@given(candidates)
def test_best_of_n_is_the_mean_over_all_subsets(some: tuple[list[float], list[bool]]) -> None:
    score, correct = np.array(some[0]), np.array(some[1])

    def chosen(subset: list[int]) -> float:
        best = score[subset].max()
        return float(np.mean([correct[m] for m in subset if score[m] == best]))

    assert best_of_n(score, correct) == pytest.approx(over_subsets(len(score), chosen))


@given(st.lists(st.booleans(), min_size=1, max_size=M))
def test_pass_at_n_is_the_mean_over_all_subsets(correct: list[bool]) -> None:
    expected = over_subsets(len(correct), lambda subset: any(correct[m] for m in subset))
    assert pass_at_n(np.array(correct)) == pytest.approx(expected)


@given(candidates)
def test_a_choice_is_never_better_than_one_that_knows(some: tuple[list[float], list[bool]]) -> None:
    score, correct = np.array(some[0]), np.array(some[1])
    known, chosen = pass_at_n(correct), best_of_n(score, correct)
    assert (chosen <= known + 1e-9).all()
    assert best_of_n(correct.astype(float), correct) == pytest.approx(known)
    assert chosen[0] == pytest.approx(correct.mean())


voters = st.integers(1, 5).flatmap(
    lambda m: st.tuples(
        st.lists(st.sampled_from([-1, 0, 1, 2]), min_size=m, max_size=m),
        st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=m, max_size=m),
        st.lists(st.booleans(), min_size=m, max_size=m),
    )
)


@given(voters)
def test_votes_over_all_orders_are_the_mean_over_all_subsets(some: tuple[list[int], list[float], list[bool]]) -> None:
    raw, weights, correct = some
    names = [name for name in dict.fromkeys(raw) if name >= 0]
    classes = [names.index(name) if name >= 0 else -1 for name in raw]
    right = {k: np.mean([c for c, of in zip(correct, classes, strict=True) if of == k]) for k in classes if k >= 0}

    def voted(subset: list[int]) -> float:
        totals = {k: sum(weights[m] for m in subset if classes[m] == k) for k in right}
        most = max(totals.values(), default=0.0)
        return float(np.mean([right[k] for k in right if totals[k] == most])) if most > 0 else 0.0

    every_order = np.array(list(permutations(range(len(raw)))))
    found = vote(np.array(classes), np.array(weights), np.array(correct), every_order)
    assert found == pytest.approx(over_subsets(len(raw), voted))


def test_votes_by_hand() -> None:
    """Answers a, a, b in this order, b right: a, then a, then a with two votes. With weights 1, 1, 3 b wins at last."""
    classes, correct, order = np.array([0, 0, 1]), np.array([False, False, True]), np.array([[0, 1, 2]])
    assert vote(classes, np.ones(3), correct, order).tolist() == [0, 0, 0]
    assert vote(classes, np.array([1.0, 1.0, 3.0]), correct, order).tolist() == [0, 0, 1]
    assert vote(classes, np.array([1.0, 1.0, 2.0]), correct, order).tolist() == [0, 0, 0.5]
    assert vote(classes, np.zeros(3), correct, order).tolist() == [0, 0, 0]
    assert vote(np.array([-1, -1, 0]), np.ones(3), correct, order).tolist() == [0, 0, 1]


def test_equal_sums_tie_in_whatever_order_they_were_added() -> None:
    weights = np.array([0.1, 0.2, 0.3, 0.3, 0.2, 0.1])  # .1 + .2 + .3 and .3 + .2 + .1 are not the same float
    found = vote(np.array([0, 0, 0, 1, 1, 1]), weights, np.array([1, 1, 1, 0, 0, 0], bool), np.arange(6)[None])
    assert found[-1] == 0.5


def test_orders_are_permutations_by_seed() -> None:
    first, again, other = (orders(7, 50, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (np.sort(first, axis=1) == np.arange(7)).all()
    assert (first == again).all()
    assert (first != other).any()
    assert len(np.unique(first[:, 0])) == 7
