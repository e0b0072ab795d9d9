import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_calibration_error,
    binary_f1_score,
)

from mprm.metrics import step_metrics as metrics
from mprm.metrics.estimate import HELD_OUT, resample_weights
from mprm.metrics.predictions import Prediction
from mprm.metrics.step_metrics import (
    LabelledSteps,
    confusion,
    first_errors,
    fitted,
    labelled_steps,
    macro_f1,
    platt,
    rankings,
    searched,
    step_weighted_macro_f1,
)

EIGHT, TWO = np.array([3, 1, 2, 2]), np.array([1, 0, 0, 1])
BOTH = np.stack([EIGHT, TWO])


def one_solution(labels: Sequence[int], scores: Sequence[float]) -> LabelledSteps:
    return labelled_steps([Prediction("a", "s", tuple(labels), tuple(scores))])


def once(steps: LabelledSteps) -> np.ndarray:
    return np.ones((1, len(steps.source_S)))


def counts_at(steps: LabelledSteps, threshold: float) -> np.ndarray:
    """Confusion counts (G, 4)."""
    return confusion(steps, np.array([threshold]), once(steps))[0]


def auc(steps: LabelledSteps) -> float:
    return float(rankings(steps, once(steps))[0][0])


def average_precision(steps: LabelledSteps) -> float:
    return float(rankings(steps, once(steps))[1][0])


# coarse scores, so that ties are common
steps_lists = st.lists(st.tuples(st.sampled_from([1, -1]), st.integers(0, 12).map(lambda k: k / 12)), min_size=1)


def test_labelled_steps_drop_neutral_steps_and_what_has_no_other() -> None:
    steps = labelled_steps(
        [
            Prediction("a", "y", (0, 1, -1), (0.1, 0.2, 0.3)),
            Prediction("b", "z", (0,), (0.4,)),
            Prediction("c", "x", (-1, 0), (0.5, 0.6)),
        ]
    )
    assert steps.sources == ("x", "y")
    assert steps.source_S.tolist() == [1, 0]
    assert steps.solution_N.tolist() == [0, 0, 1]
    assert steps.right_N.tolist() == [True, False, False]
    assert steps.scores_N.tolist() == [0.2, 0.3, 0.5]


def test_no_labelled_step_is_an_error() -> None:
    with pytest.raises(ValueError, match="no step labelled 1 or -1 in 1 solutions"):
        labelled_steps([Prediction("a", "s", (0, 0), (0.1, 0.2))])


def test_a_score_at_the_threshold_accepts() -> None:
    steps = one_solution([1, -1, 1, -1], [0.5, 0.5, 0.4, 0.4])
    assert counts_at(steps, 0.5).tolist() == [[1, 1, 1, 1]]


def test_confusion_by_source_with_a_threshold_for_each_resample() -> None:
    steps = labelled_steps(
        [
            Prediction("a", "y", (1, 1, -1), (0.9, 0.1, 0.9)),
            Prediction("b", "x", (-1,), (0.1,)),
            Prediction("c", "y", (1, -1), (0.9, 0.1)),
        ]
    )
    found = confusion(steps, np.array([0.5, 0.05, 0.5]), np.array([[1, 1, 1], [1, 1, 1], [0, 1, 2.0]]))
    assert found.tolist() == [[[0, 0, 0, 1], [2, 1, 1, 1]], [[0, 1, 0, 0], [3, 2, 0, 0]], [[0, 0, 0, 1], [2, 0, 0, 2]]]


def test_f1_worked() -> None:
    assert metrics.f1_right(EIGHT) == pytest.approx(2 / 3)
    assert metrics.f1_wrong(EIGHT) == pytest.approx(4 / 7)
    assert metrics.macro_f1(EIGHT) == pytest.approx(13 / 21)
    assert metrics.macro_f1(TWO) == 1


def test_both_definitions_of_overall_worked() -> None:
    assert metrics.step_weighted_macro_f1(BOTH) == pytest.approx(73 / 105)
    assert metrics.pooled_macro_f1(BOTH) == pytest.approx(23 / 33)


def test_f1_of_a_class_that_is_neither_there_nor_predicted_is_zero() -> None:
    assert metrics.f1_wrong(np.array([5, 0, 0, 0])) == 0
    assert metrics.f1_right(np.array([0, 0, 0, 5])) == 0
    assert metrics.macro_f1(np.array([5, 0, 0, 0])) == 0.5


