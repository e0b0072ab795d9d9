import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mprm.metrics.measure import evaluate, measure, measure_file
from mprm.metrics.predictions import Prediction, read_predictions

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
    """Every key of expected is in found, with the same number to 1e-9."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert_holds(found[key], value, f"{place}/{key}")
    else:
        assert found == pytest.approx(expected, abs=1e-9), place


@pytest.mark.parametrize(
    ("threshold", "key"),
    [("0.5", "fixed_0.5"), ("0.37", "fixed_0.37"), ("searched", "threshold_searched_on_the_same_data")],
)
def test_published_metrics_are_reproduced(tmp_path: Path, threshold: str, key: str) -> None:
    output = tmp_path / "out" / "measured.json"
    returned = measure_file(ORACLE / "predictions.json", threshold, output)
    written = json.loads(output.read_text())
    assert written == returned
    assert_holds(written, EXPECTED[key], key)
    assert set(written["per_source"]) == set(EXPECTED[key]["per_source"])
    assert {"n_solutions", "ece", "brier", "intervals", "baselines", "bootstrap"} <= set(written)
    assert written["baselines"]["position_only"]["fitted_on"] == "benchmark"


@pytest.mark.parametrize("threshold", ["abc", "nan", "inf", ""])
def test_bad_threshold_is_one_line(tmp_path: Path, threshold: str) -> None:
    with pytest.raises(ValueError, match=rf"threshold={threshold} is neither .* give e\.g\. threshold=0\.5"):
        measure_file(ORACLE / "predictions.json", threshold, tmp_path / "measured.json")
    assert not list(tmp_path.iterdir())


def test_measure_worked() -> None:
    result = measure(
        [
            Prediction("a", "x", (1, 1, 1, -1, 1, 1, -1, -1), (0.9, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1)),
            Prediction("b", "y", (1, 0, -1), (0.8, 0.7, 0.2)),
        ],
        0.5,
    )
    assert result["overall_step_weighted_macro_f1"] == pytest.approx(73 / 105)
    assert result["pooled_macro_f1"] == pytest.approx(23 / 33)
    assert result["classical_micro_f1"] == pytest.approx(0.7)
    assert result["confusion"] == {"tp": 4, "fp": 1, "fn": 2, "tn": 3}
    assert result["first_error_accuracy"] == 0.5
    assert result["first_error_f1"] is None
    assert result["threshold_from"] == "fixed in advance"
    assert "optimistic" in measure(build([("x", [(1, 0.5)])]), "searched")["threshold_from"]


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
    assert measure(predictions, threshold) == measure(without, threshold) == measure(more, threshold)


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
    calibrated = [result["thresholds"]["calibrated"] for result in results]
    if {1, -1} <= {label for _, steps in held_out for label, _ in steps}:
        assert calibrated[0]["threshold"] == calibrated[1]["threshold"]
        assert calibrated[0]["threshold_from"] == "calibrated on the held-out split"
        for result in results:
            assert result["baselines"]["position_only"]["fitted_on"] == "held_out"
        thresholds = [result["baselines"]["position_only"]["threshold"] for result in results]
        assert thresholds[0] == thresholds[1]
    else:
        assert calibrated == [None, None]
        assert results[0]["baselines"]["position_only"]["fitted_on"] == "benchmark"


@settings(max_examples=25)
@given(solutions, solutions)
def test_oracle_is_at_least_every_other_candidate(items: Items, held_out: Items) -> None:
    thresholds = evaluate(build(items), build(held_out), seed=0, resamples=2)["thresholds"]
    key = "overall_step_weighted_macro_f1"
    for score in {score for _, steps in items for label, score in steps if label}:
        assert thresholds["oracle"][key] >= measure(build(items), score)[key] - 1e-12
    assert "optimistic" in thresholds["oracle"]["threshold_from"]


@given(solutions)
def test_results_are_json_whatever_the_labels(items: Items) -> None:
    result = evaluate(build(items), None, seed=0, resamples=3)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["thresholds"]["calibrated"] is None
    n_labelled = sum(label != 0 for _, steps in items for label, _ in steps)
    assert result["n_steps"] == n_labelled == result["thresholds"]["fixed"]["total_steps"]


def test_evaluate_of_the_oracle_predictions() -> None:
    predictions = read_predictions(ORACLE / "predictions.json")
    result = evaluate(predictions, predictions[:60], seed=0)
    assert (result["n_solutions"], result["n_steps"], result["n_neutral_steps"]) == (300, 2105, 227)
    assert_holds(result["thresholds"]["fixed"], EXPECTED["fixed_0.5"], "fixed")
    assert_holds(result["thresholds"]["oracle"], EXPECTED["threshold_searched_on_the_same_data"], "oracle")
    for part in (*result["thresholds"].values(), *result["baselines"].values()):
        for key in ("overall_step_weighted_macro_f1", "pooled_macro_f1", "auc", "first_error_accuracy"):
            low, high = part["intervals"][key]
            assert low <= part[key] <= high
        assert set(part["intervals"]["per_source"]) == set(part["per_source"])
    assert result["first_error_accuracy"] == result["thresholds"]["fixed"]["first_error_accuracy"]
    # 1,394 of 2,105 labelled steps are right: F1 = 2 * 1394 / (2 * 1394 + 711) and 0
    assert result["baselines"]["majority"]["pooled_macro_f1"] == pytest.approx(1394 / 3499)
    assert result["baselines"]["majority"]["auc"] == 0.5


def test_one_class_has_no_auc() -> None:
    result = evaluate(build([("x", [(1, 0.9), (0, 0.1), (1, 0.2)])]), None, seed=0, resamples=5)
    assert result["auc"] is None
    assert result["intervals"]["auc"] is None
    assert result["thresholds"]["fixed"]["first_error_f1"] is None


def test_constant_scores_are_worth_a_coin() -> None:
    result = evaluate(build([("x", [(1, 0.3), (-1, 0.3)]), ("y", [(1, 0.3)])]), None, seed=0, resamples=5)
    assert result["auc"] == 0.5
    assert result["thresholds"]["oracle"]["threshold"] == 0.3


def test_all_neutral_is_an_error() -> None:
    with pytest.raises(ValueError, match="no step labelled 1 or -1"):
        evaluate(build([("x", [(0, 0.3), (0, 0.4)])]), None, seed=0)


def test_position_baseline_finds_a_benchmark_that_fails_late() -> None:
    items: Items = [("x", [(1, 0.5), (1, 0.5), (-1, 0.5)])] * 20
    baseline = evaluate(build(items), build(items[:5]), seed=0, resamples=5)["baselines"]["position_only"]
    assert baseline["auc"] == 1
    assert baseline["pooled_macro_f1"] == 1


def test_measuring_needs_no_torch() -> None:
    code = "import mprm.metrics.measure, sys; print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "False\n"
