"""Means with their intervals, and differences between settings."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mprm.metrics.estimate import (
    DIFFERENCE,
    HELD_OUT,
    SHARE,
    Estimate,
    OverSeeds,
    Resampled,
    difference,
    half_width,
    mean,
    means,
    over_items,
    over_seeds,
    resample_weights,
    resampled_mean,
    saved,
)
from mprm.metrics.evaluate import step_measures
from mprm.metrics.predictions import Prediction

# Student's t for 95 % intervals: of ten items, which say of a deviation as much as 10 / 3 alike, and of nine degrees.
T_TEN, T_9 = 3.009769, 2.262157


def test_numbers_in_words() -> None:
    assert Estimate(0.815, 0.798, 0.831).points() == "81.5 [79.8, 83.1]"
    assert OverSeeds(0.815, 0.8, 0.83, by_seed={0: 0.809, 1: 0.821}).points() == "81.5 (80.9, 82.1)"
    assert OverSeeds(0.01, 0.0, 0.02, by_seed={0: -0.01, 3: 0.03}).signed_points() == "+1.0 (-1.0, +3.0)"
    assert OverSeeds(0.815, 0.8, 0.83, by_seed={0: 0.815}).points() == "81.5 [80.0, 83.0]"
    assert Estimate(0.8934, 0.88, 0.905).fraction() == "0.893 [0.880, 0.905]"
    assert Estimate(0.5).points() == "50.0"
    assert Estimate(0.031, 0.012, 0.05).signed_points() == "+3.1 [1.2, 5.0]"
    assert Estimate(-0.004, -0.02, 0.012).signed_points() == "-0.4 [-2.0, 1.2]"


def test_a_difference_is_one_only_where_its_interval_leaves_out_nothing() -> None:
    better, worse, even = Estimate(0.03, 0.01, 0.05), Estimate(-0.03, -0.05, -0.01), Estimate(0.02, -0.01, 0.05)
    assert [one.relation() for one in (better, worse)] == ["better than", "worse than"]
    assert even.relation("more", "fewer") == Estimate(0.02).relation() == "not distinguishable from"
    rounded = mean(np.full(6, 1 / 3) - np.array([1 / 3 - 5e-16] * 6), DIFFERENCE)  # votes summed in another order
    assert rounded.low > 0
    assert rounded.relation() == rounded.negative().relation() == "not distinguishable from"
    assert better.negative() == Estimate(-0.03, -0.05, -0.01)
    assert better.above(worse)
    assert worse.below(better)
    assert not even.above(better)
    assert not even.below(better)


def test_weights_are_counts_of_seeded_draws() -> None:
    weights = resample_weights(40, resamples=25)
    assert weights.shape == (26, 40)
    assert (weights[0] == 1).all()
    assert (weights.sum(axis=1) == 40).all()
    resample_weights.cache_clear()
    assert (weights == resample_weights(40, resamples=25)).all()
    assert (weights != resample_weights(40, HELD_OUT, 25)).any()


def ends(found: Estimate) -> tuple[float | None, float | None]:
    return found.low, found.high


def test_worked_values() -> None:
    assert mean(np.array([0.0, 1.0] * 5), SHARE).value == 0.5
    first, second = means(np.array([[0.0, 1.0], [1.0, 1.0]]))
    assert (first.value, second.value) == (0.5, 1)
    assert saved(np.array([4.0, 16.0]), np.array([16.0, 16.0])).value == 0.375
    assert over_items(np.array([0.5, np.nan]), 10, SHARE) == Estimate(0.5)


def test_wilsons_interval_by_hand() -> None:
    """Ten items, .8, a deviation of .1 over resamples: half = 3.009769 * .1 * sqrt(10 / 9) = 0.317258. Both ends p are
    as many of their own deviations away: |.8 - p| = half sqrt(p (1 - p) / (.8 * .2))."""
    found, half = over_items(np.array([0.8, 0.7, 0.9, np.nan]), 10, SHARE), 0.317258
    assert ends(found) == pytest.approx((0.409917, 0.958389), abs=1e-6)
    for end in ends(found):
        assert abs(0.8 - end) == pytest.approx(half * math.sqrt(end * (1 - end) / 0.16), abs=1e-6)
    # of a difference .6 lies where .8 lies among shares, in a range that is twice as wide
    twice = over_items(np.array([0.6, 0.4, 0.8]), 10, DIFFERENCE)
    assert ends(twice) == pytest.approx((2 * 0.409917 - 1, 2 * 0.958389 - 1), abs=1e-5)
    count = over_items(np.array([8.0, 7.0, 9.0]), 10, None)
    assert ends(count) == pytest.approx((8 - 10 * half, 8 + 10 * half), abs=1e-5)


def test_ten_right_ones_of_ten_do_not_prove_that_all_are() -> None:
    """No resample differs. With p^10 = 2.5 % at p = .69."""
    assert ends(mean(np.ones(10), SHARE)) == pytest.approx((1 / (1 + T_9**2 / 10), 1), abs=1e-6)
    assert ends(mean(np.zeros(10), SHARE)) == pytest.approx((0, 1 - 1 / (1 + T_9**2 / 10)), abs=1e-6)
    assert ends(mean(np.zeros(10), DIFFERENCE)) == (0, 0)
    assert ends(mean(np.ones(1), SHARE)) == pytest.approx((0.006, 1), abs=1e-3)  # one proves nothing


def test_an_interval_is_about_two_standard_errors_to_each_side() -> None:
    values = np.random.default_rng(0).random(400)
    half = 1.978 * values.std(ddof=1) / 20
    assert ends(mean(values, SHARE)) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 16)


def test_student_t_over_seeds_by_hand() -> None:
    # sd of 78, 80, 82 is 2; t(2 degrees of freedom) = 4.3027; 4.3027 * 2 / sqrt(3) = 4.9683
    assert half_width([78.0, 80.0, 82.0]) == pytest.approx(4.9683, abs=1e-4)
    assert half_width([0.5, 0.5, 0.5]) == 0
    values = [float(i % 2) for i in range(31)]
    assert half_width(values) == pytest.approx(2.0423 * np.std(values, ddof=1) / np.sqrt(31), rel=1e-4)


def run(seed: int, distance: float, benchmark: int = 0, n_solutions: int = 60) -> list[Prediction]:
    """Steps with normal log odds, the means of right and wrong ones `distance` apart; labels go with the benchmark."""
    of_benchmark, of_run = np.random.default_rng(benchmark), np.random.default_rng([benchmark, seed])
    predictions = []
    for number in range(n_solutions):
        labels = of_benchmark.choice([1, -1, 0], size=4, p=[0.5, 0.4, 0.1])
        labels[:2] = 1, -1
        # part of every score belongs to the solution: its steps, and both settings, share what makes it hard
        shared = of_benchmark.normal(0, 0.5, 4)
        scores = 1 / (1 + np.exp(-(distance * (labels == 1) + shared + of_run.normal(0, math.sqrt(0.75), 4))))
        predictions.append(
            Prediction(f"s{number:03}", "xyz"[number % 3], tuple(labels.tolist()), tuple(scores.tolist()))
        )
    return predictions


def auc(predictions: list[Prediction], resamples: int = 1000) -> Resampled:
    return step_measures(predictions, None, None, resamples)["auc"]


def fixed(value: float, values: list[float]) -> Resampled:
    """Measured on ten items."""
    return Resampled(tuple((str(number), (1, -1)) for number in range(10)), np.array([value, *values]))


def around(value: float, half: float, wide: float = 1) -> tuple[float, float]:
    """Wilson's interval: the two p with |value - p| = half sqrt(p (1 - p) / (value (1 - value))). wide: 2 for
    differences."""
    share, half = (value + wide - 1) / wide, half / wide
    factor = half**2 / (share * (1 - share))
    low, high = sorted(np.roots([1 + factor, -2 * share - factor, share**2]))
    return wide * float(low) - wide + 1, wide * float(high) - wide + 1


def test_a_setting_by_hand() -> None:
    runs = {7: fixed(0.82, [0.81, 0.83]), 0: fixed(0.78, [0.77, 0.79]), 3: fixed(0.80, [0.80, 0.83])}
    # sd of the seeds .02, t(2) 4.3027 / sqrt(3): .049683. Resamples lie .01, .01 and .015 to both sides of their means,
    # so that the covariances of two trainings are .0001, .00015 and .00015, mean .00013333.
    half = math.hypot(0.049683, T_TEN * math.sqrt(0.00013333 * 10 / 9))
    found = over_seeds(runs)
    assert (found.value, found.low, found.high) == pytest.approx((0.80, *around(0.80, half)), abs=1e-6)
    assert list(found.by_seed.items()) == [(0, 0.78), (3, 0.80), (7, 0.82)]
    assert found.scope == "any training"


def test_what_items_do_to_one_training_by_chance_is_counted_once() -> None:
    """It is in Student's t over the trainings: resamples that move them apart add nothing."""
    runs = {0: fixed(0.82, [0.80, 0.84]), 1: fixed(0.78, [0.80, 0.76]), 2: fixed(0.80, [0.80, 0.80])}
    assert ends(over_seeds(runs)) == pytest.approx(around(0.80, 0.049683), abs=1e-6)


