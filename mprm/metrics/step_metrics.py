"""Metrics of step scores, and the thresholds at which steps are accepted, in numpy.

Shape suffixes: N labelled steps, S solutions with at least one of them, G sources, B sets of weights of the solutions:
one that counts each once, then every resample. Confusion counts are the last axis, of size 4: right steps accepted
(tp), wrong steps accepted (fp), right steps rejected (fn), wrong steps rejected (tn). A step is accepted when its score
>= threshold. Neutral steps (label 0) are dropped first. In the fit of a threshold K groups of held-out steps with about
the same score, in ascending order; C thresholds that are tried.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mprm.metrics.estimate import Bools, Floats, Ints
from mprm.metrics.predictions import Prediction

Counts = NDArray[np.number]

ECE_BINS = 15

# Of Platt's fit.
SMALLEST = 1e-9  # probabilities this close to 0 or 1 are taken for it: log odds stay within -/+ 20.7
RIDGE = 1e-4  # on the fit to standardised log odds: felt only where a threshold tells all right and wrong steps apart
NEWTON_STEPS, CONVERGED = 30, 1e-8  # the latter in log odds
GROUPS = 100  # of each kind of steps, in the fits to resamples


@dataclass(frozen=True)
class LabelledSteps:
    """The labelled steps of a set of solutions as flat arrays, in order within each solution."""

    sources: tuple[str, ...]  # G names, sorted
    source_S: Ints  # index into sources
    solution_N: Ints  # index of the solution, ascending
    right_N: Bools  # label 1 (not -1)
    scores_N: Floats
    # No solution is judged behind its first wrong step, as in ProcessBench, and some have one.
    to_first_error: bool = False


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
    names, right = tuple(sources.tolist()), labels[counted] == 1
    to_first = not right.all() and not any(
        -1 in one.labels and any(one.labels[one.labels.index(-1) + 1 :]) for one in kept
    )
    return LabelledSteps(names, source_S, solution[counted], right, scores[counted], to_first)


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


# ---- thresholds: searched on the labels that are measured, or fitted on held-out solutions
#
# A threshold of maximal F1 on held-out rollouts, where few steps are wrong, does not suit a benchmark where many are.
# Of Platt's fit with both kinds of steps weighted equally it does not matter how many are wrong, neither for the
# threshold where P = 0.5 nor for that of the highest expected F1 at an error rate that is known.


def searched(steps: LabelledSteps) -> float:
    """The score with the largest step_weighted_macro_f1 as threshold, the smallest of equals; on the same steps that
    number is optimistic."""
    thresholds_C = np.unique(steps.scores_N)
    return float(thresholds_C[np.argmax(f1_at(steps, thresholds_C))])


def f1_at(steps: LabelledSteps, thresholds_C: Floats) -> Floats:
    """step_weighted_macro_f1 at each of the thresholds, (C,)."""
    source_N = steps.source_S[steps.solution_N]
    counts = np.empty((len(thresholds_C), len(steps.sources), 4), dtype=np.int64)
    for source in range(len(steps.sources)):
        for right, accepted, rejected in ((True, 0, 2), (False, 1, 3)):
            scores = np.sort(steps.scores_N[(source_N == source) & (steps.right_N == right)])
            counts[:, source, rejected] = np.searchsorted(scores, thresholds_C, side="left")
            counts[:, source, accepted] = len(scores) - counts[:, source, rejected]
    return step_weighted_macro_f1(counts)


def fitted(held_out: LabelledSteps, weights_BS: Floats, error_rate: float | None) -> Floats:
    """The threshold (B,) for every set of weights of the held-out solutions, from Platt's fit: P(right) = 1 / (1 +
    exp(-(slope * log odds + intercept))), all wrong steps together weighing as much as all right ones.

    error_rate None: where P = 0.5. Else the held-out score of the highest expected macro-F1 where so many steps are
    wrong: both kinds of steps are weighted to that rate, and the odds of P multiplied to fit it. Resamples without both
    kinds of steps have the threshold of row 0, which must have them.
    """
    exact = _fitted(held_out, np.unique(held_out.scores_N), weights_BS[:1], error_rate)
    scores_by_kind = [held_out.scores_N[held_out.right_N == right] for right in (True, False)]
    shares = np.linspace(0, 1, GROUPS)
    lowest_K = np.unique([np.quantile(scores, shares, method="lower") for scores in scores_by_kind])
    return np.append(exact, _fitted(held_out, lowest_K, weights_BS, error_rate)[1:])


def _fitted(held_out: LabelledSteps, lowest_K: Floats, weights_BS: Floats, error_rate: float | None) -> Floats:
    """fitted() on steps in groups that begin at the scores `lowest_K`."""
    group_N = np.searchsorted(lowest_K, held_out.scores_N, side="right") - 1
    p_N = np.clip(held_out.scores_N, SMALLEST, 1 - SMALLEST)
    log_odds_K = np.bincount(group_N, np.log(p_N / (1 - p_N))) / np.bincount(group_N)
    masses = []
    for kind in (held_out.right_N, ~held_out.right_N):
        group, solution = group_N[kind], held_out.solution_N[kind]
        masses.append(np.stack([np.bincount(group, weights[solution], len(lowest_K)) for weights in weights_BS]))
    both_B11 = np.all([mass_BK.any(axis=1, keepdims=True) for mass_BK in masses], axis=0)
    masses = [np.where(both_B11, mass_BK, mass_BK[:1]) for mass_BK in masses]
    right_BK, wrong_BK = (mass_BK / mass_BK.sum(axis=1, keepdims=True) for mass_BK in masses)
    z_BK, at_half_B = platt(log_odds_K, right_BK, wrong_BK)
    if error_rate is None:
        return np.exp(-np.logaddexp(0, -at_half_B))
    mass_BK = (1 - error_rate) * right_BK + error_rate * wrong_BK
    p_BK = np.exp(-np.logaddexp(0, np.log(error_rate / (1 - error_rate)) - z_BK))
    expected = np.stack([mass_BK * p_BK, mass_BK * (1 - p_BK)])  # of right and of wrong steps, in every group
    accepted = np.flip(np.cumsum(np.flip(expected, axis=-1), axis=-1), axis=-1)  # at the lowest score of every group
    rejected = accepted[..., :1] - accepted
    return lowest_K[np.argmax(macro_f1(np.stack([*accepted, *rejected], axis=-1)), axis=1)]


def platt(log_odds_K: Floats, right_BK: Floats, wrong_BK: Floats) -> tuple[Floats, Floats]:
    """Platt's fit to the shares of the right and of the wrong steps in each group: its log odds of "right" (B, K), and
    the log odds of a score (B,) where they are 0. Where it would fall with the score P is 0.5 everywhere, and the
    second -inf: all steps are accepted."""
    both_BK = (right_BK + wrong_BK) / 2
    centre_B1 = (both_BK @ log_odds_K)[:, None]
    scale_B1 = np.sqrt((both_BK * (log_odds_K - centre_B1) ** 2).sum(axis=1, keepdims=True))
    x_BK = (log_odds_K - centre_B1) / np.where(scale_B1 > 0, scale_B1, 1)
    fit_B2 = np.zeros((len(both_BK), 2))  # intercept and slope
    for _ in range(NEWTON_STEPS):
        p_BK = np.exp(-np.logaddexp(0, -(fit_B2[:, :1] + fit_B2[:, 1:] * x_BK)))
        error_BK, curvature_BK = right_BK / 2 - both_BK * p_BK, both_BK * p_BK * (1 - p_BK)
        gradient_B2 = np.stack([(error_BK * x_BK**k).sum(axis=1) for k in range(2)], axis=1) - RIDGE * fit_B2
        moments = [(curvature_BK * x_BK**k).sum(axis=1) for k in range(3)]
        hessian_B22 = np.stack([moments[:2], moments[1:]]).transpose(2, 0, 1) + RIDGE * np.eye(2)
        step_B2 = np.linalg.solve(hessian_B22, gradient_B2[..., None])[..., 0]
        # The longest step that cannot overshoot: where log odds move by c, the curvature grows by e^c at most.
        c_B1 = np.abs(step_B2[:, :1] + step_B2[:, 1:] * x_BK).max(axis=1, keepdims=True) + 1e-12
        fit_B2 += np.log1p(c_B1) / c_B1 * step_B2
        if c_B1.max() < CONVERGED:
            break
    fit_B2 = np.where(fit_B2[:, 1:] > 0, fit_B2, 0.0)
    intercept_B1, slope_B1 = fit_B2[:, :1], fit_B2[:, 1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        at_half_B1 = np.where(slope_B1 > 0, centre_B1 - scale_B1 * intercept_B1 / slope_B1, -np.inf)
    return intercept_B1 + slope_B1 * x_BK, at_half_B1[:, 0]


def _ratio(numerator: Counts | float, denominator: Counts | float) -> Floats:
    """numerator / denominator, 0 where the denominator is 0."""
    top, bottom = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    return np.divide(top, bottom, out=np.zeros_like(bottom), where=bottom > 0)
