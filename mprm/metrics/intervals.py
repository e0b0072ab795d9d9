"""Bootstrap intervals: solutions are drawn with replacement, because the steps of one solution depend on each other."""

from typing import Any

import numpy as np

from mprm.metrics.metrics import (
    Floats,
    LabelledSteps,
    auc_of_resamples,
    confusion_per_solution,
    first_errors,
    macro_f1,
    pooled_macro_f1,
    step_weighted_macro_f1,
)

LEVEL = 0.95


def resample_weights(n_solutions: int, resamples: int, seed: int) -> Floats:
    """How often each solution was drawn in each resample, (B, S); every row sums to S.

    The same number of solutions and the same seed give the same draws: two runs on one benchmark are resampled alike.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(n_solutions, size=(resamples, n_solutions))
    return np.stack([np.bincount(row, minlength=n_solutions) for row in drawn]).astype(np.float64)


def auc_interval(steps: LabelledSteps, weights_BS: Floats) -> list[float] | None:
    """95 % percentile interval of the AUC; resamples with one class of labels are left out."""
    return _percentiles(auc_of_resamples(steps, weights_BS))


def threshold_intervals(steps: LabelledSteps, threshold: float, weights_BS: Floats) -> dict[str, Any]:
    """95 % percentile intervals [low, high] of the metrics at a threshold that is kept fixed, as are the sources.

    A resample without a labelled step of a source is left out of that source's interval.
    """
    counts_S4 = confusion_per_solution(steps, threshold)
    counts_BG4 = np.stack(
        [weights_BS[:, steps.source_S == g] @ counts_S4[steps.source_S == g] for g in range(len(steps.sources))], axis=1
    )
    macro_BG = np.where(counts_BG4.sum(axis=-1) > 0, macro_f1(counts_BG4), np.nan)
    found_S, _ = first_errors(steps, threshold)
    return {
        "overall_step_weighted_macro_f1": _percentiles(step_weighted_macro_f1(counts_BG4)),
        "pooled_macro_f1": _percentiles(pooled_macro_f1(counts_BG4)),
        "first_error_accuracy": _percentiles(weights_BS @ found_S / len(found_S)),
        "per_source": {source: _percentiles(macro_BG[:, g]) for g, source in enumerate(steps.sources)},
    }


def _percentiles(values_B: Floats) -> list[float] | None:
    defined = values_B[~np.isnan(values_B)]
    if len(defined) == 0:
        return None
    tail = (1 - LEVEL) / 2
    return [float(value) for value in np.quantile(defined, [tail, 1 - tail])]
