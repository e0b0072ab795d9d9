"""Metrics of step scores, in numpy.

Shape suffixes: N labelled steps, S solutions with at least one of them, G sources, B sets of weights of the solutions:
one that counts each once, then every resample. Confusion counts are the last axis, of size 4: right steps accepted
(tp), wrong steps accepted (fp), right steps rejected (fn), wrong steps rejected (tn). A step is accepted when its score
>= threshold. Neutral steps (label 0) are dropped first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mprm.metrics.estimate import Bools, Floats, Ints
from mprm.metrics.predictions import Prediction

Counts = NDArray[np.number]

ECE_BINS = 15


@dataclass(frozen=True)
class LabelledSteps:
    """The labelled steps of a set of solutions as flat arrays, in order within each solution."""

    sources: tuple[str, ...]  # G names, sorted
    source_S: Ints  # index into sources
    solution_N: Ints  # index of the solution, ascending
    right_N: Bools  # label 1 (not -1)
    scores_N: Floats


def labelled_steps(predictions: Sequence[Prediction]) -> LabelledSteps:
    """In the order of the solutions' ids, without neutral steps, and solutions and sources that have no other. Raises
    ValueError if no step is left."""
    kept = [one for one in sorted(predictions, key=lambda one: one.id) if any(one.labels)]
    if not kept:
        raise ValueError(f"no step labelled 1 or -1 in {len(predictions)} solutions; give labelled solutions")
    sources, source_S = np.unique([prediction.source for prediction in kept], return_inverse=True)
    labels = np.array([label for prediction in kept for label in prediction.labels], dtype=np.int64)
    scores = np.array([score for prediction in kept for score in prediction.scores], dtype=np.float64)
    solution = np.repeat(np.arange(len(kept)), [len(prediction.labels) for prediction in kept])
    counted = labels != 0
    return LabelledSteps(tuple(sources.tolist()), source_S, solution[counted], labels[counted] == 1, scores[counted])


# ---- confusion counts and F1


def confusion(steps: LabelledSteps, thresholds_B: Floats, weights_BS: Floats) -> Floats:
    """Confusion counts (B, G, 4) of the sources at the threshold that goes with each set of weights."""
    order = np.argsort(steps.scores_N, kind="stable")
    solution_N = steps.solution_N[order]
    cell_N = 2 * steps.source_S[solution_N] + ~steps.right_N[order]
    n_cells = 2 * len(steps.sources)
    rejected_B = np.searchsorted(steps.scores_N[order], thresholds_B, side="left")  # so many steps score lower
    counts = np.empty((len(weights_BS), n_cells, 2))
    for b, (weights, rejected) in enumerate(zip(weights_BS, rejected_B, strict=True)):
        weight_N = weights[solution_N]
        counts[b, :, 0] = np.bincount(cell_N[rejected:], weight_N[rejected:], minlength=n_cells)
        counts[b, :, 1] = np.bincount(cell_N[:rejected], weight_N[:rejected], minlength=n_cells)
    # (source, right or wrong, accepted or rejected) -> (source, accepted or rejected, right or wrong)
    return counts.reshape(-1, len(steps.sources), 2, 2).swapaxes(2, 3).reshape(-1, len(steps.sources), 4)


def f1_right(counts: Counts) -> Floats:
    """F1 of the class "right step" (label 1), over the last axis; 0 when no step is right and none is accepted."""
    tp, fp, fn = counts[..., 0], counts[..., 1], counts[..., 2]
    return _ratio(2.0 * tp, 2.0 * tp + fp + fn)


def f1_wrong(counts: Counts) -> Floats:
    """F1 of the class "wrong step" (label -1): f1_right with the classes exchanged."""
    return f1_right(counts[..., ::-1])


def macro_f1(counts: Counts) -> Floats:
    """Mean of the F1 of right steps and the F1 of wrong steps."""
    return (f1_right(counts) + f1_wrong(counts)) / 2


def step_weighted_macro_f1(counts: Counts) -> Floats:
    """Macro-F1 per source, averaged with the sources' numbers of labelled steps as weights; counts (..., G, 4). The BIS
    paper calls it overall micro-F1 (arXiv 2602.04145)."""
    steps_in_source = counts.sum(axis=-1)
    return _ratio((macro_f1(counts) * steps_in_source).sum(axis=-1), steps_in_source.sum(axis=-1))


def pooled_macro_f1(counts: Counts) -> Floats:
    """Macro-F1 of all steps thrown together. counts (..., G, 4)."""
    return macro_f1(counts.sum(axis=-2))


# ---- ranking and calibration


def rankings(steps: LabelledSteps, weights_BS: Floats) -> tuple[Floats, Floats]:
    """AUC and average precision, (B,) each; NaN where all labels are alike.

    AUC: area under the ROC curve, P(a right step scores above a wrong one), equal scores counting one half. Average
    precision: of the wrong steps, lowest score first; equal scores are found together.
    """
    order = np.argsort(steps.scores_N, kind="stable")
    last_of_equal = np.flatnonzero(np.append(np.diff(steps.scores_N[order]) > 0, True))
    solution_N, wrong_N = steps.solution_N[order], ~steps.right_N[order]
    auc_B, precision_B = np.full((2, len(weights_BS)), np.nan)
    for b, weights in enumerate(weights_BS):
        weight_N = weights[solution_N]
        found = np.cumsum(weight_N)[last_of_equal]
        wrong_found = np.cumsum(weight_N * wrong_N)[last_of_equal]
        right_found = found - wrong_found
        pairs = right_found[-1] * wrong_found[-1]
        if pairs > 0:
            wrong, right = np.diff(wrong_found, prepend=0.0), np.diff(right_found, prepend=0.0)
            # no @: a thousand small threaded dot products crawl when other processes hold the cores
            auc_B[b] = (wrong * (right_found[-1] - right_found + right / 2)).sum() / pairs
            precision_B[b] = (wrong * _ratio(wrong_found, found)).sum() / wrong_found[-1]
    return auc_B, precision_B


def expected_calibration_error(steps: LabelledSteps) -> float:
    """ECE over 15 equal-width bins of the score: |mean score - fraction of right steps| of a bin, averaged over steps;
    NaN when a score is outside [0, 1] and so no probability."""
    if not _probabilities(steps):
        return float("nan")
    bin_N = np.minimum((steps.scores_N * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    # count * |mean score - fraction right| is |sum of scores - number right|
    surplus = np.bincount(bin_N, weights=steps.scores_N - steps.right_N)
    return float(np.abs(surplus).sum() / len(steps.scores_N))


def brier_score(steps: LabelledSteps) -> float:
    """Mean squared distance of the score from 1 (right step) or 0 (wrong step); NaN when a score is outside [0, 1]."""
    return float(np.mean((steps.scores_N - steps.right_N) ** 2)) if _probabilities(steps) else float("nan")


def _probabilities(steps: LabelledSteps) -> bool:
    return bool(steps.scores_N.min() >= 0 and steps.scores_N.max() <= 1)


# ---- first errors


def first_errors(steps: LabelledSteps) -> tuple[Floats, Floats]:
    """Per solution, (S,) each: its first wrong step, or that it has none, is found at thresholds low < t <= high.

    Found: the first rejected step is the first of label -1, or neither exists. Steps behind it do not matter. low: the
    score of the first wrong step, -inf where there is none; high: the lowest score before it, inf where there is none.
    """
    none = len(steps.scores_N)
    first_S = np.full(len(steps.source_S), none)
    position = np.arange(none)
    np.minimum.at(first_S, steps.solution_N[~steps.right_N], position[~steps.right_N])
    low_S = np.append(steps.scores_N, -np.inf)[first_S]
    high_S = np.full(len(first_S), np.inf)
    before = position < first_S[steps.solution_N]
    np.minimum.at(high_S, steps.solution_N[before], steps.scores_N[before])
    return low_S, high_S


def first_error_f1(found_S: Bools, erroneous_S: Bools) -> float:
    """As in ProcessBench: harmonic mean of the share found of the solutions with a wrong step and of those without; NaN
    when either kind is missing, 0 when both shares are."""
    if erroneous_S.all() or not erroneous_S.any():
        return float("nan")
    with_error, without = found_S[erroneous_S].mean(), found_S[~erroneous_S].mean()
    return float(_ratio(2 * with_error * without, with_error + without))


def _ratio(numerator: Counts | float, denominator: Counts | float) -> Floats:
    """numerator / denominator, 0 where the denominator is 0."""
    top, bottom = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    return np.divide(top, bottom, out=np.zeros_like(bottom), where=bottom > 0)
