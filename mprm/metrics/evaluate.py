"""A step scorer on a benchmark: all its measures at several thresholds, beside baselines that never read a step.

Shape suffixes: those of step_metrics.py.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mprm.metrics import step_metrics as metrics
from mprm.metrics.estimate import PAIRED, RESAMPLES, Estimate, Floats, Ints, Resampled, percentile, resample_weights
from mprm.metrics.predictions import Prediction
from mprm.metrics.results import SourceResults, StepResults, ThresholdResults
from mprm.metrics.step_metrics import LabelledSteps, best_threshold, labelled_steps

FIXED_THRESHOLD = 0.5
POSITION_BINS = 10

# Where a threshold comes from.
FIXED = "fixed in advance"
HELD_OUT = "calibrated on the held-out split"
BENCHMARK = "searched on these labels themselves (optimistic)"

At = tuple[float, str]  # a threshold, and where it comes from


def evaluate(
    predictions: Sequence[Prediction], held_out: Sequence[Prediction] | None, seed: int, resamples: int = RESAMPLES
) -> StepResults:
    """All that is reported of a benchmark. The order of the predictions does not matter.

    held_out: training-side solutions whose questions were not trained on, for the calibrated threshold and the position
    prior. Without both kinds of labels in it (or None) there is no calibrated threshold.
    seed: of the bootstrap. Raises ValueError if no step of the benchmark is labelled 1 or -1.
    """
    if not {1, -1} <= {label for prediction in held_out or () for label in prediction.labels}:
        held_out = None
    thresholds = {"fixed": (FIXED_THRESHOLD, FIXED)}
    if held_out is not None:
        thresholds["calibrated"] = _calibrated(labelled_steps(held_out))
    thresholds["oracle"] = _searched(labelled_steps(predictions))
    return _results(predictions, held_out, thresholds, seed, resamples)


def measure(predictions: Sequence[Prediction], threshold: float | str, resamples: int = RESAMPLES) -> StepResults:
    """All that is reported of anybody's predictions at one threshold, as by evaluate with seed 0.

    threshold: a number, the result's "fixed" one, or "searched": the best one for these very labels, and so optimistic,
    the result's "oracle" one. Raises ValueError as evaluate, and for another threshold.
    """
    if threshold == "searched":
        return _results(predictions, None, {"oracle": _searched(labelled_steps(predictions))}, 0, resamples)
    try:
        number = float(threshold)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"threshold={threshold} is neither a finite number nor 'searched'; give e.g. threshold=0.5")
    return _results(predictions, None, {"fixed": (number, FIXED)}, 0, resamples)


def resampled_auc(predictions: Sequence[Prediction], resamples: int = RESAMPLES) -> Resampled:
    """The AUC of one run. The order of the predictions does not matter. Raises ValueError if no step is labelled."""
    steps = labelled_steps(predictions)
    weights_BS = resample_weights(len(steps.source_S), PAIRED, resamples)
    return Resampled(_items(predictions), metrics.auc(steps), metrics.auc_of_resamples(steps, weights_BS))


def resampled_f1(predictions: Sequence[Prediction], threshold: float, resamples: int = RESAMPLES) -> Resampled:
    """The overall step-weighted macro-F1 of one run at a threshold, as resampled_auc."""
    steps = labelled_steps(predictions)
    weights_BS = resample_weights(len(steps.source_S), PAIRED, resamples)
    counts_S4 = metrics.confusion_per_solution(steps, threshold)
    value = metrics.step_weighted_macro_f1(metrics.per_source(steps, counts_S4))
    counts_BG4 = metrics.per_source_resampled(steps, counts_S4, weights_BS)
    return Resampled(_items(predictions), float(value), metrics.step_weighted_macro_f1(counts_BG4))


def _items(predictions: Sequence[Prediction]) -> tuple[tuple[str, object], ...]:
    return tuple(sorted((prediction.id, prediction.labels) for prediction in predictions))


def _searched(benchmark: LabelledSteps) -> At:
    return best_threshold(benchmark, metrics.step_weighted_macro_f1), BENCHMARK


def _calibrated(held_out: LabelledSteps) -> At:
    """By pooled F1: the sources of the training data are not the benchmark's, and one may hold no wrong step."""
    return best_threshold(held_out, metrics.pooled_macro_f1), HELD_OUT


def _results(
    predictions: Sequence[Prediction],
    held_out: Sequence[Prediction] | None,
    thresholds: dict[str, At],
    seed: int,
    resamples: int,
) -> StepResults:
    steps = labelled_steps(predictions)
    weights_BS = resample_weights(len(steps.source_S), seed, resamples)
    auc = _auc(steps, weights_BS)
    return StepResults(
        n_solutions=len(predictions),
        n_steps=len(steps.scores_N),
        n_neutral_steps=sum(prediction.labels.count(0) for prediction in predictions),
        auc=auc,
        ece=_defined(metrics.expected_calibration_error(steps)),
        ece_bins=metrics.ECE_BINS,
        brier=_defined(metrics.brier_score(steps)),
        resamples=resamples,
        seed=seed,
        thresholds={name: _at_threshold(steps, at, auc, weights_BS) for name, at in thresholds.items()},
        baselines=_baselines(predictions, held_out, weights_BS),
    )


