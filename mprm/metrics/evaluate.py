"""A step scorer on a benchmark: all its measures at several thresholds, beside baselines that never read a step.

Shape suffixes: those of step_metrics.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mprm.metrics import step_metrics as metrics
from mprm.metrics.estimate import HELD_OUT, RESAMPLES, Estimate, Floats, Ints, Resampled, over_items, resample_weights
from mprm.metrics.first_errors import f1_of, first_error_results, first_error_shares, mean_f1
from mprm.metrics.predictions import Prediction
from mprm.metrics.results import SourceResults, StepResults, ThresholdResults
from mprm.metrics.step_metrics import LabelledSteps, fitted, labelled_steps, searched

FIXED_THRESHOLD = 0.5
POSITION_BINS = 10

# Where a threshold comes from.
FIXED = "fixed in advance"
FITTED = "P(right) = 0.5 in Platt's fit to the held-out split, right and wrong steps weighted equally"
FITTED_TO_RATE = "highest expected macro-F1 at an error rate of {:g} in Platt's fit to the held-out split"
BENCHMARK = "searched on these labels themselves (optimistic)"


@dataclass(frozen=True)
class At:
    """A threshold."""

    values_B: Floats  # the threshold itself, then as it is fitted to every resample of the held-out solutions
    origin: str  # where it comes from, in words


def evaluate(
    predictions: Sequence[Prediction],
    held_out: Sequence[Prediction] | None,
    error_rate: float | None = None,
    resamples: int = RESAMPLES,
) -> StepResults:
    """All that is reported of a benchmark. The order of the predictions does not matter.

    held_out: training-side solutions whose questions were not trained on, for the fitted threshold and the position
    prior. Without both kinds of labels in it (or None) there is no fitted threshold.
    error_rate: share of wrong steps that the benchmark declares, for the fitted threshold.
    Raises ValueError if no step of the benchmark is labelled 1 or -1.
    """
    held_out = _both_kinds(held_out)
    thresholds = _thresholds(labelled_steps(predictions), held_out, error_rate, resamples)
    return _results(predictions, held_out, thresholds, error_rate, resamples)


def measure(predictions: Sequence[Prediction], threshold: float | str, resamples: int = RESAMPLES) -> StepResults:
    """All that is reported of anybody's predictions at one threshold, as by evaluate.

    threshold: a number, the result's "fixed" one, or "searched": the best one for these very labels, and so optimistic.
    Raises ValueError as evaluate, and for another threshold.
    """
    if threshold == "searched":
        at = {"optimistic": _always(searched(labelled_steps(predictions)), BENCHMARK, resamples)}
        return _results(predictions, None, at, None, resamples)
    try:
        number = float(threshold)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"threshold={threshold} is neither a finite number nor 'searched'; give e.g. threshold=0.5")
    return _results(predictions, None, {"fixed": _always(number, FIXED, resamples)}, None, resamples)


def step_measures(
    predictions: Sequence[Prediction],
    held_out: Sequence[Prediction] | None,
    error_rate: float | None,
    resamples: int = RESAMPLES,
) -> dict[str, Resampled]:
    """What runs on one benchmark are compared by, with the numbers and the resamples of evaluate; what is undefined is
    left out.

    auc, average_precision; f1, f1_fixed and f1_optimistic: overall macro-F1 at the fitted, the fixed and the optimistic
    threshold; first_error_accuracy and "source/NAME", the macro-F1 of a source: both at the fitted threshold;
    first_error_f1 (fitted) and first_error_f1_fixed, where solutions are judged up to their first wrong step.
    """
    steps = labelled_steps(predictions)
    weights_BS = resample_weights(len(steps.source_S), resamples=resamples)
    values = dict(zip(("auc", "average_precision"), metrics.rankings(steps, weights_BS), strict=True))
    for name, at in _thresholds(steps, _both_kinds(held_out), error_rate, resamples).items():
        counts_BG4 = metrics.confusion(steps, at.values_B, weights_BS)
        suffix = "" if name == "fitted" else f"_{name}"
        values[f"f1{suffix}"] = metrics.step_weighted_macro_f1(counts_BG4)
        if steps.to_first_error and name != "optimistic":
            shares_BG2 = first_error_shares(steps, at.values_B, weights_BS)
            values[f"first_error_f1{suffix}"] = mean_f1(f1_of(shares_BG2))
        if name == "fitted":
            values["first_error_accuracy"] = _first_errors(steps, at, weights_BS)
            of_sources = zip(steps.sources, _by_source(counts_BG4).T, strict=True)
            values |= {f"source/{source}": f1_B for source, f1_B in of_sources}
    items = tuple(sorted((prediction.id, prediction.labels) for prediction in predictions))
    return {name: Resampled(items, values_B) for name, values_B in values.items() if not math.isnan(values_B[0])}


def _both_kinds(held_out: Sequence[Prediction] | None) -> Sequence[Prediction] | None:
    """None unless some steps are right and some wrong."""
    return held_out if {1, -1} <= {label for prediction in held_out or () for label in prediction.labels} else None


def _thresholds(
    steps: LabelledSteps, held_out: Sequence[Prediction] | None, error_rate: float | None, resamples: int
) -> dict[str, At]:
    fixed = {"fixed": _always(FIXED_THRESHOLD, FIXED, resamples)}
    first = {} if held_out is None else {"fitted": _fitted(labelled_steps(held_out), error_rate, resamples)}
    return first | fixed | {"optimistic": _always(searched(steps), BENCHMARK, resamples)}


def _always(threshold: float, origin: str, resamples: int) -> At:
    return At(np.full(1 + resamples, threshold), origin)


def _fitted(held_out: LabelledSteps, error_rate: float | None, resamples: int) -> At:
    weights_BS = resample_weights(len(held_out.source_S), HELD_OUT, resamples)
    origin = FITTED if error_rate is None else FITTED_TO_RATE.format(error_rate)
    return At(fitted(held_out, weights_BS, error_rate), origin)


def _results(
    predictions: Sequence[Prediction],
    held_out: Sequence[Prediction] | None,
    thresholds: dict[str, At],
    error_rate: float | None,
    resamples: int,
) -> StepResults:
    steps = labelled_steps(predictions)
    weights_BS = resample_weights(len(steps.source_S), resamples=resamples)
    auc, average_precision = (_defined(values_B, weights_BS) for values_B in metrics.rankings(steps, weights_BS))
    return StepResults(
        n_solutions=len(predictions),
        n_steps=len(steps.scores_N),
        n_neutral_steps=sum(prediction.labels.count(0) for prediction in predictions),
        auc=auc,
        average_precision=average_precision,
        ece=_number(metrics.expected_calibration_error(steps)),
        ece_bins=metrics.ECE_BINS,
        brier=_number(metrics.brier_score(steps)),
        resamples=resamples,
        error_rate=error_rate,
        thresholds={name: _at_threshold(steps, at, auc, weights_BS) for name, at in thresholds.items()},
        baselines=_baselines(predictions, held_out, error_rate, weights_BS),
    )


def _at_threshold(steps: LabelledSteps, at: At, auc: Estimate | None, weights_BS: Floats) -> ThresholdResults:
    """Sources stay the same in all resamples; one without a labelled step of a source leaves it out."""
    counts_BG4 = metrics.confusion(steps, at.values_B, weights_BS)
    counts_G4 = counts_BG4[0].astype(np.int64)
    macro_BG = _by_source(counts_BG4)
    pooled_4 = counts_G4.sum(axis=0)
    tp, fp, fn, tn = pooled_4.tolist()
    total = tp + fp + fn + tn
    low_S, high_S = metrics.first_errors(steps)
    threshold, n, n_G = float(at.values_B[0]), len(steps.source_S), np.bincount(steps.source_S).tolist()
    return ThresholdResults(
        threshold=threshold,
        threshold_from=at.origin,
        auc=auc,
        overall_step_weighted_macro_f1=over_items(metrics.step_weighted_macro_f1(counts_BG4), n),
        pooled_macro_f1=over_items(metrics.pooled_macro_f1(counts_BG4), n),
        pooled_f1_positive=float(metrics.f1_right(pooled_4)),
        pooled_f1_negative=float(metrics.f1_wrong(pooled_4)),
        classical_micro_f1=(tp + tn) / total,
        first_error_accuracy=over_items(_first_errors(steps, at, weights_BS), n),
        first_error_f1=_number(metrics.first_error_f1((low_S < threshold) & (threshold <= high_S), low_S > -np.inf)),
        first_errors=first_error_results(steps, at.values_B, weights_BS) if steps.to_first_error else None,
        confusion={"tp": tp, "fp": fp, "fn": fn, "tn": tn},
        total_steps=total,
        per_source={name: _source(counts_G4[g], macro_BG[:, g], n_G[g]) for g, name in enumerate(steps.sources)},
    )


def _by_source(counts_BG4: Floats) -> Floats:
    """Macro-F1 (B, G), NaN in a resample without a labelled step of the source."""
    return np.where(counts_BG4.sum(axis=-1) > 0, metrics.macro_f1(counts_BG4), np.nan)


def _first_errors(steps: LabelledSteps, at: At, weights_BS: Floats) -> Floats:
    """First-error accuracy (B,)."""
    low_S, high_S = metrics.first_errors(steps)
    found_BS = (low_S < at.values_B[:, None]) & (at.values_B[:, None] <= high_S)
    return (found_BS * weights_BS).sum(axis=1) / len(low_S)


def _source(counts_4: Ints, macro_B: Floats, n_solutions: int) -> SourceResults:
    tp, fp, fn, tn = counts_4.tolist()
    return SourceResults(
        macro_f1=over_items(macro_B, n_solutions),
        f1_positive=float(metrics.f1_right(counts_4)),
        f1_negative=float(metrics.f1_wrong(counts_4)),
        counts={"tp_pos": tp, "fp_pos": fp, "fn_pos": fn, "tp_neg": tn, "fp_neg": fn, "fn_neg": fp},
        n=tp + fp + fn + tn,
    )


def _baselines(
    predictions: Sequence[Prediction],
    held_out: Sequence[Prediction] | None,
    error_rate: float | None,
    weights_BS: Floats,
) -> dict[str, ThresholdResults]:
    """Scores that never look at a step, to be beaten by those that do, measured like a model. position_only has its
    prior and its threshold from held_out, or else from the benchmark's own labels."""
    resamples = len(weights_BS) - 1
    prior = accuracy_by_position(predictions if held_out is None else held_out)
    by_position = position_only(predictions, prior)
    if held_out is None:
        at = _always(searched(labelled_steps(by_position)), BENCHMARK, resamples)
    else:
        at = _fitted(labelled_steps(position_only(held_out, prior)), error_rate, resamples)
    found = {
        "majority": (labelled_steps(majority(predictions)), _always(FIXED_THRESHOLD, FIXED, resamples)),
        "position_only": (labelled_steps(by_position), at),
    }
    return {
        name: _at_threshold(steps, at, _defined(metrics.rankings(steps, weights_BS)[0], weights_BS), weights_BS)
        for name, (steps, at) in found.items()
    }


