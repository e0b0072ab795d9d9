"""Metrics of step scores, and thresholds searched on labels, in numpy.

Shape suffixes: N labelled steps, S solutions with at least one of them, G sources, B resamples, C candidates for the
threshold. Confusion counts are the last axis, of size 4: right steps accepted (tp), wrong steps accepted (fp), right
steps rejected (fn), wrong steps rejected (tn). A step is accepted when its score >= threshold. Neutral steps (label 0)
are dropped first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mprm.metrics.estimate import Bools, Floats, Ints
from mprm.metrics.predictions import Prediction

Counts = NDArray[np.number]

ECE_BINS = 15
DECIMALS = 4  # of the thresholds that are searched
MAX_CANDIDATES = 1000


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


def confusion_per_solution(steps: LabelledSteps, threshold: float) -> Ints:
    """Confusion counts (S, 4) of every solution at a threshold."""
    accepted = steps.scores_N >= threshold
    cell_N = np.where(accepted, np.where(steps.right_N, 0, 1), np.where(steps.right_N, 2, 3))
    n_solutions = len(steps.source_S)
    return np.bincount(steps.solution_N * 4 + cell_N, minlength=n_solutions * 4).reshape(n_solutions, 4)


def per_source(steps: LabelledSteps, counts_S4: Ints) -> Ints:
    """Sum the counts of solutions to counts of sources (G, 4)."""
    counts_G4 = np.zeros((len(steps.sources), 4), dtype=np.int64)
    np.add.at(counts_G4, steps.source_S, counts_S4)
    return counts_G4


def per_source_resampled(steps: LabelledSteps, counts_S4: Ints, weights_BS: Floats) -> Floats:
    """per_source of every resample, (B, G, 4)."""
    of_source = [steps.source_S == source for source in range(len(steps.sources))]
    return np.stack([weights_BS[:, chosen] @ counts_S4[chosen] for chosen in of_source], axis=1)


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


def auc(steps: LabelledSteps) -> float:
    """Area under the ROC curve: P(a right step scores above a wrong one), equal scores counting one half; NaN when all
    labels are alike."""
    return float(auc_of_resamples(steps, np.ones((1, len(steps.source_S))))[0])


def auc_of_resamples(steps: LabelledSteps, weights_BS: Floats) -> Floats:
    """AUC (B,) when solution s counts weights_BS[b, s] times. The scores are sorted once, for all resamples."""
    right = steps.right_N
    order = np.argsort(steps.scores_N[~right])
    wrong_scores = steps.scores_N[~right][order]
    of_right, of_wrong = steps.solution_N[right], steps.solution_N[~right][order]
    # For every right step: how many wrong steps score lower, and how many no higher.
    lower = np.searchsorted(wrong_scores, steps.scores_N[right], side="left")
    no_higher = np.searchsorted(wrong_scores, steps.scores_N[right], side="right")
    values = np.full(len(weights_BS), np.nan)
    for b, weights in enumerate(weights_BS):
        right_weights = weights[of_right]
        cumulative = np.concatenate([[0.0], np.cumsum(weights[of_wrong])])
        pairs = right_weights.sum() * cumulative[-1]
        if pairs > 0:
            # no @: a thousand small threaded dot products crawl when other processes hold the cores
            values[b] = (right_weights * (cumulative[lower] + cumulative[no_higher])).sum() / 2 / pairs
    return values


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


def first_errors(steps: LabelledSteps, threshold: float) -> tuple[Bools, Bools]:
    """Per solution, (S,) each: is its first wrong step (or that it has none) found, and does it have a wrong step?
    Found: the first rejected step is the first of label -1, or neither exists. Steps behind it do not matter."""
    none = len(steps.scores_N)
    true, predicted = np.full((2, len(steps.source_S)), none)
    position = np.arange(none)
    for first, wrong in ((true, ~steps.right_N), (predicted, steps.scores_N < threshold)):
        np.minimum.at(first, steps.solution_N[wrong], position[wrong])
    return true == predicted, true < none


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


# ---- thresholds


def candidates(scores_N: Floats) -> Floats:
    """Thresholds to try (C,): the sorted unique scores, rounded to 4 decimals; of many every (number // 1,000)-th."""
    rounded = np.unique(np.round(scores_N, DECIMALS))
    return rounded[:: max(1, len(rounded) // MAX_CANDIDATES)]


def confusion_at(steps: LabelledSteps, thresholds_C: Floats) -> Ints:
    """Confusion counts (C, G, 4) at every threshold, from the sorted scores of every source."""
    source_N = steps.source_S[steps.solution_N]
    counts = np.empty((len(thresholds_C), len(steps.sources), 4), dtype=np.int64)
    for source in range(len(steps.sources)):
        for right, accepted, rejected in ((True, 0, 2), (False, 1, 3)):
            scores = np.sort(steps.scores_N[(source_N == source) & (steps.right_N == right)])
            counts[:, source, rejected] = np.searchsorted(scores, thresholds_C, side="left")
            counts[:, source, accepted] = len(scores) - counts[:, source, rejected]
    return counts


def best_threshold(steps: LabelledSteps, f1: Callable[[Counts], Floats]) -> float:
    """The candidate with the largest step_weighted_macro_f1 or pooled_macro_f1, the smallest of equals. Figures at this
    threshold on the same steps are optimistic."""
    thresholds = candidates(steps.scores_N)
    return float(thresholds[np.argmax(f1(confusion_at(steps, thresholds)))])