def _auc(steps: LabelledSteps, weights_BS: Floats) -> Estimate | None:
    value = metrics.auc(steps)
    return None if math.isnan(value) else percentile(value, metrics.auc_of_resamples(steps, weights_BS))


def _at_threshold(steps: LabelledSteps, at: At, auc: Estimate | None, weights_BS: Floats) -> ThresholdResults:
    """Threshold and sources stay fixed in all resamples; one without a labelled step of a source leaves it out."""
    threshold, origin = at
    counts_S4 = metrics.confusion_per_solution(steps, threshold)
    counts_G4 = metrics.per_source(steps, counts_S4)
    counts_BG4 = metrics.per_source_resampled(steps, counts_S4, weights_BS)
    macro_BG = np.where(counts_BG4.sum(axis=-1) > 0, metrics.macro_f1(counts_BG4), np.nan)
    pooled_4 = counts_G4.sum(axis=0)
    tp, fp, fn, tn = pooled_4.tolist()
    total = tp + fp + fn + tn
    found_S, erroneous_S = metrics.first_errors(steps, threshold)
    overall, pooled = (
        percentile(float(f1(counts_G4)), f1(counts_BG4))
        for f1 in (metrics.step_weighted_macro_f1, metrics.pooled_macro_f1)
    )
    return ThresholdResults(
        threshold=threshold,
        threshold_from=origin,
        auc=auc,
        overall_step_weighted_macro_f1=overall,
        pooled_macro_f1=pooled,
        pooled_f1_positive=float(metrics.f1_right(pooled_4)),
        pooled_f1_negative=float(metrics.f1_wrong(pooled_4)),
        classical_micro_f1=(tp + tn) / total,
        first_error_accuracy=percentile(float(found_S.mean()), weights_BS @ found_S / len(found_S)),
        first_error_f1=_defined(metrics.first_error_f1(found_S, erroneous_S)),
        confusion={"tp": tp, "fp": fp, "fn": fn, "tn": tn},
        total_steps=total,
        per_source={name: _source(counts_G4[g], macro_BG[:, g]) for g, name in enumerate(steps.sources)},
    )


def _source(counts_4: Ints, macro_B: Floats) -> SourceResults:
    tp, fp, fn, tn = counts_4.tolist()
    return SourceResults(
        macro_f1=percentile(float(metrics.macro_f1(counts_4)), macro_B),
        f1_positive=float(metrics.f1_right(counts_4)),
        f1_negative=float(metrics.f1_wrong(counts_4)),
        counts={"tp_pos": tp, "fp_pos": fp, "fn_pos": fn, "tp_neg": tn, "fp_neg": fn, "fn_neg": fp},
        n=tp + fp + fn + tn,
    )


def _baselines(
    predictions: Sequence[Prediction], held_out: Sequence[Prediction] | None, weights_BS: Floats
) -> dict[str, ThresholdResults]:
    """Scores that never look at a step, to be beaten by those that do, measured like a model. position_only has its
    prior and its threshold from held_out, or else from the benchmark's own labels."""
    fitted_on = predictions if held_out is None else held_out
    prior = accuracy_by_position(fitted_on)
    fitted = labelled_steps(position_only(fitted_on, prior))
    at, origin = (_searched(fitted), "benchmark") if held_out is None else (_calibrated(fitted), "held_out")
    found = {
        "majority": (majority(predictions), (FIXED_THRESHOLD, FIXED), "benchmark"),
        "position_only": (position_only(predictions, prior), at, origin),
    }
    results = {}
    for name, (scored, at, fitted_to) in found.items():
        steps = labelled_steps(scored)
        results[name] = replace(_at_threshold(steps, at, _auc(steps, weights_BS), weights_BS), fitted_on=fitted_to)
    return results


def majority(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Score every step 1 when at least half of the labelled steps are right, else 0."""
    score = float(sum(label for prediction in predictions for label in prediction.labels) >= 0)
    return [replace(prediction, scores=(score,) * len(prediction.labels)) for prediction in predictions]


def accuracy_by_position(predictions: Sequence[Prediction]) -> Floats:
    """Fraction of right steps among the labelled ones in each tenth of the solution, (10,), to 4 decimals; in a tenth
    without a labelled step that of all steps."""
    labels = np.array([label for prediction in predictions for label in prediction.labels])
    bins = np.concatenate([_position_bins(len(prediction.labels)) for prediction in predictions])[labels != 0]
    right = (labels == 1)[labels != 0]
    total = np.bincount(bins, minlength=POSITION_BINS)
    n_right = np.bincount(bins, weights=right, minlength=POSITION_BINS)
    fractions = np.divide(n_right, total, out=np.full(POSITION_BINS, right.mean()), where=total > 0)
    # Threshold candidates are rounded; a prior with more decimals could lie below its own candidate.
    return np.round(fractions, metrics.DECIMALS)


def position_only(predictions: Sequence[Prediction], prior: Floats) -> list[Prediction]:
    """Score every step by accuracy_by_position of its place in the solution."""
    return [
        replace(prediction, scores=tuple(prior[_position_bins(len(prediction.labels))].tolist()))
        for prediction in predictions
    ]


def _position_bins(n_steps: int) -> Ints:
    """The tenth that each of n steps lies in: the first step in tenth 0, the last of several in tenth 9."""
    return np.arange(n_steps) * (POSITION_BINS - 1) // max(1, n_steps - 1)


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value
