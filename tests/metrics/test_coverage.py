"""Do 95 % intervals hold the truth about as often as they say? A longer simulation: tests/benchmarks/coverage.py."""

import numpy as np
import pytest
from benchmarks.coverage import ERRORS, items, measures, train, truth

from mprm.metrics.estimate import Resampled, difference, over_seeds, resampled_mean


def means(rng: np.random.Generator, trainings: list[float], item_Q: np.ndarray) -> dict[int, Resampled]:
    """A number of every item: what is hard for all trainings, what is for one, and how good the training is."""
    n = len(item_Q)
    return {
        seed: resampled_mean(dict(enumerate((good + item_Q + rng.normal(0, 0.3, n)).tolist())))
        for seed, good in enumerate(trainings)
    }


@pytest.mark.parametrize("n_seeds", [1, 3, 5])
def test_a_95_percent_interval_holds_the_truth_94_to_99_times_of_100(n_seeds: int) -> None:
    """Of one training its own truth, of several that of all trainings, which is 0."""
    rng = np.random.default_rng(0)
    repeats, held = 1_000, np.zeros(2)
    for _ in range(repeats):
        item_Q = rng.normal(0, 0.4, 150)
        a, b = (rng.normal(0, 0.05, n_seeds) for _ in range(2))
        of_a, of_b = (means(rng, one.tolist(), item_Q) for one in (a, b))
        both = ((over_seeds(of_a), a[0]), (difference(of_a, of_b), a[0] - b[0]))
        held += [found.low <= (own if n_seeds == 1 else 0) <= found.high for found, own in both]
    assert (held >= 0.94 * repeats).all(), held
    assert (held <= 0.99 * repeats).all(), held


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
