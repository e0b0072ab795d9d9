import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm.metrics.baselines import accuracy_by_position, majority, position_only
from mprm.metrics.predictions import Prediction


def test_majority_says_the_more_frequent_label_of_every_step() -> None:
    right = [Prediction("a", "s", (1, 0, 1), (0.1, 0.1, 0.1)), Prediction("b", "s", (-1,), (0.9,))]
    wrong = [Prediction("a", "s", (1, 0, -1), (0.1, 0.1, 0.1)), Prediction("b", "s", (-1,), (0.9,))]
    assert [prediction.scores for prediction in majority(right)] == [(1.0, 1.0, 1.0), (1.0,)]
    assert [prediction.scores for prediction in majority(wrong)] == [(0.0, 0.0, 0.0), (0.0,)]


def test_accuracy_by_position_worked() -> None:
    prior = accuracy_by_position([Prediction("a", "s", (1, -1), (0, 0)), Prediction("b", "s", (1, 1, -1), (0, 0, 0))])
    assert prior.tolist() == [1, 0.6, 0.6, 0.6, 1, 0.6, 0.6, 0.6, 0.6, 0]


def test_neutral_steps_have_a_place_but_no_vote() -> None:
    with_neutral = accuracy_by_position([Prediction("a", "s", (1, 0, -1), (0, 0, 0))])
    assert with_neutral.tolist() == [1, *[0.5] * 8, 0]


def test_position_only_scores_the_place() -> None:
    prior = np.arange(10) / 10
    one, two, four = position_only(
        [
            Prediction("a", "s", (1,), (0.5,)),
            Prediction("b", "s", (1, -1), (0.5, 0.5)),
            Prediction("c", "s", (1, 0, -1, 1), (0.5, 0.5, 0.5, 0.5)),
        ],
        prior,
    )
    assert one.scores == (0.0,)
    assert two.scores == (0.0, 0.9)
    assert four.scores == pytest.approx((0.0, 0.3, 0.6, 0.9))


@given(st.lists(st.sampled_from([1, -1]), min_size=1, max_size=30))
def test_baselines_never_look_at_a_score(labels: list[int]) -> None:
    n = len(labels)
    low, high = ([Prediction("a", "s", tuple(labels), (score,) * n)] for score in (0.0, 1.0))
    assert majority(low) == majority(high)
    prior = accuracy_by_position(low)
    assert position_only(low, prior) == position_only(high, accuracy_by_position(high))
    assert min(prior) >= 0
    assert max(prior) <= 1
