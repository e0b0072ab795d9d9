import numpy as np
import pytest

from mprm.metrics import metrics
from mprm.metrics.intervals import auc_interval, resample_weights, threshold_intervals
from mprm.metrics.metrics import labelled_steps
from mprm.metrics.predictions import Prediction


def invented(n_solutions: int, seed: int = 0) -> list[Prediction]:
    rng = np.random.default_rng(seed)
    predictions = []
    for number in range(n_solutions):
        labels = rng.choice([1, -1, 0], size=rng.integers(2, 8), p=[0.6, 0.3, 0.1])
        labels[0] = 1
        scores = np.clip(0.5 + 0.2 * labels + rng.normal(0, 0.25, len(labels)), 0, 1)
        predictions.append(Prediction(str(number), "xyz"[number % 3], tuple(labels.tolist()), tuple(scores.tolist())))
    return predictions


def test_weights_are_counts_of_seeded_draws() -> None:
    weights = resample_weights(40, 25, seed=3)
    assert weights.shape == (25, 40)
    assert (weights.sum(axis=1) == 40).all()
    assert (weights == resample_weights(40, 25, seed=3)).all()
    assert (weights != resample_weights(40, 25, seed=4)).any()


def test_weights_stand_for_solutions_written_out_again() -> None:
    predictions = invented(30)
    steps = labelled_steps(predictions)
    weights = resample_weights(30, 20, seed=0)
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
    intervals = threshold_intervals(steps, 0.5, weights) | {"auc": auc_interval(steps, weights)}
    intervals["x"] = intervals.pop("per_source")["x"]
    for name, values in found.items():
        assert intervals[name] == pytest.approx(np.percentile(values, [2.5, 97.5]).tolist(), abs=1e-12)


def test_intervals_hold_the_value_and_shrink_with_more_solutions() -> None:
    widths = []
    for n_solutions in (40, 640):
        steps = labelled_steps(invented(n_solutions))
        weights = resample_weights(n_solutions, 300, seed=0)
        low, high = threshold_intervals(steps, 0.5, weights)["pooled_macro_f1"]
        counts = metrics.per_source(steps, metrics.confusion_per_solution(steps, 0.5))
        assert low < metrics.pooled_macro_f1(counts) < high
        widths.append(high - low)
    assert 2 < widths[0] / widths[1] < 8  # sixteen times as many solutions: about a quarter of the width


def test_a_rare_source_is_judged_by_the_resamples_that_hold_it() -> None:
    predictions = [*invented(20), Prediction("rare", "rare", (1, -1), (0.9, 0.1))]
    steps = labelled_steps(predictions)
    weights = resample_weights(21, 200, seed=0)
    assert (weights[:, -1] == 0).any()
    assert threshold_intervals(steps, 0.5, weights)["per_source"]["rare"] == [1.0, 1.0]


def test_one_class_has_no_auc_interval() -> None:
    steps = labelled_steps([Prediction("a", "s", (1, 1), (0.9, 0.1)), Prediction("b", "s", (1,), (0.2,))])
    assert auc_interval(steps, resample_weights(2, 50, seed=0)) is None