def test_the_interval_of_few_seeds_far_apart_ends_where_the_measure_does() -> None:
    runs = {0: fixed(0.60, [0.60] * 3), 1: fixed(0.90, [0.90] * 3), 2: fixed(0.99, [0.99] * 3)}
    found = over_seeds(runs)  # Student's t: .83 plus or minus .507
    assert (found.value, found.low, found.high) == pytest.approx((0.83, *around(0.83, 0.507275)), abs=1e-6)
    assert found.high < 1
    zero = dict.fromkeys(runs, fixed(0.0, [0.0] * 3))
    below = difference(zero, runs)
    assert (below.value, below.low, below.high) == pytest.approx((-0.83, *around(-0.83, 0.507275, 2)), abs=1e-6)
    assert below.low > -1


def test_one_or_two_trainings_have_the_interval_of_the_benchmark_alone() -> None:
    one, other = fixed(0.70, [0.60, 0.80] * 50), fixed(0.90, [0.88, 0.90] * 50)
    alone = over_seeds({4: one})
    assert ends(alone) == pytest.approx(around(0.70, T_TEN * 0.1 * math.sqrt(10 / 9)), abs=1e-6)
    assert (alone.by_seed, alone.scope) == ({4: 0.70}, "this training")
    both = over_seeds({4: one, 5: other})  # Student's t: .8 plus or minus 1.27
    half = T_TEN * 0.055 * math.sqrt(10 / 9)  # means of the resamples .74 and .85
    assert (both.value, both.low, both.high) == pytest.approx((0.80, *around(0.80, half)), abs=1e-6)
    assert both.scope == "these 2 trainings"