def test_a_source_without_steps_weighs_nothing() -> None:
    assert metrics.step_weighted_macro_f1(np.stack([EIGHT, 0 * TWO])) == pytest.approx(13 / 21)


def test_auc_worked() -> None:
    assert auc(one_solution([1, 1, -1, -1], [0.9, 0.5, 0.5, 0.1])) == 0.875


def test_auc_edge_cases() -> None:
    assert auc(one_solution([1, -1, 1], [0.3, 0.3, 0.3])) == 0.5
    assert math.isnan(auc(one_solution([1, 1], [0.3, 0.4])))
    assert math.isnan(auc(one_solution([-1], [0.3])))


def test_weights_repeat_solutions() -> None:
    a, b = Prediction("a", "s", (1, -1), (0.6, 0.5)), Prediction("b", "s", (1, -1, -1), (0.4, 0.5, 0.7))
    weighted = rankings(labelled_steps([a, b]), np.array([[2.0, 1.0], [0.0, 3.0]]))
    for found, measure in zip(weighted, (auc, average_precision), strict=True):
        assert found.tolist() == pytest.approx([measure(labelled_steps([a, a, b])), measure(labelled_steps([b]))])


def test_average_precision_worked() -> None:
    # wrong steps first at .1 (1 of 1), .5 (2 of 3, a right step ties) and .9 (3 of 5)
    steps = one_solution([-1, -1, 1, 1, -1], [0.1, 0.5, 0.5, 0.6, 0.9])
    assert average_precision(steps) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert average_precision(one_solution([-1, 1, 1, 1], [0.5] * 4)) == 0.25  # all alike: the share of wrong steps
    assert math.isnan(average_precision(one_solution([1, 1], [0.3, 0.4])))


@given(steps_lists)
def test_auc_counts_pairs(items: list[tuple[int, float]]) -> None:
    right = [score for label, score in items if label == 1]
    wrong = [score for label, score in items if label == -1]
    value = auc(one_solution(*zip(*items, strict=True)))
    if right and wrong:
        wins = sum((r > w) + (r == w) / 2 for r in right for w in wrong)
        assert value == pytest.approx(wins / len(right) / len(wrong), abs=1e-12)
    else:
        assert math.isnan(value)


@given(steps_lists)
def test_auc_does_not_change_under_increasing_maps_and_turns_under_decreasing(items: list[tuple[int, float]]) -> None:
    labels, scores = zip(*items, strict=True)
    value = auc(one_solution(labels, scores))
    squeezed = auc(one_solution(labels, [math.exp(3 * score) - 7 for score in scores]))
    turned = auc(one_solution(labels, [-score for score in scores]))
    assert squeezed == pytest.approx(value, nan_ok=True)
    assert turned == pytest.approx(1 - value, nan_ok=True)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.2, 0.5, 0.71]))
