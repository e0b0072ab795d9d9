"""Means over questions and their intervals."""

import numpy as np
import pytest

from mprm.metrics.estimate import Resamples


def test_worked_values() -> None:
    """Two questions: a resample is (0, 0), (0, 1) or (1, 1); 2.5 % and 97.5 % are the extremes."""
    resamples = Resamples(2, seed=0)
    assert resamples.mean(np.array([0.0, 1.0])) == {"value": 0.5, "low": 0, "high": 1}
    curve = resamples.curve(np.array([[0.0, 1.0], [1.0, 1.0]]))
    assert curve == {"accuracy": [0.5, 1], "interval": [[0, 1], [1, 1]]}
    assert resamples.saved(np.array([4.0, 16.0]), np.array([16.0, 16.0])) == {"value": 0.375, "low": 0, "high": 0.75}


def test_an_interval_is_about_two_standard_errors_to_each_side() -> None:
    values = np.random.default_rng(0).random(400)
    found = Resamples(400, seed=1).mean(values)
    half = 1.96 * values.std() / 20
    assert (found["low"], found["high"]) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 8)
    assert Resamples(400, seed=1).mean(values) == found
    assert Resamples(400, seed=2).mean(values) != found