def majority(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Score every step 1 when at least half of the labelled steps are right, else 0."""
    score = float(sum(label for prediction in predictions for label in prediction.labels) >= 0)
    return [replace(prediction, scores=(score,) * len(prediction.labels)) for prediction in predictions]


def accuracy_by_position(predictions: Sequence[Prediction]) -> Floats:
    """Fraction of right steps among the labelled ones in each tenth of the solution, (10,); in a tenth without a
    labelled step that of all steps."""
    labels = np.array([label for prediction in predictions for label in prediction.labels])
    bins = np.concatenate([_position_bins(len(prediction.labels)) for prediction in predictions])[labels != 0]
    right = (labels == 1)[labels != 0]
    total = np.bincount(bins, minlength=POSITION_BINS)
    n_right = np.bincount(bins, weights=right, minlength=POSITION_BINS)
    return np.divide(n_right, total, out=np.full(POSITION_BINS, right.mean()), where=total > 0)


def position_only(predictions: Sequence[Prediction], prior: Floats) -> list[Prediction]:
    """Score every step by accuracy_by_position of its place in the solution."""
    return [
        replace(prediction, scores=tuple(prior[_position_bins(len(prediction.labels))].tolist()))
        for prediction in predictions
    ]


def _position_bins(n_steps: int) -> Ints:
    """The tenth that each of n steps lies in: the first step in tenth 0, the last of several in tenth 9."""
    return np.arange(n_steps) * (POSITION_BINS - 1) // max(1, n_steps - 1)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _defined(values_B: Floats, weights_BS: Floats) -> Estimate | None:
    return None if math.isnan(values_B[0]) else over_items(values_B, weights_BS.shape[1])