def test_agrees_with_torchmetrics(seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    scores = np.round(rng.random(60), 2)
    labels = np.where(rng.random(60) < 0.2 + 0.6 * scores, 1, -1)
    labels[:2] = 1, -1
    steps = one_solution(labels.tolist(), scores.tolist())
    # in float64: torchmetrics compares scores with thresholds in the type it is given
    prediction, target = torch.tensor(scores), torch.tensor(labels == 1).int()
    counts = counts_at(steps, threshold)[0]
    accepted, rejected = (prediction >= threshold).int(), (prediction < threshold).int()
    assert auc(steps) == pytest.approx(binary_auroc(prediction, target).item(), abs=1e-6)
    assert average_precision(steps) == pytest.approx(
        binary_average_precision(1 - prediction, 1 - target).item(), abs=1e-6
    )
    assert metrics.f1_right(counts) == pytest.approx(binary_f1_score(accepted, target).item(), abs=1e-6)
    assert metrics.f1_wrong(counts) == pytest.approx(binary_f1_score(rejected, 1 - target).item(), abs=1e-6)


@given(st.integers(0, 2**32 - 1))
def test_ece_agrees_with_torchmetrics(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, right = rng.random(50), rng.random(50) < 0.7
    steps = one_solution(np.where(right, 1, -1).tolist(), scores.tolist())
    reference = binary_calibration_error(torch.tensor(scores), torch.tensor(right).int(), n_bins=metrics.ECE_BINS)
    assert metrics.expected_calibration_error(steps) == pytest.approx(reference.item(), abs=1e-6)


def test_calibration_worked() -> None:
    steps = one_solution([1, -1, -1], [0.91, 0.93, 0.2])
    assert metrics.expected_calibration_error(steps) == pytest.approx((2 * 0.42 + 0.2) / 3)


def test_perfect_certainty_is_calibrated() -> None:
    steps = one_solution([1, -1], [1.0, 0.0])
    assert metrics.expected_calibration_error(steps) == 0
    assert metrics.brier_score(steps) == 0


def test_brier_worked() -> None:
    assert metrics.brier_score(one_solution([1, -1], [0.9, 0.6])) == pytest.approx(0.185)


def test_scores_that_are_no_probabilities_have_no_calibration() -> None:
    steps = one_solution([1, -1], [1.5, -0.2])
    assert math.isnan(metrics.expected_calibration_error(steps))
    assert math.isnan(metrics.brier_score(steps))


def test_first_error_worked() -> None:
    for labels, scores, found in (
        ([1, -1, 1], [0.9, 0.2, 0.1], True),  # a step rejected after the first error does not matter
        ([1, -1, 1], [0.2, 0.2, 0.9], False),  # too early
        ([1, -1, -1], [0.9, 0.9, 0.2], False),  # too late
        ([1, -1], [0.9, 0.9], False),  # missed
        ([1, 1], [0.9, 0.5], True),  # nothing to find
        ([1, 1], [0.9, 0.4], False),  # false alarm
        ([0, 1, 0, -1], [0.1, 0.9, 0.1, 0.1], True),  # neutral steps are ignored
    ):
        low_S, high_S = first_errors(one_solution(labels, scores))
        assert (low_S < 0.5 <= high_S, np.isfinite(low_S)) == (found, -1 in labels), (labels, scores)


def test_first_errors_do_not_mix_solutions() -> None:
    steps = labelled_steps(
        [
            Prediction("a", "s", (1, 1), (0.9, 0.9)),
            Prediction("b", "s", (0, 0), (0.1, 0.1)),
            Prediction("c", "s", (1, -1), (0.1, 0.1)),
            Prediction("d", "s", (-1, 1), (0.1, 0.9)),
        ]
    )
    low_S, high_S = first_errors(steps)
    assert low_S.tolist() == [-np.inf, 0.1, 0.1]
    assert high_S.tolist() == [0.9, 0.1, np.inf]


@given(steps_lists, st.integers(0, 13).map(lambda k: k / 12))
def test_first_errors_are_found_at_the_same_thresholds_as_by_looking(
    items: list[tuple[int, float]], threshold: float
) -> None:
    labels, scores = zip(*items, strict=True)
    first = next((place for place, label in enumerate(labels) if label == -1), None)
    rejected = next((place for place, score in enumerate(scores) if score < threshold), None)
    low_S, high_S = first_errors(one_solution(labels, scores))
    assert bool((low_S < threshold <= high_S).all()) == (first == rejected)


def test_first_error_f1_worked() -> None:
    found, erroneous = np.array([1, 0, 1, 1, 1, 0], bool), np.array([1, 1, 0, 0, 0, 0], bool)
    assert metrics.first_error_f1(found, erroneous) == pytest.approx(0.6)
    assert metrics.first_error_f1(found & False, erroneous) == 0
    assert math.isnan(metrics.first_error_f1(found[:2], erroneous[:2]))
    assert math.isnan(metrics.first_error_f1(found[2:], erroneous[2:]))


# ---- thresholds: the searched one, and Platt's fit

step = st.tuples(st.sampled_from([1, -1]), st.integers(0, 20).map(lambda k: k / 20))
solutions = st.lists(st.tuples(st.sampled_from("xyz"), st.lists(step, min_size=1, max_size=6)), min_size=1, max_size=12)


def build(items: list[tuple[str, list[tuple[int, float]]]]) -> list[Prediction]:
    return [
        Prediction(str(number), source, tuple(label for label, _ in steps), tuple(score for _, score in steps))
        for number, (source, steps) in enumerate(items)
    ]


def f1_at(steps: LabelledSteps, threshold: float) -> float:
    counts_BG4 = confusion(steps, np.array([threshold]), np.ones((1, len(steps.source_S))))
    return float(step_weighted_macro_f1(counts_BG4)[0])


# ---- searched


@given(solutions)
def test_no_score_is_better_and_no_smaller_one_as_good(items: list[tuple[str, list[tuple[int, float]]]]) -> None:
    steps = labelled_steps(build(items))
    chosen = searched(steps)
    value = {score: f1_at(steps, score) for score in set(steps.scores_N.tolist())}
    assert value[chosen] == max(value.values())
    assert all(value[score] < value[chosen] for score in value if score < chosen)


def test_searched_worked() -> None:
    # at .2 all are accepted: (4/6 + 0) / 2; at .4: (4/5 + 2/3) / 2; at .6 no mistake: 1; at .8: (2/3 + 4/5) / 2
    assert searched(labelled_steps([Prediction("a", "s", (-1, -1, 1, 1), (0.2, 0.4, 0.6, 0.8))])) == 0.6


def test_searched_goes_by_source() -> None:
    steps = labelled_steps(build([("x", [(-1, 0.6), (1, 0.6)]), ("y", [(-1, 0.8), (1, 0.8)])]))
    # at .6 all are accepted: (2/3 + 0) / 2 = 1/3 in both sources; at .8 x is rejected: (0 + 2/3) / 2 there, a tie,
    # though pooled (1/2 + 1/2) / 2 is more
    assert searched(steps) == 0.6


CLOSE = [(0.99999, 0.99996), (1.0, 1.0 - 2**-53), (0.3, float(np.nextafter(0.3, 0))), (5e-324, 0.0)]


@pytest.mark.parametrize(("right", "wrong"), CLOSE)
def test_scores_however_close_are_told_apart(right: float, wrong: float) -> None:
    """Thresholds are scores as they are: neither rounded, nor between two that have nothing between them."""
    steps = labelled_steps([Prediction("a", "s", (1, -1, 1), (right, wrong, right))])
    assert searched(steps) == right
    assert f1_at(steps, searched(steps)) == 1


def test_constant_scores_leave_one_candidate() -> None:
    assert searched(labelled_steps([Prediction("a", "s", (-1, 1, 1), (0.25, 0.25, 0.25))])) == 0.25


# ---- fitted


def normal_steps(n_right: int, n_wrong: int, seed: int = 0, shift: float = 0.0, per_solution: int = 4) -> LabelledSteps:
    """Log odds of right steps around 1 + shift, of wrong ones around -1 + shift, sd 1: at P = .5 they are `shift`."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation([1] * n_right + [-1] * n_wrong)
    scores = 1 / (1 + np.exp(-(labels + shift + rng.normal(0, 1, len(labels)))))
    parts = range(0, len(labels), per_solution)
    return labelled_steps(
        [
            Prediction(
                f"{k:05}", "s", tuple(labels[k : k + per_solution].tolist()), tuple(scores[k : k + per_solution])
            )
            for k in parts
        ]
    )


def fit(steps: LabelledSteps, error_rate: float | None = None, resamples: int = 1) -> np.ndarray:
    return fitted(steps, resample_weights(len(steps.source_S), HELD_OUT, resamples), error_rate)


def log_odds(p: float) -> float:
    return float(np.log(p / (1 - p)))


@pytest.mark.parametrize("n_wrong", [8_000, 400])
@pytest.mark.parametrize("shift", [0.0, 2.5])
def test_the_fit_finds_the_middle_however_few_steps_are_wrong(n_wrong: int, shift: float) -> None:
    # Two normals of equal spread: log odds of "right" are 2 (x - shift), whatever the share of the wrong
    steps = normal_steps(8_000, n_wrong, shift=shift)
    assert log_odds(fit(steps)[0]) == pytest.approx(shift, abs=0.1)


def test_the_fit_is_the_minimum_of_its_loss() -> None:
    rng = np.random.default_rng(1)
    x_K, right_BK, wrong_BK = rng.normal(1, 3, 40), rng.random((1, 40)), rng.random((1, 40))
    right_BK, wrong_BK = right_BK * (x_K > -1) / (right_BK * (x_K > -1)).sum(), wrong_BK / wrong_BK.sum()
    z_BK, at_half_B = platt(x_K, right_BK, wrong_BK)
    slope, intercept = np.polyfit(x_K, z_BK[0], 1)
    assert at_half_B[0] == pytest.approx(-intercept / slope)

    def loss(slope: float, intercept: float) -> float:
        z_K = slope * x_K + intercept
        return float((right_BK[0] * np.logaddexp(0, -z_K) + wrong_BK[0] * np.logaddexp(0, z_K)).sum())

    nudged = [loss(slope + 0.02 * a, intercept + 0.02 * b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]
    assert min(nudged) > loss(slope, intercept)


def test_steps_that_are_told_apart_leave_the_threshold_between_them() -> None:
    steps = labelled_steps([Prediction("a", "s", (1, 1, 1, -1), (0.9, 0.9, 0.95, 0.2))])
    assert 0.2 < fit(steps)[0] < 0.9
    extreme = labelled_steps([Prediction("a", "s", (1, -1), (1.0, 0.0))])
    assert fit(extreme)[0] == pytest.approx(0.5)


@pytest.mark.parametrize("scores", [(0.4, 0.4, 0.4), (0.1, 0.2, 0.9)])
def test_scores_that_do_not_rise_with_the_labels_accept_all(scores: tuple[float, ...]) -> None:
    assert fit(labelled_steps([Prediction("a", "s", (1, 1, -1), scores)]))[0] == 0


@pytest.mark.parametrize("error_rate", [0.04, 0.3, 0.6])
def test_at_a_declared_rate_expected_f1_is_highest(error_rate: float) -> None:
    """On a benchmark of that rate, whatever the rate of the held-out steps, the best threshold is hardly better."""
    held_out = normal_steps(8_000, 320, shift=1.0)
    found = fit(held_out, error_rate)[0]
    assert found in held_out.scores_N
    benchmark = normal_steps(round(16_000 * (1 - error_rate)), round(16_000 * error_rate), seed=1, shift=1.0)
    assert f1_at(benchmark, found) == pytest.approx(f1_at(benchmark, searched(benchmark)), abs=0.004)
    # the rarer errors are, the surer a rejection must be
    assert found < fit(held_out)[0] if error_rate < 0.5 else found > fit(held_out)[0]


@pytest.mark.parametrize("error_rate", [None, 0.3])
def test_resamples_are_fits_to_solutions_written_out_again(error_rate: float | None) -> None:
    """In groups of about equal scores, and so close to the exact fit, not equal."""
    steps = normal_steps(1_500, 60, seed=3)
    found = fit(steps, error_rate, resamples=10)
    weights = resample_weights(len(steps.source_S), HELD_OUT, 10)
    for b in range(1, 11):
        row_N = np.repeat(np.arange(len(steps.scores_N)), weights[b].astype(int)[steps.solution_N])
        drawn = LabelledSteps(
            steps.sources, steps.source_S, steps.solution_N[row_N], steps.right_N[row_N], steps.scores_N[row_N]
        )
        assert log_odds(found[b]) == pytest.approx(
            log_odds(fit(drawn, error_rate)[0]), abs=0.01 if error_rate is None else 0.1
        )
    assert np.std([log_odds(t) for t in found]) > 0.03


def test_a_resample_of_one_kind_keeps_the_threshold() -> None:
    predictions = [Prediction(str(k), "s", (1,), (0.9,)) for k in range(6)] + [Prediction("w", "s", (-1,), (0.3,))]
    steps = labelled_steps(predictions)
    weights = resample_weights(len(steps.source_S), HELD_OUT, 40)
    found = fitted(steps, weights, None)
    without = weights[:, -1] == 0
    assert without.any()
    assert (found[without] == found[0]).all()


@settings(max_examples=50)
@given(solutions, st.sampled_from([None, 0.01, 0.5, 0.99]))
def test_the_threshold_is_a_probability_whatever_the_scores(
    items: list[tuple[str, list[tuple[int, float]]]], error_rate: float | None
) -> None:
    steps = labelled_steps([*build(items), Prediction("both", "x", (1, -1), (0.5, 0.5))])
    found = fit(steps, error_rate, resamples=5)
    assert ((found >= 0) & (found <= 1)).all()
    assert macro_f1(confusion(steps, found, np.ones((6, len(steps.source_S))))).min() >= 0
