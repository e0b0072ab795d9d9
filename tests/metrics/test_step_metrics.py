import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_auroc, binary_calibration_error, binary_f1_score

from mprm.metrics import step_metrics as metrics
from mprm.metrics.predictions import Prediction
from mprm.metrics.step_metrics import (
    LabelledSteps,
    best_threshold,
    candidates,
    confusion_at,
    confusion_per_solution,
    labelled_steps,
    per_source,
    pooled_macro_f1,
    step_weighted_macro_f1,
)

EIGHT, TWO = np.array([3, 1, 2, 2]), np.array([1, 0, 0, 1])
BOTH = np.stack([EIGHT, TWO])


def one_solution(labels: Sequence[int], scores: Sequence[float]) -> LabelledSteps:
    return labelled_steps([Prediction("a", "s", tuple(labels), tuple(scores))])


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
    assert metrics.confusion_per_solution(steps, 0.5).tolist() == [[1, 1, 1, 1]]


def test_confusion_by_solution_and_by_source() -> None:
    steps = labelled_steps(
        [
            Prediction("a", "y", (1, 1, -1), (0.9, 0.1, 0.9)),
            Prediction("b", "x", (-1,), (0.1,)),
            Prediction("c", "y", (1, -1), (0.9, 0.1)),
        ]
    )
    per_solution = metrics.confusion_per_solution(steps, 0.5)
    assert per_solution.tolist() == [[1, 1, 1, 0], [0, 0, 0, 1], [1, 0, 0, 1]]
    assert metrics.per_source(steps, per_solution).tolist() == [[0, 0, 0, 1], [2, 1, 1, 1]]


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
    assert metrics.auc(one_solution([1, 1, -1, -1], [0.9, 0.5, 0.5, 0.1])) == 0.875


def test_auc_edge_cases() -> None:
    assert metrics.auc(one_solution([1, -1, 1], [0.3, 0.3, 0.3])) == 0.5
    assert math.isnan(metrics.auc(one_solution([1, 1], [0.3, 0.4])))
    assert math.isnan(metrics.auc(one_solution([-1], [0.3])))


def test_weights_of_the_auc_repeat_solutions() -> None:
    a, b = Prediction("a", "s", (1, -1), (0.6, 0.5)), Prediction("b", "s", (1, -1, -1), (0.4, 0.5, 0.7))
    weighted = metrics.auc_of_resamples(labelled_steps([a, b]), np.array([[2.0, 1.0], [0.0, 3.0]]))
    assert weighted.tolist() == [metrics.auc(labelled_steps([a, a, b])), metrics.auc(labelled_steps([b]))]


@given(steps_lists)
def test_auc_counts_pairs(items: list[tuple[int, float]]) -> None:
    right = [score for label, score in items if label == 1]
    wrong = [score for label, score in items if label == -1]
    value = metrics.auc(one_solution(*zip(*items, strict=True)))
    if right and wrong:
        wins = sum((r > w) + (r == w) / 2 for r in right for w in wrong)
        assert value == pytest.approx(wins / len(right) / len(wrong), abs=1e-12)
    else:
        assert math.isnan(value)


@given(steps_lists)
def test_auc_does_not_change_under_increasing_maps_and_turns_under_decreasing(items: list[tuple[int, float]]) -> None:
    labels, scores = zip(*items, strict=True)
    value = metrics.auc(one_solution(labels, scores))
    squeezed = metrics.auc(one_solution(labels, [math.exp(3 * score) - 7 for score in scores]))
    turned = metrics.auc(one_solution(labels, [-score for score in scores]))
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
    counts = metrics.confusion_per_solution(steps, threshold)[0]
    accepted, rejected = (prediction >= threshold).int(), (prediction < threshold).int()
    assert metrics.auc(steps) == pytest.approx(binary_auroc(prediction, target).item(), abs=1e-6)
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
        found_S, erroneous_S = metrics.first_errors(one_solution(labels, scores), 0.5)
        assert (found_S.tolist(), erroneous_S.tolist()) == ([found], [-1 in labels]), (labels, scores)


def test_first_errors_do_not_mix_solutions() -> None:
    steps = labelled_steps(
        [
            Prediction("a", "s", (1, 1), (0.9, 0.9)),
            Prediction("b", "s", (0, 0), (0.1, 0.1)),
            Prediction("c", "s", (1, -1), (0.1, 0.1)),
            Prediction("d", "s", (-1, 1), (0.1, 0.9)),
        ]
    )
    found_S, erroneous_S = metrics.first_errors(steps, 0.5)
    assert found_S.tolist() == [True, False, True]
    assert erroneous_S.tolist() == [False, True, True]


