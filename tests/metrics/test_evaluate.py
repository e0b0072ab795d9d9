import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mprm.metrics.estimate import HELD_OUT, SHARE, over_items, resample_weights
from mprm.metrics.evaluate import accuracy_by_position, evaluate, majority, measure, position_only, step_measures
from mprm.metrics.predictions import Prediction, read_predictions
from mprm.metrics.results import StepResults, ThresholdResults, read_results, write_results
from mprm.metrics.step_metrics import fitted, labelled_steps

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


SEARCHED = "threshold_searched_on_the_same_data"  # rounded to four decimals by the published tool


@pytest.mark.parametrize("key", ["fixed_0.5", "fixed_0.37", SEARCHED])
def test_published_metrics_are_reproduced(tmp_path: Path, key: str) -> None:
    threshold = str(EXPECTED[key]["threshold"])
    output = tmp_path / "out" / "measured.json"
    measured = measure(read_predictions(ORACLE / "predictions.json"), threshold)
    write_results(output, measured)
    assert read_results(output) == measured
    (written,) = json.loads(output.read_text())["thresholds"].values()
    assert_holds(written, EXPECTED[key], key)
    assert set(written["per_source"]) == set(EXPECTED[key]["per_source"])
    assert "optimistic" in measured.baselines["position_only"].threshold_from


def test_the_searched_threshold_is_at_least_as_good_as_the_published_rounded_one() -> None:
    found = at(measure(read_predictions(ORACLE / "predictions.json"), "searched"))
    assert found.threshold == pytest.approx(EXPECTED[SEARCHED]["threshold"], abs=0.01)
    best = EXPECTED[SEARCHED]["overall_step_weighted_macro_f1"]
    assert best - 1e-12 <= found.overall_step_weighted_macro_f1.value <= best + 0.005


def test_scores_that_differ_in_the_fifth_decimal_are_told_apart() -> None:
    predictions = [Prediction(str(k), "s", (1, -1), (0.99999, 0.99996)) for k in range(20)]
    results = evaluate(predictions, predictions, resamples=20)
    assert results.auc.value == 1
    assert [overall(results.thresholds[name]) for name in ("fitted", "optimistic", "fixed")] == [
        1,
        1,
        pytest.approx(1 / 3),
    ]
    assert overall(at(measure(predictions, "searched", resamples=20))) == 1


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
    before = evaluate(predictions, calibration, resamples=10)
    random.shuffle(predictions)
    random.shuffle(calibration)
    assert evaluate(predictions, calibration, resamples=10) == before


@settings(max_examples=25)
@given(solutions, solutions, solutions, st.sampled_from([None, 0.3]))
def test_the_fitted_threshold_does_not_look_at_the_benchmark(
    first: Items, second: Items, held_out: Items, error_rate: float | None
) -> None:
    results = [evaluate(build(items), build(held_out), error_rate, resamples=2) for items in (first, second)]
    found = [result.thresholds.get("fitted") for result in results]
    if {1, -1} <= {label for _, steps in held_out for label, _ in steps}:
        assert found[0].threshold == found[1].threshold
        assert ("error rate of 0.3" in found[0].threshold_from) == (error_rate is not None)
        for result in results:
            assert result.f1 == result.thresholds["fitted"].overall_step_weighted_macro_f1
            assert result.error_rate == error_rate
            assert result.baselines["position_only"].threshold_from == found[0].threshold_from
        thresholds = [result.baselines["position_only"].threshold for result in results]
        assert thresholds[0] == thresholds[1]
    else:
        assert found == [None, None]
        assert results[0].f1 is None
        assert "optimistic" in results[0].baselines["position_only"].threshold_from


def overall(results: ThresholdResults) -> float:
    return results.overall_step_weighted_macro_f1.value


@settings(max_examples=25)
@given(solutions, solutions)
def test_the_optimistic_threshold_is_at_least_as_good_as_every_score(items: Items, held_out: Items) -> None:
    thresholds = evaluate(build(items), build(held_out), resamples=2).thresholds
    best = overall(thresholds["optimistic"])
    for score in {score for _, steps in items for label, score in steps if label}:
        assert best >= overall(at(measure(build(items), score, resamples=2))) - 1e-12
    assert "optimistic" in thresholds["optimistic"].threshold_from


@settings(max_examples=25)
@given(solutions)
def test_results_are_written_and_read_whatever_the_labels(
    tmp_path_factory: pytest.TempPathFactory, items: Items
) -> None:
    results = evaluate(build(items), None, resamples=3)
    path = tmp_path_factory.mktemp("written") / "results.json"
    write_results(path, results)
    assert read_results(path) == results
    assert "fitted" not in results.thresholds
    n_labelled = sum(label != 0 for _, steps in items for label, _ in steps)
    assert results.n_steps == n_labelled == results.thresholds["fixed"].total_steps


