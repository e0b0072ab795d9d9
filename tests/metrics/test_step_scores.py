"""P(yes) and its deviation, from log odds and kappa."""

import math

import pytest

from mprm.metrics.step_scores import StepScores


def test_scores_are_the_logistic_of_the_log_odds() -> None:
    assert StepScores((0.0, math.log(3), -math.log(3))).scores == pytest.approx([0.5, 0.75, 0.25])
    assert StepScores((1000.0, -1000.0)).scores == [1.0, 0.0]


def test_sigma() -> None:
    assert StepScores((0.0,)).sigmas is None
    assert StepScores((0.0, math.log(3)), (3.0, 2.0)).sigmas == pytest.approx([0.25, math.sqrt(0.75 * 0.25 / 3)])
