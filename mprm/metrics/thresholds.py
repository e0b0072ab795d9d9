"""Thresholds of step scores: fitted on held-out solutions, or searched on the labels that are measured.

A threshold of maximal F1 on held-out rollouts, where few steps are wrong, does not suit a benchmark where many are. Of
Platt's fit with both kinds of steps weighted equally it does not matter how many are wrong, neither for the threshold
where P = 0.5 nor for that of the highest expected F1 at an error rate that is known.

Shape suffixes: those of step_metrics.py; K groups of held-out steps with about the same score, in ascending order.
"""

import numpy as np

from mprm.metrics.estimate import Floats
from mprm.metrics.step_metrics import LabelledSteps, macro_f1, step_weighted_macro_f1

SMALLEST = 1e-9  # probabilities this close to 0 or 1 are taken for it: log odds stay within -/+ 20.7
RIDGE = 1e-4  # on the fit to standardised log odds: felt only where a threshold tells all right and wrong steps apart
NEWTON_STEPS, CONVERGED = 30, 1e-8  # the latter in log odds
GROUPS = 100  # of each kind of steps, in the fits to resamples


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