def test_several_seeds_by_hand() -> None:
    a = {0: fixed(0.80, [0.79, 0.81, 0.80, np.nan]), 1: fixed(0.84, [0.84, 0.85, 0.83, 0.84]), 7: fixed(0.1, [0.1] * 4)}
    b = {1: fixed(0.80, [0.78, 0.81, 0.81, 0.80]), 0: fixed(0.78, [0.78, 0.77, 0.79, 0.78]), 8: fixed(0.9, [0.9] * 4)}
    a[2], b[2] = fixed(0.83, [0.83, 0.84, 0.83, 0.8]), fixed(0.80, [0.80, 0.80, 0.81, 0.8])
    found = difference(a, b)
    # seeds 0, 1 and 2: .02, .04 and .03, mean .03, sd .01, t(2) 4.3027 / sqrt(3): half width .0248417.
    # resamples: (.01, .04, .01), (.06, .04, .02) and (.03, .04, .02), the undefined one left out. From their means
    # .02, .04 and .03: (-.01, .02, -.01), (.02, 0, -.02) and (0, .01, -.01); covariances 0, .0001 and .000066667.
    half = math.hypot(0.0248417, T_TEN * math.sqrt(0.000055556 * 10 / 9))
    assert (found.value, found.low, found.high) == pytest.approx((0.03, *around(0.03, half, 2)), abs=1e-6)
    assert list(found.by_seed) == [0, 1, 2]
    assert list(found.by_seed.values()) == pytest.approx([0.02, 0.04, 0.03])