def test_first_error_f1_worked() -> None:
    found, erroneous = np.array([1, 0, 1, 1, 1, 0], bool), np.array([1, 1, 0, 0, 0, 0], bool)
    assert metrics.first_error_f1(found, erroneous) == pytest.approx(0.6)
    assert metrics.first_error_f1(found & False, erroneous) == 0
    assert math.isnan(metrics.first_error_f1(found[:2], erroneous[:2]))
    assert math.isnan(metrics.first_error_f1(found[2:], erroneous[2:]))


# ---- thresholds

step = st.tuples(st.sampled_from([1, -1]), st.integers(0, 20).map(lambda k: k / 20))
solutions = st.lists(st.tuples(st.sampled_from("xyz"), st.lists(step, min_size=1, max_size=6)), min_size=1, max_size=12)


def build(items: list[tuple[str, list[tuple[int, float]]]]) -> list[Prediction]:
    return [
        Prediction(str(number), source, tuple(label for label, _ in steps), tuple(score for _, score in steps))
        for number, (source, steps) in enumerate(items)
    ]


def test_candidates_are_rounded_sorted_and_unique() -> None:
    assert candidates(np.array([0.9, 0.12344, 0.12341])).tolist() == [0.1234, 0.9]


def test_many_candidates_are_thinned() -> None:
    for n, kept in ((1000, 1000), (1999, 1999), (2000, 1000), (3500, 1167)):
        found = candidates(np.arange(n) / 10_000)
        assert len(found) == kept
        assert found[:2].tolist() == [0, (n // 1000) / 10_000]


@given(solutions)
def test_confusion_at_all_thresholds_is_that_at_each(items: list[tuple[str, list[tuple[int, float]]]]) -> None:
    steps = labelled_steps(build(items))
    thresholds = np.linspace(-0.1, 1.1, 49)
    one_by_one = [per_source(steps, confusion_per_solution(steps, threshold)) for threshold in thresholds]
    np.testing.assert_array_equal(confusion_at(steps, thresholds), one_by_one)


@given(solutions)
def test_no_candidate_is_better_and_no_smaller_one_as_good(items: list[tuple[str, list[tuple[int, float]]]]) -> None:
    steps = labelled_steps(build(items))
    thresholds = candidates(steps.scores_N)
    for objective in (step_weighted_macro_f1, pooled_macro_f1):
        chosen = best_threshold(steps, objective)
        value = {t: float(objective(per_source(steps, confusion_per_solution(steps, t)))) for t in thresholds.tolist()}
        assert value[chosen] == max(value.values())
        assert all(value[t] < value[chosen] for t in value if t < chosen)


def test_searched_worked() -> None:
    # at .2 all are accepted: (4/6 + 0) / 2; at .4: (4/5 + 2/3) / 2; at .6 no mistake: 1; at .8: (2/3 + 4/5) / 2
    steps = labelled_steps([Prediction("a", "s", (-1, -1, 1, 1), (0.2, 0.4, 0.6, 0.8))])
    assert best_threshold(steps, step_weighted_macro_f1) == 0.6
    assert best_threshold(steps, pooled_macro_f1) == 0.6


def test_searched_goes_by_source_and_calibrated_pools() -> None:
    steps = labelled_steps(build([("x", [(-1, 0.6), (1, 0.6)]), ("y", [(-1, 0.8), (1, 0.8)])]))
    # at .6 all are accepted: (2/3 + 0) / 2 = 1/3 in both sources and pooled
    # at .8 x is rejected: (0 + 2/3) / 2 = 1/3 in x, 1/3 in y, a tie; pooled (1/2 + 1/2) / 2
    assert best_threshold(steps, step_weighted_macro_f1) == 0.6
    assert best_threshold(steps, pooled_macro_f1) == 0.8


def test_constant_scores_leave_one_candidate() -> None:
    steps = labelled_steps([Prediction("a", "s", (-1, 1, 1), (0.25, 0.25, 0.25))])
    assert best_threshold(steps, step_weighted_macro_f1) == best_threshold(steps, pooled_macro_f1) == 0.25
