import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mprm.metrics import step_metrics as metrics
from mprm.metrics.estimate import Estimate, resample_weights
from mprm.metrics.evaluate import accuracy_by_position, evaluate, majority, measure, position_only
from mprm.metrics.predictions import Prediction, read_predictions
from mprm.metrics.results import StepResults, ThresholdResults, as_json, read_results, write_results
from mprm.metrics.step_metrics import labelled_steps

ORACLE = Path(__file__).resolve().parents[1] / "oracle_data" / "metrics"
EXPECTED = json.loads((ORACLE / "expected.json").read_text())

step = st.tuples(st.sampled_from([1, -1, 0]), st.integers(0, 20).map(lambda k: k / 20))
solutions = st.lists(
    st.tuples(st.sampled_from("xyz"), st.lists(step, min_size=1, max_size=6)), min_size=1, max_size=8
).filter(lambda items: any(label for _, steps in items for label, _ in steps))
Items = list[tuple[str, list[tuple[int, float]]]]


def build(items: Items) -> list[Prediction]:
    return [
        Prediction(str(number), source, tuple(label for label, _ in steps), tuple(score for _, score in steps))
        for number, (source, steps) in enumerate(items)
    ]


def assert_holds(found: Any, expected: Any, place: str) -> None:
    """Every key of expected is in found, with the same number to 1e-9; what is found may have an interval."""
    if isinstance(found, dict) and "value" in found:
        found = found["value"]
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert_holds(found[key], value, f"{place}/{key}")
    else:
        assert found == pytest.approx(expected, abs=1e-9), place


def at(results: StepResults) -> ThresholdResults:
    """Of measure: at its only threshold."""
    (found,) = results.thresholds.values()
    return found


@pytest.mark.parametrize(
    ("threshold", "key"),
    [("0.5", "fixed_0.5"), ("0.37", "fixed_0.37"), ("searched", "threshold_searched_on_the_same_data")],
)
def test_published_metrics_are_reproduced(tmp_path: Path, threshold: str, key: str) -> None:
    output = tmp_path / "out" / "measured.json"
    measured = measure(read_predictions(ORACLE / "predictions.json"), threshold)
    write_results(output, measured)
    assert read_results(output) == measured
    (written,) = json.loads(output.read_text())["thresholds"].values()
    assert_holds(written, EXPECTED[key], key)
    assert set(written["per_source"]) == set(EXPECTED[key]["per_source"])
    assert measured.baselines["position_only"].fitted_on == "benchmark"


@pytest.mark.parametrize("threshold", ["abc", "nan", "inf", ""])
def test_bad_threshold_is_one_line(threshold: str) -> None:
    with pytest.raises(ValueError, match=rf"threshold={threshold} is neither .* give e\.g\. threshold=0\.5"):
        measure([Prediction("a", "s", (1,), (0.5,))], threshold)


def test_measure_worked() -> None:
    results = measure(
        [
            Prediction("a", "x", (1, 1, 1, -1, 1, 1, -1, -1), (0.9, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1)),
            Prediction("b", "y", (1, 0, -1), (0.8, 0.7, 0.2)),
        ],
        0.5,
    )
    result = at(results)
    assert result.overall_step_weighted_macro_f1.value == pytest.approx(73 / 105)
    assert result.pooled_macro_f1.value == pytest.approx(23 / 33)
    assert result.classical_micro_f1 == pytest.approx(0.7)
    assert result.confusion == {"tp": 4, "fp": 1, "fn": 2, "tn": 3}
    assert result.first_error_accuracy.value == 0.5
    assert result.first_error_f1 is None
    assert result.threshold_from == "fixed in advance"
    assert "optimistic" in at(measure(build([("x", [(1, 0.5)])]), "searched")).threshold_from


@settings(max_examples=50)
@given(solutions, st.sampled_from([0.5, "searched"]), st.floats(0, 1))
def test_neutral_steps_change_no_metric(items: Items, threshold: float | str, score: float) -> None:
    predictions = build(items)
    without = [
        replace(
            prediction,
            labels=tuple(label for label in prediction.labels if label),
            scores=tuple(score for label, score in zip(prediction.labels, prediction.scores, strict=True) if label),
        )
        for prediction in predictions
        if any(prediction.labels)
    ]
    more = [
        *(replace(p, labels=(0, *p.labels, 0), scores=(score, *p.scores, score)) for p in predictions),
        Prediction("all neutral", "w", (0, 0), (score, score)),
    ]
    first, second, third = (at(measure(some, threshold, resamples=2)) for some in (predictions, without, more))
    assert first == second == third


@settings(max_examples=25)
@given(solutions, solutions, st.randoms(use_true_random=False))
def test_order_of_solutions_does_not_matter(items: Items, held_out: Items, random: Any) -> None:
    predictions, calibration = build(items), build(held_out)
    before = evaluate(predictions, calibration, seed=0, resamples=10)
    random.shuffle(predictions)
    random.shuffle(calibration)
    assert evaluate(predictions, calibration, seed=0, resamples=10) == before


