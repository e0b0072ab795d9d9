"""Reranking of whole files: per source and in all, models beside the policy and each other."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mprm.data.candidates import CandidateSet
from mprm.metrics.aggregate import AGGREGATORS
from mprm.metrics.best_of_n import choices, rerank
from mprm.metrics.step_scores import StepScores

Scored = Callable[..., list[StepScores | None]]
MakeSet = Callable[..., CandidateSet]


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
    assert {name: report[name] for name in ("aggregate", "n_max", "questions", "seed")} == {
        "aggregate": "mean",
        "n_max": 3,
        "questions": 3,
        "seed": 0,
    }
    assert {name: of["questions"] for name, of in report["benchmarks"].items()} == {"s": 2, "t": 1, "all": 3}
    of_s = report["benchmarks"]["s"]
    assert of_s["policy"]["pass@1"]["accuracy"] == pytest.approx([1 / 2] * 3)  # of 1/3 and 2/3
    assert of_s["policy"]["pass@N"]["accuracy"] == pytest.approx([1 / 2, (2 / 3 + 1) / 2, 1])
    assert of_s["policy"]["majority"]["accuracy"][-1] == pytest.approx(1 / 2)
    # n = 2: a: 10 is best in two of three pairs; b: {0, 1}: 1, {0, 2}: tied, 1/2, {1, 2}: 0.
    assert of_s["models"]["good"]["mean"]["accuracy"] == pytest.approx([1 / 2, (2 / 3 + 1 / 2) / 2, (1 + 1 / 2) / 2])
    assert of_s["models"]["bad"]["mean"]["accuracy"][-1] == 0
    assert of_s["models"]["good"]["weighted_majority"]["accuracy"][-1] == 1  # 0.9 : 0.3 and 1.1 : 0.8
    assert [of_s["models"][name]["ties"] for name in ("good", "bad")] == [1, 0]
    # c, n = 3 of 4: the unscored one is chosen only where it is alone; with no score at all everyone is as good.
    of_t = report["benchmarks"]["t"]
    assert of_t["models"]["good"]["mean"]["accuracy"] == pytest.approx([1 / 2, (2 / 3), 3 / 4])
    assert of_t["models"]["bad"]["mean"]["accuracy"] == pytest.approx([1 / 2] * 3)
    assert of_t["models"]["bad"]["weighted_majority"]["accuracy"] == [0, 0, 0]
    assert of_t["models"]["bad"]["ties"] == 0


def test_differences_are_paired_by_question(sets: list[CandidateSet], good: Any, bad: Any) -> None:
    of_s = rerank(sets, {"good": good, "bad": bad}, "mean", seed=0)["benchmarks"]["s"]
    # Per question: 1 - 1/3 and 1/2 - 2/3.
    minus = of_s["models"]["good"]["mean"]["minus_pass@1"]
    assert (minus["value"], minus["low"], minus["high"]) == pytest.approx((1 / 4, -1 / 6, 2 / 3))
    minus = of_s["models"]["good"]["mean"]["minus_majority"]  # 1 - 0 and 1/2 - 1
    assert (minus["value"], minus["low"], minus["high"]) == pytest.approx((1 / 4, -1 / 2, 1))
    (between,) = of_s["between"]
    assert (between["a"], between["b"]) == ("good", "bad")
    assert (between["value"], between["low"], between["high"]) == pytest.approx((3 / 4, 1 / 2, 1))
    for name in ("pass@1", "majority"):
        assert set(of_s["policy"][name]) == {"accuracy", "interval"}


def test_the_report_is_json_with_intervals_around_every_number(sets: list[CandidateSet], good: Any, bad: Any) -> None:
    report = rerank(sets, {"good": good, "bad": bad}, "product", seed=3)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    for benchmark in report["benchmarks"].values():
        for model in benchmark["models"].values():
            assert set(model) == {*AGGREGATORS, "weighted_majority", "ties"}
        owners = [benchmark["policy"], *benchmark["models"].values()]
        for measure in (value for owner in owners for value in owner.values() if isinstance(value, dict)):
            assert len(measure["accuracy"]) == len(measure["interval"]) == 3
            for accuracy, (low, high) in zip(measure["accuracy"], measure["interval"], strict=True):
                assert 0 <= low <= accuracy + 1e-9
                assert accuracy <= high + 1e-9 <= 1 + 1e-8


def test_the_seed_draws_the_orders_of_votes(make_set: MakeSet) -> None:
    some = [make_set(str(n), "10 10 9 8 - 9 10") for n in range(5)]
    first, again, other = (rerank(some, {}, "mean", seed)["benchmarks"]["all"]["policy"] for seed in (0, 0, 1))
    assert first == again
    assert first["majority"]["accuracy"] != other["majority"]["accuracy"]
    assert first["majority"]["accuracy"] == pytest.approx(other["majority"]["accuracy"], abs=0.05)
    assert first["pass@N"]["accuracy"] == other["pass@N"]["accuracy"]


def test_models_are_not_compared_by_what_they_are_called(sets: list[CandidateSet], good: Any) -> None:
    report = rerank(sets, {"x": good, "y": good}, "mean", seed=0)["benchmarks"]["all"]
    assert report["models"]["x"] == report["models"]["y"]
    assert report["between"] == [{"a": "x", "b": "y", "value": 0, "low": 0, "high": 0}]


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
    assert report["benchmarks"]["all"]["policy"]["majority"]["accuracy"] == [0, 0]


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
