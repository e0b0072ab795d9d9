"""Means with their intervals, and differences between settings."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mprm.metrics import step_metrics as metrics
from mprm.metrics.estimate import (
    Difference,
    Estimate,
    Resampled,
    Resamples,
    difference,
    half_width,
    mean_over_seeds,
    resample_weights,
    resampled_mean,
)
from mprm.metrics.evaluate import resampled_auc, resampled_f1
from mprm.metrics.predictions import Prediction
from mprm.metrics.step_metrics import labelled_steps

NORMAL_97_5 = 1.96


def test_numbers_in_words() -> None:
    assert Estimate(0.815, 0.798, 0.831).points() == "81.5 [79.8, 83.1]"
    assert Estimate(0.815, each=(0.809, 0.821)).points() == "81.5 (80.9, 82.1)"
    assert Estimate(0.8934, 0.88, 0.905).fraction() == "0.893 [0.880, 0.905]"
    assert Estimate(0.5).points() == "50.0"
    assert Estimate(0.031, 0.012, 0.05).signed_points() == "+3.1 [1.2, 5.0]"
    assert Estimate(-0.004, -0.02, 0.012).signed_points() == "-0.4 [-2.0, 1.2]"


def test_a_difference_is_one_only_where_its_interval_leaves_out_nothing() -> None:
    better, worse, even = Estimate(0.03, 0.01, 0.05), Estimate(-0.03, -0.05, -0.01), Estimate(0.02, -0.01, 0.05)
    assert [one.relation() for one in (better, worse)] == ["better than", "worse than"]
    assert even.relation("more", "fewer") == Estimate(0.02).relation() == "not distinguishable from"
    assert better.negative() == Estimate(-0.03, -0.05, -0.01)
    assert better.above(worse)
    assert worse.below(better)
    assert not even.above(better)
    assert not even.below(better)


def test_weights_are_counts_of_seeded_draws() -> None:
    weights = resample_weights(40, 3, 25)
    assert weights.shape == (25, 40)
    assert (weights.sum(axis=1) == 40).all()
    assert (weights == resample_weights(40, 3, 25)).all()
    assert (weights != resample_weights(40, 4, 25)).any()


def test_worked_values() -> None:
    """Two questions: a resample is (0, 0), (0, 1) or (1, 1); 2.5 % and 97.5 % are the extremes."""
    resamples = Resamples(2, seed=0)
    assert resamples.mean(np.array([0.0, 1.0])) == Estimate(0.5, 0, 1)
    assert resamples.means(np.array([[0.0, 1.0], [1.0, 1.0]])) == (Estimate(0.5, 0, 1), Estimate(1, 1, 1))
    assert resamples.saved(np.array([4.0, 16.0]), np.array([16.0, 16.0])) == Estimate(0.375, 0, 0.75)


def test_an_interval_is_about_two_standard_errors_to_each_side() -> None:
    values = np.random.default_rng(0).random(400)
    found = Resamples(400, seed=1).mean(values)
    half = 1.96 * values.std() / 20
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 8)
    assert Resamples(400, seed=1).mean(values) == found
    assert Resamples(400, seed=2).mean(values) != found


def test_student_t_over_seeds_by_hand() -> None:
    # sd of 78, 80, 82 is 2; t(2 degrees of freedom) = 4.3027; 4.3027 * 2 / sqrt(3) = 4.9683
    assert half_width([78.0, 80.0, 82.0]) == pytest.approx(4.9683, abs=1e-4)
    assert half_width([0.5, 0.5, 0.5]) == 0
    values = [float(i % 2) for i in range(31)]
    assert half_width(values) == pytest.approx(2.0423 * np.std(values, ddof=1) / np.sqrt(31), rel=1e-4)
    three, two, one = (mean_over_seeds([78.0, 80.0, 82.0][:n]) for n in (3, 2, 1))
    assert (three.value, three.low, three.high) == pytest.approx((80, 80 - 4.9683, 80 + 4.9683), abs=1e-4)
    assert two == Estimate(79.0, each=(78.0, 80.0))
    assert one == Estimate(78.0)


def run(seed: int, distance: float, benchmark: int = 0, n_solutions: int = 60) -> list[Prediction]:
    """Steps with normal scores, the means of right and wrong ones `distance` apart; labels go with the benchmark."""
    of_benchmark, of_run = np.random.default_rng(benchmark), np.random.default_rng([benchmark, seed])
    predictions = []
    for number in range(n_solutions):
        labels = of_benchmark.choice([1, -1, 0], size=4, p=[0.5, 0.4, 0.1])
        labels[:2] = 1, -1
        # part of every score belongs to the solution: its steps, and both settings, share what makes it hard
        shared = of_benchmark.normal(0, 0.5, 4)
        scores = distance * (labels == 1) + shared + of_run.normal(0, math.sqrt(0.75), 4)
        predictions.append(
            Prediction(f"s{number:03}", "xyz"[number % 3], tuple(labels.tolist()), tuple(scores.tolist()))
        )
    return predictions


def fixed(value: float, values: list[float]) -> Resampled:
    return Resampled((("a", (1, -1)),), value, np.array(values))


def test_several_seeds_by_hand() -> None:
    a = {0: fixed(0.80, [0.79, 0.81, 0.80, np.nan]), 1: fixed(0.84, [0.84, 0.85, 0.83, 0.84]), 7: fixed(0.1, [0.1] * 4)}
    b = {1: fixed(0.80, [0.78, 0.81, 0.81, 0.80]), 0: fixed(0.78, [0.78, 0.77, 0.79, 0.78]), 8: fixed(0.9, [0.9] * 4)}
    a[2], b[2] = fixed(0.83, [0.83, 0.84, 0.83, 0.8]), fixed(0.80, [0.80, 0.80, 0.81, 0.8])
    found = difference("auc", a, b)
    # seeds 0, 1 and 2: .02, .04 and .03, mean .03, sd .01, t(2) 4.3027 / sqrt(3): half width .0248417.
    # resamples: (.01, .04, .01), (.06, .04, .02) and (.03, .04, .02), means .0333, .04, .0167, sd .0120185 (the
    # undefined one left out).
    half = math.hypot(0.0248417, NORMAL_97_5 * 0.0120185)
    assert (found.value, found.low, found.high) == pytest.approx((0.03, 0.03 - half, 0.03 + half), abs=1e-6)
    assert list(found.by_seed) == [0, 1, 2]
    assert list(found.by_seed.values()) == pytest.approx([0.02, 0.04, 0.03])


def test_two_seeds_have_no_interval_over_seeds() -> None:
    a, b = {0: fixed(0.8, [0.8] * 3), 1: fixed(0.4, [0.4] * 3)}, {0: fixed(0.5, [0.5] * 3), 1: fixed(0.5, [0.5] * 3)}
    found = difference("auc", a, b)  # Student's t: .1 plus or minus 2.5
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert list(found.by_seed.values()) == pytest.approx([0.3, -0.1])


def test_one_seed_has_the_percentiles_of_its_resamples() -> None:
    differences = [number / 1000 for number in range(-10, 31)]  # 2.5 % of 40 gaps: one gap from either end
    found = difference("auc", {3: fixed(0.7, [0.5 + d for d in differences])}, {3: fixed(0.69, [0.5] * 41)})
    assert (found.value, found.low, found.high) == pytest.approx((0.01, -0.009, 0.029), abs=1e-9)
    assert list(found.by_seed) == [3]


def test_the_difference_of_two_means_is_the_mean_of_the_differences() -> None:
    a, b = (
        {f"q{i}": float(value) for i, value in enumerate(np.random.default_rng(side).random(30))} for side in (0, 1)
    )
    found = difference("accuracy", {0: resampled_mean(a)}, {0: resampled_mean(b)})
    minus_Q = np.array([a[name] - b[name] for name in sorted(a)])
    expected = Resamples(30, seed=0).mean(minus_Q)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))


def test_the_resamples_are_those_of_solutions_written_out_again() -> None:
    predictions = run(seed=1, distance=1.0, n_solutions=20)
    auc, f1 = resampled_auc(predictions, resamples=10), resampled_f1(predictions, 0.4, resamples=10)
    for b, row in enumerate(resample_weights(20, 0, 10).astype(int)):
        drawn = labelled_steps([p for p, times in zip(predictions, row, strict=True) for _ in range(times)])
        counts = metrics.per_source(drawn, metrics.confusion_per_solution(drawn, 0.4))
        assert auc.values_B[b] == pytest.approx(metrics.auc(drawn), abs=1e-12)
        assert f1.values_B[b] == pytest.approx(float(metrics.step_weighted_macro_f1(counts)), abs=1e-12)
    assert auc.value == pytest.approx(metrics.auc(labelled_steps(predictions)))


def test_the_order_of_the_predictions_does_not_matter() -> None:
    predictions = run(seed=1, distance=1.0)
    for measure in (resampled_auc, lambda p, resamples: resampled_f1(p, 0.4, resamples=resamples)):
        there, back = measure(predictions, resamples=20), measure(predictions[::-1], resamples=20)
        assert there.items == back.items
        assert there.values_B == pytest.approx(back.values_B, abs=1e-12)


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
@pytest.mark.parametrize("measure", [resampled_auc, lambda p: resampled_f1(p, 0.5)], ids=["auc", "f1"])
def test_identical_predictions_differ_by_exactly_nothing(
    seeds: tuple[int, ...], measure: Callable[[list[Prediction]], Resampled]
) -> None:
    one, again = ({seed: measure(run(seed, 1.0)) for seed in seeds} for _ in range(2))
    assert difference("m", one, again) == Difference(0.0, 0.0, 0.0, by_seed=dict.fromkeys(seeds, 0.0))


values = st.lists(st.floats(0, 1), min_size=5, max_size=5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(values, values), min_size=1, max_size=4))
def test_swapping_the_settings_negates(runs: list[tuple[list[float], list[float]]]) -> None:
    a = {seed: fixed(one[0], one[1:]) for seed, (one, _) in enumerate(runs)}
    b = {seed: fixed(one[0], one[1:]) for seed, (_, one) in enumerate(runs)}
    there, back = difference("auc", a, b), difference("auc", b, a)
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low), abs=1e-12)
    assert there.low <= there.high


def test_what_both_find_hard_does_not_widen_the_interval() -> None:
    # B is A but for a little noise: paired, their difference is known far better than either number
    a = run(0, 1.0)
    rng = np.random.default_rng(5)
    b = [Prediction(p.id, p.source, p.labels, tuple(s + rng.normal(0, 0.05) for s in p.scores)) for p in a]
    of_a, of_b = resampled_auc(a), resampled_auc(b)
    found = difference("auc", {0: of_a}, {0: of_b})
    low, high = np.quantile(of_a.values_B, [0.025, 0.975])
    assert found.high - found.low < (high - low) / 4


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_intervals_hold_the_truth_about_as_often_as_they_say(n_seeds: int) -> None:
    """True AUC of distance d and unit variance: Phi(d / sqrt(2)); with several seeds the distance itself varies."""
    rng = np.random.default_rng(11)
    repeats, spread = 100, 0.0 if n_seeds == 1 else 0.15
    # E Phi((d + spread z) / sqrt(2)) = Phi(d / sqrt(2 + spread^2))
    true_a, true_b = (0.5 * (1 + math.erf(d / math.sqrt(2 + spread**2) / math.sqrt(2))) for d in (1.2, 0.9))
    held = 0
    for repeat in range(repeats):
        sides = [
            {
                seed: resampled_auc(run(10 * side + seed, d + rng.normal(0, 1) * spread, repeat), resamples=200)
                for seed in range(n_seeds)
            }
            for side, d in enumerate((1.2, 0.9))
        ]
        found = difference("auc", *sides)
        held += found.low <= true_a - true_b <= found.high
    # binomial with p = .95: below 88 of 100 once in 680 seeds of this test
    assert held >= 88
    assert held < repeats or n_seeds > 1, "an interval of 95 % that never misses is too wide"


def test_no_seed_in_common_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"^no seed in common: seeds 0, 2 and seeds 1; run both settings"):
        difference("auc", {0: fixed(0.5, [0.5]), 2: fixed(0.5, [0.5])}, {1: fixed(0.5, [0.5])})


def test_other_solutions_or_labels_are_refused() -> None:
    a = run(0, 1.0)
    fewer = {0: resampled_auc(a[:-1], resamples=5)}
    relabelled = {0: resampled_auc([*a[:-1], Prediction("s059", "z", (1, 1), (0.5, 0.5))], resamples=5)}
    for other in (fewer, relabelled):
        with pytest.raises(ValueError, match=r"^what the two .* differ \(1, e.g. 's059'\); evaluate both"):
            difference("auc", {0: resampled_auc(a, resamples=5)}, other)


def test_one_class_of_steps_has_no_auc_to_compare() -> None:
    one_class = {0: resampled_auc([Prediction("a", "s", (1, 1), (0.9, 0.1))], resamples=5)}
    with pytest.raises(ValueError, match=r"^auc is undefined: all labelled steps are alike; take a benchmark"):
        difference("auc", one_class, one_class)