def test_evaluate_of_the_oracle_predictions() -> None:
    predictions = read_predictions(ORACLE / "predictions.json")
    results = evaluate(predictions, predictions[:60])
    assert (results.n_solutions, results.n_steps, results.n_neutral_steps) == (300, 2105, 227)
    assert_holds(asdict(results.thresholds["fixed"]), EXPECTED["fixed_0.5"], "fixed")
    for part in (*results.thresholds.values(), *results.baselines.values()):
        for one in (part.overall_step_weighted_macro_f1, part.pooled_macro_f1, part.auc, part.first_error_accuracy):
            assert one.low <= one.value <= one.high
        assert all(source.macro_f1.low is not None for source in part.per_source.values())
    assert results.auc == results.thresholds["fixed"].auc
    # 1,394 of 2,105 labelled steps are right: F1 = 2 * 1394 / (2 * 1394 + 711) and 0
    assert results.baselines["majority"].pooled_macro_f1.value == pytest.approx(1394 / 3499)
    assert results.baselines["majority"].auc.value == 0.5


def test_one_class_has_no_auc() -> None:
    results = evaluate(build([("x", [(1, 0.9), (0, 0.1), (1, 0.2)])]), None, resamples=5)
    assert results.auc is results.average_precision is None
    assert set(step_measures(build([("x", [(1, 0.9)])]), None, None, 5)) == {"f1_fixed", "f1_optimistic"}
    assert results.thresholds["fixed"].first_error_f1 is None
    assert results.thresholds["fixed"].auc_words() == "- (all 2 labelled steps are correct)"


def test_constant_scores_are_worth_a_coin() -> None:
    results = evaluate(build([("x", [(1, 0.3), (-1, 0.3)]), ("y", [(1, 0.3)])]), None, resamples=5)
    assert results.auc.value == 0.5
    assert results.thresholds["optimistic"].threshold == 0.3


def test_all_neutral_is_an_error() -> None:
    with pytest.raises(ValueError, match="no step labelled 1 or -1"):
        evaluate(build([("x", [(0, 0.3), (0, 0.4)])]), None)


def test_position_baseline_finds_a_benchmark_that_fails_late() -> None:
    items: Items = [("x", [(1, 0.5), (1, 0.5), (-1, 0.5)])] * 20
    baseline = evaluate(build(items), build(items[:5]), resamples=5).baselines["position_only"]
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


@pytest.mark.parametrize("error_rate", [None, 0.25])
def test_a_resample_is_its_solutions_written_out_again_at_a_threshold_fitted_anew(error_rate: float | None) -> None:
    predictions, held_out = sorted(invented(30), key=lambda prediction: prediction.id), invented(40, seed=1)
    thresholds = fitted(labelled_steps(held_out), resample_weights(40, HELD_OUT, 20), error_rate)
    assert len(set(thresholds)) > 10
    found: dict[str, list[float]] = {}
    for row, threshold in zip(resample_weights(30, resamples=20).astype(int), thresholds, strict=True):
        drawn = [replace(p, id=f"{p.id}-{k}") for p, times in zip(predictions, row, strict=True) for k in range(times)]
        results = measure(drawn, threshold, resamples=2)
        one = at(results)
        for key, value in {
            "auc": results.auc,
            "average_precision": results.average_precision,
            "f1": one.overall_step_weighted_macro_f1,
            "first_error_accuracy": one.first_error_accuracy,
            "source/x": one.per_source["x"].macro_f1,
            "pooled": one.pooled_macro_f1,
        }.items():
            found.setdefault(key, []).append(value.value)
    results = evaluate(predictions, held_out, error_rate, resamples=20)
    one = results.thresholds["fitted"]
    estimates = {
        "auc": results.auc,
        "average_precision": results.average_precision,
        "f1": results.f1,
        "first_error_accuracy": one.first_error_accuracy,
        "source/x": one.per_source["x"].macro_f1,
        "pooled": one.pooled_macro_f1,
    }
    measures = step_measures(predictions, held_out, error_rate, resamples=20)
    for key, values in found.items():
        assert estimates[key].value == pytest.approx(values[0], abs=1e-12), key
        expected = over_items(np.array(values), 10 if key == "source/x" else 30, SHARE)
        ends = (expected.low, expected.high)
        assert (estimates[key].low, estimates[key].high) == pytest.approx(ends, abs=1e-9), key
        if key != "pooled":
            assert measures[key].values_B == pytest.approx(values, abs=1e-12), key
    assert {"f1_fixed", "f1_optimistic", "source/y", "source/z"} == measures.keys() - found.keys()


def test_intervals_hold_the_value_and_shrink_with_more_solutions() -> None:
    widths = []
    for n_solutions in (40, 640):
        one = at(measure(invented(n_solutions), 0.5, resamples=300)).pooled_macro_f1
        assert one.low < one.value < one.high
        widths.append(one.high - one.low)
    assert 2 < widths[0] / widths[1] < 8  # sixteen times as many solutions: about a quarter of the width


def test_a_rare_source_is_judged_by_the_resamples_that_hold_it() -> None:
    predictions = [*invented(20), Prediction("rare", "rare", (1, -1), (0.9, 0.1))]
    assert (resample_weights(21, resamples=200)[:, -1] == 0).any()
    rare = at(measure(predictions, 0.5, resamples=200)).per_source["rare"].macro_f1
    assert (rare.value, rare.high) == (1, 1)
    assert rare.low < 0.01  # one solution proves nothing


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