def test_two_seeds_have_no_interval_over_seeds() -> None:
    a, b = {0: fixed(0.8, [0.8] * 3), 1: fixed(0.4, [0.4] * 3)}, {0: fixed(0.5, [0.5] * 3), 1: fixed(0.5, [0.5] * 3)}
    found = difference(a, b)  # Student's t: .1 plus or minus 2.5
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))  # the items do nothing
    assert list(found.by_seed.values()) == pytest.approx([0.3, -0.1])


def test_one_seed_has_the_deviation_of_its_resamples() -> None:
    found = difference({3: fixed(0.7, [0.49, 0.51, 0.53])}, {3: fixed(0.69, [0.5] * 3)})
    half = T_TEN * math.sqrt(0.0008 / 3 * 10 / 9)
    assert (found.value, found.low, found.high) == pytest.approx((0.01, *around(0.01, half, 2)), abs=1e-6)
    assert list(found.by_seed) == [3]


def test_the_difference_of_two_means_is_the_mean_of_the_differences() -> None:
    a, b = (
        {f"q{i}": float(value) for i, value in enumerate(np.random.default_rng(side).random(30))} for side in (0, 1)
    )
    found = difference({0: resampled_mean(a)}, {0: resampled_mean(b)})
    minus_Q = np.array([a[name] - b[name] for name in sorted(a)])
    expected = mean(minus_Q, DIFFERENCE)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
@pytest.mark.parametrize("key", ["auc", "f1", "f1_fixed"])
def test_identical_predictions_differ_by_exactly_nothing(seeds: tuple[int, ...], key: str) -> None:
    one, again = (
        {seed: step_measures(run(seed, 1.0), run(seed, 1.0, 1), None, 100)[key] for seed in seeds} for _ in range(2)
    )
    assert difference(one, again) == OverSeeds(0.0, 0.0, 0.0, by_seed=dict.fromkeys(seeds, 0.0))


values = st.lists(st.floats(0, 1), min_size=5, max_size=5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(values, values), min_size=1, max_size=4))
def test_swapping_the_settings_negates(runs: list[tuple[list[float], list[float]]]) -> None:
    a = {seed: fixed(one[0], one[1:]) for seed, (one, _) in enumerate(runs)}
    b = {seed: fixed(one[0], one[1:]) for seed, (_, one) in enumerate(runs)}
    there, back = difference(a, b), difference(b, a)
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low), abs=1e-12)
    assert there.low <= there.high


def test_what_both_find_hard_does_not_widen_the_interval() -> None:
    # B is A but for a little noise: paired, their difference is known far better than either number
    a = run(0, 1.0)
    rng = np.random.default_rng(5)
    b = [Prediction(p.id, p.source, p.labels, tuple(s + rng.normal(0, 0.01) for s in p.scores)) for p in a]
    of_a, of_b = auc(a), auc(b)
    found = difference({0: of_a}, {0: of_b})
    alone = over_seeds({0: of_a})
    assert found.high - found.low < (alone.high - alone.low) / 4


def test_no_seed_in_common_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"^no seed in common: seeds 0, 2 and seeds 1; run both settings"):
        difference({0: fixed(0.5, [0.5]), 2: fixed(0.5, [0.5])}, {1: fixed(0.5, [0.5])})


def test_other_solutions_or_labels_are_refused() -> None:
    a = run(0, 1.0)
    fewer = {0: auc(a[:-1], 5)}
    relabelled = {0: auc([*a[:-1], Prediction("s059", "z", (1, 1), (0.5, 0.5))], 5)}
    for other in (fewer, relabelled):
        with pytest.raises(ValueError, match=r"^what the two .* differ \(1, e.g. 's059'\); evaluate both"):
            difference({0: auc(a, 5)}, other)
