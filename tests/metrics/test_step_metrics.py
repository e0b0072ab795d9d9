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
from mprm.metrics.predictions import Prediction
from mprm.metrics.step_metrics import LabelledSteps, confusion, first_errors, labelled_steps, rankings

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