@settings(max_examples=25)
@given(solutions, solutions, solutions)
def test_calibration_does_not_look_at_the_benchmark(first: Items, second: Items, held_out: Items) -> None:
    results = [evaluate(build(items), build(held_out), seed=0, resamples=2) for items in (first, second)]
    calibrated = [result.thresholds.get("calibrated") for result in results]
    if {1, -1} <= {label for _, steps in held_out for label, _ in steps}:
        assert calibrated[0].threshold == calibrated[1].threshold
        assert calibrated[0].threshold_from == "calibrated on the held-out split"
        for result in results:
            assert result.baselines["position_only"].fitted_on == "held_out"
        thresholds = [result.baselines["position_only"].threshold for result in results]
        assert thresholds[0] == thresholds[1]
    else:
        assert calibrated == [None, None]
        assert results[0].baselines["position_only"].fitted_on == "benchmark"


def overall(results: ThresholdResults) -> float:
    return results.overall_step_weighted_macro_f1.value


@settings(max_examples=25)
@given(solutions, solutions)
def test_oracle_is_at_least_every_other_candidate(items: Items, held_out: Items) -> None:
    thresholds = evaluate(build(items), build(held_out), seed=0, resamples=2).thresholds
    best = overall(thresholds["oracle"])
    for score in {score for _, steps in items for label, score in steps if label}:
        assert best >= overall(at(measure(build(items), score, resamples=2))) - 1e-12
    assert "optimistic" in thresholds["oracle"].threshold_from


@settings(max_examples=25)
@given(solutions)
def test_results_are_written_and_read_whatever_the_labels(
    tmp_path_factory: pytest.TempPathFactory, items: Items
) -> None:
    results = evaluate(build(items), None, seed=0, resamples=3)
    path = tmp_path_factory.mktemp("written") / "results.json"
    write_results(path, results)
    assert read_results(path) == results
    assert "calibrated" not in results.thresholds
    n_labelled = sum(label != 0 for _, steps in items for label, _ in steps)
    assert results.n_steps == n_labelled == results.thresholds["fixed"].total_steps


def test_evaluate_of_the_oracle_predictions() -> None:
    predictions = read_predictions(ORACLE / "predictions.json")
    results = evaluate(predictions, predictions[:60], seed=0)
    assert (results.n_solutions, results.n_steps, results.n_neutral_steps) == (300, 2105, 227)
    assert_holds(as_json(results.thresholds["fixed"]), EXPECTED["fixed_0.5"], "fixed")
    assert_holds(as_json(results.thresholds["oracle"]), EXPECTED["threshold_searched_on_the_same_data"], "oracle")
    for part in (*results.thresholds.values(), *results.baselines.values()):
        for one in (part.overall_step_weighted_macro_f1, part.pooled_macro_f1, part.auc, part.first_error_accuracy):
            assert one.low <= one.value <= one.high
        assert all(source.macro_f1.low is not None for source in part.per_source.values())
    assert results.auc == results.thresholds["fixed"].auc
    # 1,394 of 2,105 labelled steps are right: F1 = 2 * 1394 / (2 * 1394 + 711) and 0
    assert results.baselines["majority"].pooled_macro_f1.value == pytest.approx(1394 / 3499)
    assert results.baselines["majority"].auc.value == 0.5


def test_one_class_has_no_auc() -> None:
    results = evaluate(build([("x", [(1, 0.9), (0, 0.1), (1, 0.2)])]), None, seed=0, resamples=5)
    assert results.auc is None
    assert results.thresholds["fixed"].first_error_f1 is None
    assert results.thresholds["fixed"].auc_words() == "- (all 2 labelled steps are correct)"


def test_constant_scores_are_worth_a_coin() -> None:
    results = evaluate(build([("x", [(1, 0.3), (-1, 0.3)]), ("y", [(1, 0.3)])]), None, seed=0, resamples=5)
    assert results.auc.value == 0.5
    assert results.thresholds["oracle"].threshold == 0.3


def test_all_neutral_is_an_error() -> None:
    with pytest.raises(ValueError, match="no step labelled 1 or -1"):
        evaluate(build([("x", [(0, 0.3), (0, 0.4)])]), None, seed=0)


def test_position_baseline_finds_a_benchmark_that_fails_late() -> None:
    items: Items = [("x", [(1, 0.5), (1, 0.5), (-1, 0.5)])] * 20
    baseline = evaluate(build(items), build(items[:5]), seed=0, resamples=5).baselines["position_only"]
    assert baseline.auc.value == 1
    assert baseline.pooled_macro_f1.value == 1


# ---- intervals


