"""Adaptive best-of-N, by hand and against its own parts."""

from collections.abc import Callable

import numpy as np
import pytest

from mprm.data.questions import CandidateSet
from mprm.metrics.adaptive import adaptive, bounds, candidates_needed
from mprm.metrics.predictions import StepScores

Scored = Callable[..., list[StepScores | None]]
MakeSet = Callable[..., CandidateSet]


def test_bounds_by_hand(scored: Scored) -> None:
    """mu = .5, kappa = 3: sigma = sqrt(.25 / 4) = .25, S = .5 - .125. mu = .8, kappa = 3: sigma = .2, S = .7."""
    score, spread = bounds(scored(0.5, 0.8, None, kappa=3.0), "q")
    assert score == pytest.approx([0.375, 0.7, -np.inf])
    assert spread == pytest.approx([0.25, 0.2, 0])
    two_steps = StepScores((0.0, float(np.log(4))), (3.0, 3.0))
    score, spread = bounds([two_steps], "q")
    assert (score[0], spread[0]) == pytest.approx(((0.375 + 0.7) / 2, 0.225))


def test_drawing_stops_where_the_best_is_sure() -> None:
    spread = np.full(12, 0.1)  # bounds +- .03
    sure = np.array([0.5, 0.8, 0.4, 0.3, *[0.9] * 8])
    assert candidates_needed(sure, spread) == 4  # .77 > .53: the better ones behind are never seen
    close = np.array([0.75, 0.8, 0.4, 0.3, 0.5, 0.5, 0.5, 0.9, *[0.1] * 4])
    assert candidates_needed(close, spread) == 8  # .77 < .78, then .87 > .83
    never = np.array([0.75, 0.8, *[0.1] * 10])
    assert candidates_needed(never, spread) == 12
    touching = np.array([0.5, 0.25, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    assert candidates_needed(touching, np.array([0.0, 0.25 / 0.3, *[0.0] * 6])) == 8  # .5 is not above .5
    assert candidates_needed(np.array([0.1, 0.9]), np.zeros(2)) == 2


def test_a_wide_best_score_is_not_sure() -> None:
    """S = .6 with u = 1 has the bounds .3 and .9, S = .59 with u = 0 is .59 twice: not sure. With u = .01, it is."""
    scores = np.array([0.6, 0.59, 0.1, 0.1, *[0.0] * 4])
    assert candidates_needed(scores, np.array([1.0, *[0.0] * 7])) == 8
    assert candidates_needed(scores, np.array([0.01, *[0.0] * 7])) == 4


def test_candidates_without_a_score_decide_nothing() -> None:
    unscored = np.full(8, -np.inf)
    assert candidates_needed(unscored, np.zeros(8)) == 8
    assert candidates_needed(np.array([-np.inf, 0.2, -np.inf, -np.inf, *unscored]), np.zeros(12)) == 4


def test_a_sure_question_costs_four_candidates_and_an_unsure_one_all(make_set: MakeSet, scored: Scored) -> None:
    # kappa so large that the bounds are the scores: the best is sure at once, unless several share the best score.
    sure = make_set("sure", "10 " + "9 " * 15), scored(0.9, *np.linspace(0.2, 0.3, 15), kappa=1e12)
    tied = make_set("tied", "9 " * 16), scored(*[0.5] * 16, kappa=1e12)
    sets, scores = zip(sure, tied, strict=True)
    report = adaptive(sets, scores, seed=0)
    assert report.adaptive.candidates.value == 10  # (4 + 16) / 2
    assert report.adaptive.tokens.value == 50
    assert report.saved["candidates"].value == report.saved["tokens"].value == pytest.approx(1 - 20 / 32)
    assert 0 < report.saved["candidates"].low < 0.01  # two questions say little
    assert report.all.accuracy.value == report.all_mean.accuracy.value == 0.5
    # The right one is seen where it is among the first four of an order.
    seen = report.adaptive.accuracy.value
    assert 2 * seen == pytest.approx(4 / 16, abs=0.2)
    assert report.minus_all.value == pytest.approx(seen - 0.5)
    assert report.fixed[4].accuracy == report.adaptive.accuracy
    assert [*report.fixed] == [4, 8, 12, 16]
    assert report.limit == 16
    assert [draws.candidates.value for draws in report.fixed.values()] == [4, 8, 12, 16]
    assert report.fixed[16].accuracy == report.all.accuracy


def test_the_score_counts_the_spread_and_the_mean_does_not(make_set: MakeSet) -> None:
    """mu .8 with kappa 0 is worth .8 - .5 * .4 = .6, mu .7 with a large kappa .7."""
    unsure, certain = StepScores((float(np.log(4)),), (0.0,)), StepScores((float(np.log(7 / 3)),), (1e12,))
    report = adaptive([make_set("a", "9 10")], [[unsure, certain]], seed=0)
    assert report.all.accuracy.value == 1
    assert report.all_mean.accuracy.value == 0
    assert report.fixed == {}  # no question has four candidates
    assert report.limit == 2
    assert report.saved["candidates"].value == 0


def test_more_than_sixteen_candidates_are_drawn_from(make_set: MakeSet, scored: Scored) -> None:
    """The right one of 32 is among the sixteen of an order half of the time."""
    some, scores = make_set("a", "10 " + "9 " * 31), scored(0.9, *[0.5] * 31, kappa=1.0)
    report = adaptive([some] * 20, [scores] * 20, seed=0)
    assert report.all.candidates.value == 16
    assert report.all.accuracy.value == pytest.approx(0.5, abs=0.05)


def test_tokens_are_unknown_unless_all_candidates_tell_them(make_set: MakeSet, scored: Scored) -> None:
    sets = [make_set("a", "10 9"), make_set("b", "10 9", n_tokens=None)]
    report = adaptive(sets, [scored(0.9, 0.1, kappa=4.0)] * 2, seed=0)
    assert report.adaptive.tokens is None
    assert "tokens" not in report.saved


def test_scores_without_kappa_are_refused(make_set: MakeSet, scored: Scored) -> None:
    with pytest.raises(
        ValueError, match=r"^question a has scores without kappa; adaptive best-of-N needs a model with"
    ):
        adaptive([make_set("a", "10 9")], [scored(None, 0.1)], seed=0)
