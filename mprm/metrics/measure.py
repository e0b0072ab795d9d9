"""From predictions to the dictionary of results."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mprm.metrics import baselines, metrics
from mprm.metrics.intervals import LEVEL, auc_interval, resample_weights, threshold_intervals
from mprm.metrics.metrics import Floats, Ints, LabelledSteps, labelled_steps
from mprm.metrics.predictions import Prediction, read_predictions
from mprm.metrics.thresholds import calibrated_threshold, searched_threshold
from mprm.runs.artifacts import write_json

FIXED_THRESHOLD = 0.5
RESAMPLES = 1000

FIXED = "fixed in advance"
HELD_OUT = "calibrated on the held-out split"
BENCHMARK = "searched on these labels themselves (optimistic)"


def measure(predictions: Sequence[Prediction], threshold: float | str) -> dict[str, Any]:
    """The metrics at one threshold.

    Args:
        predictions: scored solutions.
        threshold: a number, or "searched": the best one for these very labels, and so optimistic.

    Returns:
        threshold, threshold_from; auc; overall_step_weighted_macro_f1 (called overall micro-F1 in arXiv 2602.04145),
        pooled_macro_f1, pooled_f1_positive, pooled_f1_negative, classical_micro_f1 (the step accuracy);
        first_error_accuracy, first_error_f1; confusion of all labelled steps, whose number is total_steps; per_source:
        f1_positive, f1_negative, macro_f1, counts, n. What is undefined is None: auc when all labels are alike,
        first_error_f1 when all solutions have a wrong step, or none has.

    Raises:
        ValueError: no step is labelled 1 or -1, or the threshold is neither a finite number nor "searched".
    """
    steps = labelled_steps(predictions)
    if threshold == "searched":
        return _at_threshold(steps, searched_threshold(steps), BENCHMARK)
    return _at_threshold(steps, _number(threshold), FIXED)


def evaluate(
    predictions: Sequence[Prediction], held_out: Sequence[Prediction] | None, seed: int, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """All that is reported of a benchmark. The order of the predictions does not matter.

    Args:
        predictions: of the benchmark.
        held_out: of training-side solutions whose questions were not trained on, for the calibrated threshold and the
            position prior. Without both kinds of labels in it (or None) thresholds.calibrated is None.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        n_solutions, n_steps (labelled), n_neutral_steps; auc, ece, ece_bins, brier; first_error_accuracy (at
        0.5); bootstrap and intervals ([low, high], 95 %, of auc and first_error_accuracy); thresholds: fixed (0.5),
        calibrated (on held_out) and oracle (searched on the benchmark itself: optimistic), each as from measure(), with
        intervals; baselines: majority and position_only, likewise, with fitted_on. What is undefined is None.

    Raises:
        ValueError: no step of the benchmark is labelled 1 or -1.
    """
    predictions = sorted(predictions, key=lambda prediction: prediction.id)
    steps = labelled_steps(predictions)
    weights = resample_weights(len(steps.source_S), resamples, seed)
    auc = auc_interval(steps, weights)

    def at(threshold: float, origin: str) -> dict[str, Any]:
        return _at_threshold(steps, threshold, origin) | _intervals(steps, threshold, weights, auc)

    calibration = _both_classes(held_out)
    fixed = at(FIXED_THRESHOLD, FIXED)
    return {
        "n_solutions": len(predictions),
        "n_steps": len(steps.scores_N),
        "n_neutral_steps": sum(prediction.labels.count(0) for prediction in predictions),
        "auc": fixed["auc"],
        **_probability_metrics(steps),
        "first_error_accuracy": fixed["first_error_accuracy"],
        "bootstrap": _bootstrap(resamples, seed),
        "intervals": {"auc": auc, "first_error_accuracy": fixed["intervals"]["first_error_accuracy"]},
        "thresholds": {
            "fixed": fixed,
            "calibrated": at(calibrated_threshold(labelled_steps(calibration)), HELD_OUT) if calibration else None,
            "oracle": at(searched_threshold(steps), BENCHMARK),
        },
        "baselines": _baselines(predictions, calibration, weights),
    }


def measure_file(predictions_path: str | Path, threshold: str, output_path: str | Path) -> dict[str, Any]:
    """Measure a predictions file (see read_predictions), write the result as JSON, atomically, and return it.

    It is measure() with n_solutions, n_neutral_steps, ece, ece_bins, brier and, as from evaluate() with seed 0
    and no held-out split, bootstrap, intervals and baselines.

    Raises:
        ValueError: as measure and read_predictions.
    """
    predictions = sorted(read_predictions(predictions_path), key=lambda prediction: prediction.id)
    steps = labelled_steps(predictions)
    weights = resample_weights(len(steps.source_S), RESAMPLES, seed=0)
    result = measure(predictions, threshold)
    result |= {
        "n_solutions": len(predictions),
        "n_neutral_steps": sum(prediction.labels.count(0) for prediction in predictions),
        **_probability_metrics(steps),
        "bootstrap": _bootstrap(RESAMPLES, seed=0),
        **_intervals(steps, result["threshold"], weights, auc_interval(steps, weights)),
        "baselines": _baselines(predictions, None, weights),
    }
    write_json(output_path, result)
    return result


def _at_threshold(steps: LabelledSteps, threshold: float, origin: str) -> dict[str, Any]:
    counts_G4 = metrics.per_source(steps, metrics.confusion_per_solution(steps, threshold))
    pooled = counts_G4.sum(axis=0)
    found_S, erroneous_S = metrics.first_errors(steps, threshold)
    return {
        "threshold": threshold,
        "threshold_from": origin,
        "auc": _defined(metrics.auc(steps)),
        "overall_step_weighted_macro_f1": float(metrics.step_weighted_macro_f1(counts_G4)),
        "pooled_macro_f1": float(metrics.pooled_macro_f1(counts_G4)),
        "pooled_f1_positive": float(metrics.f1_right(pooled)),
        "pooled_f1_negative": float(metrics.f1_wrong(pooled)),
        "classical_micro_f1": float(metrics.micro_f1(counts_G4)),
        "first_error_accuracy": float(found_S.mean()),
        "first_error_f1": _defined(metrics.first_error_f1(found_S, erroneous_S)),
        "confusion": dict(zip(("tp", "fp", "fn", "tn"), pooled.tolist(), strict=True)),
        "total_steps": int(pooled.sum()),
        "per_source": {source: _source(counts) for source, counts in zip(steps.sources, counts_G4, strict=True)},
    }


def _source(counts_4: Ints) -> dict[str, Any]:
    tp, fp, fn, tn = counts_4.tolist()
    return {
        "f1_positive": float(metrics.f1_right(counts_4)),
        "f1_negative": float(metrics.f1_wrong(counts_4)),
        "macro_f1": float(metrics.macro_f1(counts_4)),
        # the same four numbers seen from either class
        "counts": {"tp_pos": tp, "fp_pos": fp, "fn_pos": fn, "tp_neg": tn, "fp_neg": fn, "fn_neg": fp},
        "n": tp + fp + fn + tn,
    }


def _probability_metrics(steps: LabelledSteps) -> dict[str, Any]:
    return {
        "ece": _defined(metrics.expected_calibration_error(steps)),
        "ece_bins": metrics.ECE_BINS,
        "brier": _defined(metrics.brier_score(steps)),
    }


def _bootstrap(resamples: int, seed: int) -> dict[str, Any]:
    return {"unit": "solution", "resamples": resamples, "seed": seed, "level": LEVEL}


def _intervals(
    steps: LabelledSteps, threshold: float, weights_BS: Floats, auc: list[float] | None
) -> dict[str, dict[str, Any]]:
    return {"intervals": {"auc": auc} | threshold_intervals(steps, threshold, weights_BS)}


def _baselines(
    predictions: Sequence[Prediction], held_out: Sequence[Prediction] | None, weights_BS: Floats
) -> dict[str, Any]:
    """Both baselines, measured like a model.

    position_only has its prior and its threshold from held_out, or else from the benchmark's own labels: see fitted_on.
    """
    fitted_on = predictions if held_out is None else held_out
    prior = baselines.accuracy_by_position(fitted_on)
    fitted = labelled_steps(baselines.position_only(fitted_on, prior))
    position_threshold = searched_threshold(fitted) if held_out is None else calibrated_threshold(fitted)
    place = BENCHMARK if held_out is None else HELD_OUT
    result = {}
    for name, scored, threshold, origin in (
        ("majority", baselines.majority(predictions), FIXED_THRESHOLD, FIXED),
        ("position_only", baselines.position_only(predictions, prior), position_threshold, place),
    ):
        steps = labelled_steps(scored)
        result[name] = _at_threshold(steps, threshold, origin)
        result[name] |= _intervals(steps, threshold, weights_BS, auc_interval(steps, weights_BS))
    result["majority"]["fitted_on"] = "benchmark"
    result["position_only"]["fitted_on"] = "benchmark" if held_out is None else "held_out"
    return result


def _both_classes(held_out: Sequence[Prediction] | None) -> Sequence[Prediction] | None:
    """held_out if it has right and wrong steps to tell apart, else None."""
    return held_out if {1, -1} <= {label for prediction in held_out or () for label in prediction.labels} else None


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


def _number(threshold: float | str) -> float:
    try:
        number = float(threshold)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"threshold={threshold} is neither a finite number nor 'searched'; give e.g. threshold=0.5")
    return number