def invented(n_solutions: int, seed: int = 0) -> list[Prediction]:
    rng = np.random.default_rng(seed)
    predictions = []
    for number in range(n_solutions):
        labels = rng.choice([1, -1, 0], size=rng.integers(2, 8), p=[0.6, 0.3, 0.1])
        labels[0] = 1
        scores = np.clip(0.5 + 0.2 * labels + rng.normal(0, 0.25, len(labels)), 0, 1)
        predictions.append(Prediction(str(number), "xyz"[number % 3], tuple(labels.tolist()), tuple(scores.tolist())))
    return predictions


def test_weights_stand_for_solutions_written_out_again() -> None:
    predictions = sorted(invented(30), key=lambda prediction: prediction.id)
    weights = resample_weights(30, 0, 20)
    found = {
        "auc": [],
        "overall_step_weighted_macro_f1": [],
        "pooled_macro_f1": [],
        "first_error_accuracy": [],
        "x": [],
    }
    for row in weights.astype(int):
        drawn = labelled_steps([p for p, times in zip(predictions, row, strict=True) for _ in range(times)])
        counts = metrics.per_source(drawn, metrics.confusion_per_solution(drawn, 0.5))
        found["auc"].append(metrics.auc(drawn))
        found["overall_step_weighted_macro_f1"].append(metrics.step_weighted_macro_f1(counts))
        found["pooled_macro_f1"].append(metrics.pooled_macro_f1(counts))
        found["first_error_accuracy"].append(metrics.first_errors(drawn, 0.5)[0].mean())
        found["x"].append(metrics.macro_f1(counts[drawn.sources.index("x")]))
    results = at(measure(predictions, 0.5, resamples=20))
    for name, values in found.items():
        one = results.per_source["x"].macro_f1 if name == "x" else getattr(results, name)
        assert [one.low, one.high] == pytest.approx(np.percentile(values, [2.5, 97.5]).tolist(), abs=1e-12)


def test_intervals_hold_the_value_and_shrink_with_more_solutions() -> None:
    widths = []
    for n_solutions in (40, 640):
        one = at(measure(invented(n_solutions), 0.5, resamples=300)).pooled_macro_f1
        assert one.low < one.value < one.high
        widths.append(one.high - one.low)
    assert 2 < widths[0] / widths[1] < 8  # sixteen times as many solutions: about a quarter of the width


def test_a_rare_source_is_judged_by_the_resamples_that_hold_it() -> None:
    predictions = [*invented(20), Prediction("rare", "rare", (1, -1), (0.9, 0.1))]
    assert (resample_weights(21, 0, 200)[:, -1] == 0).any()
    assert at(measure(predictions, 0.5, resamples=200)).per_source["rare"].macro_f1 == Estimate(1.0, 1.0, 1.0)


# ---- baselines


def test_majority_says_the_more_frequent_label_of_every_step() -> None:
    right = [Prediction("a", "s", (1, 0, 1), (0.1, 0.1, 0.1)), Prediction("b", "s", (-1,), (0.9,))]
    wrong = [Prediction("a", "s", (1, 0, -1), (0.1, 0.1, 0.1)), Prediction("b", "s", (-1,), (0.9,))]
    assert [prediction.scores for prediction in majority(right)] == [(1.0, 1.0, 1.0), (1.0,)]
    assert [prediction.scores for prediction in majority(wrong)] == [(0.0, 0.0, 0.0), (0.0,)]


def test_accuracy_by_position_worked() -> None:
    prior = accuracy_by_position([Prediction("a", "s", (1, -1), (0, 0)), Prediction("b", "s", (1, 1, -1), (0, 0, 0))])
    assert prior.tolist() == [1, 0.6, 0.6, 0.6, 1, 0.6, 0.6, 0.6, 0.6, 0]


def test_neutral_steps_have_a_place_but_no_vote() -> None:
    with_neutral = accuracy_by_position([Prediction("a", "s", (1, 0, -1), (0, 0, 0))])
    assert with_neutral.tolist() == [1, *[0.5] * 8, 0]


def test_position_only_scores_the_place() -> None:
    prior = np.arange(10) / 10
    one, two, four = position_only(
        [
            Prediction("a", "s", (1,), (0.5,)),
            Prediction("b", "s", (1, -1), (0.5, 0.5)),
            Prediction("c", "s", (1, 0, -1, 1), (0.5, 0.5, 0.5, 0.5)),
        ],
        prior,
    )
    assert one.scores == (0.0,)
    assert two.scores == (0.0, 0.9)
    assert four.scores == pytest.approx((0.0, 0.3, 0.6, 0.9))


@given(st.lists(st.sampled_from([1, -1]), min_size=1, max_size=30))
def test_baselines_never_look_at_a_score(labels: list[int]) -> None:
    n = len(labels)
    low, high = ([Prediction("a", "s", tuple(labels), (score,) * n)] for score in (0.0, 1.0))
    assert majority(low) == majority(high)
    prior = accuracy_by_position(low)
    assert position_only(low, prior) == position_only(high, accuracy_by_position(high))
    assert min(prior) >= 0
    assert max(prior) <= 1
