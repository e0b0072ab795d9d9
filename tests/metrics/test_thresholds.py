import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm.metrics.metrics import (
    confusion_per_solution,
    labelled_steps,
    per_source,
    pooled_macro_f1,
    step_weighted_macro_f1,
)
from mprm.metrics.predictions import Prediction
from mprm.metrics.thresholds import calibrated_threshold, candidates, confusion_at, searched_threshold

step = st.tuples(st.sampled_from([1, -1]), st.integers(0, 20).map(lambda k: k / 20))
solutions = st.lists(st.tuples(st.sampled_from("xyz"), st.lists(step, min_size=1, max_size=6)), min_size=1, max_size=12)


def build(items: list[tuple[str, list[tuple[int, float]]]]) -> list[Prediction]:
    return [
        Prediction(str(number), source, tuple(label for label, _ in steps), tuple(score for _, score in steps))
        for number, (source, steps) in enumerate(items)
    ]


def test_candidates_are_rounded_sorted_and_unique() -> None:
    assert candidates(np.array([0.9, 0.12344, 0.12341])).tolist() == [0.1234, 0.9]


@pytest.mark.parametrize(("n", "kept"), [(1000, 1000), (1999, 1999), (2000, 1000), (3500, 1167)])
def test_many_candidates_are_thinned(n: int, kept: int) -> None:
    found = candidates(np.arange(n) / 10_000)
    assert len(found) == kept
    assert found[0] == 0
    assert found[1] == (n // 1000) / 10_000


@given(solutions)
def test_confusion_at_all_thresholds_is_that_at_each(items: list[tuple[str, list[tuple[int, float]]]]) -> None:
    steps = labelled_steps(build(items))
    thresholds = np.linspace(-0.1, 1.1, 49)
    one_by_one = [per_source(steps, confusion_per_solution(steps, threshold)) for threshold in thresholds]
    np.testing.assert_array_equal(confusion_at(steps, thresholds), one_by_one)


@given(solutions)
def test_no_candidate_is_better_and_no_smaller_one_as_good(items: list[tuple[str, list[tuple[int, float]]]]) -> None:
    steps = labelled_steps(build(items))
    thresholds = candidates(steps.scores_N)
    for chosen, objective in (
        (searched_threshold(steps), step_weighted_macro_f1),
        (calibrated_threshold(steps), pooled_macro_f1),
    ):
        value = {t: float(objective(per_source(steps, confusion_per_solution(steps, t)))) for t in thresholds.tolist()}
        assert value[chosen] == max(value.values())
        assert all(value[t] < value[chosen] for t in value if t < chosen)


def test_searched_worked() -> None:
    # at .2 all are accepted: (4/6 + 0) / 2; at .4: (4/5 + 2/3) / 2; at .6 no mistake: 1; at .8: (2/3 + 4/5) / 2
    steps = labelled_steps([Prediction("a", "s", (-1, -1, 1, 1), (0.2, 0.4, 0.6, 0.8))])
    assert searched_threshold(steps) == 0.6
    assert calibrated_threshold(steps) == 0.6


def test_searched_goes_by_source_and_calibrated_pools() -> None:
    steps = labelled_steps(build([("x", [(-1, 0.6), (1, 0.6)]), ("y", [(-1, 0.8), (1, 0.8)])]))
    # at .6 all are accepted: (2/3 + 0) / 2 = 1/3 in both sources and pooled
    # at .8 x is rejected: (0 + 2/3) / 2 = 1/3 in x, 1/3 in y, a tie; pooled (1/2 + 1/2) / 2
    assert searched_threshold(steps) == 0.6
    assert calibrated_threshold(steps) == 0.8


def test_constant_scores_leave_one_candidate() -> None:
    steps = labelled_steps([Prediction("a", "s", (-1, 1, 1), (0.25, 0.25, 0.25))])
    assert searched_threshold(steps) == calibrated_threshold(steps) == 0.25
