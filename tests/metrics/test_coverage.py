"""Do 95 % intervals hold the truth about as often as they say? A longer simulation: tests/benchmarks/coverage.py."""

from collections import Counter

import numpy as np
import pytest
from benchmarks.coverage import ERRORS, items, measures, train, truth
from scipy.special import expit

from mprm.metrics.estimate import (
    DIFFERENCE,
    SHARE,
    Resampled,
    difference,
    half_width,
    over_items,
    over_seeds,
    resample_weights,
)

N = 40  # questions
HARD, APART, BETTER = 1.5, 0.6, 0.3  # in log odds: deviations of questions and of trainings; what b is better by
LEAST, MOST = 0.94, 0.99
EVERY = np.random.default_rng(1).normal(0, HARD, 4001)  # questions, in log odds
GRID = np.linspace(-2, 6, 321)
ANSWERED = [expit(one + EVERY).mean() for one in GRID]


def right(log_odds: np.ndarray) -> np.ndarray:
    """The share of all questions that trainings so good answer."""
    return np.interp(log_odds, GRID, ANSWERED)


@pytest.mark.parametrize("n_seeds", [1, 3, 5])
def test_a_95_percent_interval_holds_the_truth_94_to_99_times_of_100(n_seeds: int) -> None:
    """Of one training its own truth, of several that of all trainings; not where a part of the interval is left out, or
    where the noise of single answers counts in both."""
    rng, repeats, held = np.random.default_rng(0), 800, Counter[str]()
    weights_BQ = resample_weights(N, resamples=200) / N
    everybody = right(np.random.default_rng(2).normal(1.8, APART, 4001)).mean()
    everybody_b = right(np.random.default_rng(2).normal(1.8 + BETTER, APART, 4001)).mean()
    asked = tuple((str(number), None) for number in range(N))
    for _ in range(repeats):
        good_AS = rng.normal([[1.8], [1.8 + BETTER]], APART, (2, n_seeds))
        chance_ASQ = expit(good_AS[..., None] + rng.normal(0, HARD, N))
        answers_ASQ = (rng.random(chance_ASQ.shape) < chance_ASQ).astype(float)
        a, b = ({s: Resampled(asked, values_B) for s, values_B in enumerate(of @ weights_BQ.T)} for of in answers_ASQ)
        true_a, true_b = right(good_AS).mean(axis=1) if n_seeds == 1 else (everybody, everybody_b)
        one, both = over_seeds(a), difference(b, a)
        held["one"] += one.low <= true_a <= one.high
        held["difference"] += both.low <= true_b - true_a <= both.high
        if n_seeds > 1:
            by_items = over_items(np.mean([run.values_B for run in a.values()], axis=0), N, SHARE)
            held["items alone"] += by_items.low <= true_a <= by_items.high
            held["seeds alone"] += abs(one.value - true_a) <= half_width([*one.by_seed.values()])
            minus_B = np.mean([b[s].values_B - a[s].values_B for s in a], axis=0)
            all_noise = over_items(minus_B, N, DIFFERENCE)
            twice = np.hypot(half_width([*both.by_seed.values()]), (all_noise.high - all_noise.low) / 2)
            held["noise twice"] += abs(both.value - true_b + true_a) <= twice
    shares = {name: times / repeats for name, times in held.items()}
    assert LEAST <= shares["one"] <= MOST, shares
    assert LEAST <= shares["difference"] <= MOST, shares
    if n_seeds > 1:
        assert shares["items alone"] < LEAST - 0.02, shares
        assert shares["seeds alone"] < LEAST - 0.02, shares
        assert shares["noise twice"] > shares["difference"] + 0.01, shares


def test_the_interval_of_f1_knows_how_well_its_threshold_is_known() -> None:
    """About 16 wrong held-out steps. Without a fit to every resample of them 85 of 100 intervals hold the truth."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        training = train(rng, 1.8)
        found = measures(rng, training, items(rng, 200, ERRORS), items(rng, 80, 0.04), resamples=100)["f1"]
        interval = over_seeds({0: found})
        held += interval.low <= truth(training)["f1"] <= interval.high
    assert 91 <= held < 100
