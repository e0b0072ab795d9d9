"""The thresholds of step scores: the searched one, and Platt's fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mprm.metrics.estimate import HELD_OUT, resample_weights
from mprm.metrics.predictions import Prediction
from mprm.metrics.step_metrics import (
    LabelledSteps,
    confusion,
    fitted,
    labelled_steps,
    macro_f1,
    platt,
    searched,
    step_weighted_macro_f1,
)

step = st.tuples(st.sampled_from([1, -1]), st.integers(0, 20).map(lambda k: k / 20))
solutions = st.lists(st.tuples(st.sampled_from("xyz"), st.lists(step, min_size=1, max_size=6)), min_size=1, max_size=12)


def build(items: list[tuple[str, list[tuple[int, float]]]]) -> list[Prediction]:
    return [
        Prediction(str(number), source, tuple(label for label, _ in steps), tuple(score for _, score in steps))
        for number, (source, steps) in enumerate(items)
    ]


def f1_at(steps: LabelledSteps, threshold: float) -> float:
    counts_BG4 = confusion(steps, np.array([threshold]), np.ones((1, len(steps.source_S))))
    return float(step_weighted_macro_f1(counts_BG4)[0])


# ---- searched


@given(solutions)
def test_no_score_is_better_and_no_smaller_one_as_good(items: list[tuple[str, list[tuple[int, float]]]]) -> None:
    steps = labelled_steps(build(items))
    chosen = searched(steps)
    value = {score: f1_at(steps, score) for score in set(steps.scores_N.tolist())}
    assert value[chosen] == max(value.values())
    assert all(value[score] < value[chosen] for score in value if score < chosen)


def test_searched_worked() -> None:
    # at .2 all are accepted: (4/6 + 0) / 2; at .4: (4/5 + 2/3) / 2; at .6 no mistake: 1; at .8: (2/3 + 4/5) / 2
    assert searched(labelled_steps([Prediction("a", "s", (-1, -1, 1, 1), (0.2, 0.4, 0.6, 0.8))])) == 0.6


def test_searched_goes_by_source() -> None:
    steps = labelled_steps(build([("x", [(-1, 0.6), (1, 0.6)]), ("y", [(-1, 0.8), (1, 0.8)])]))
    # at .6 all are accepted: (2/3 + 0) / 2 = 1/3 in both sources; at .8 x is rejected: (0 + 2/3) / 2 there, a tie,
    # though pooled (1/2 + 1/2) / 2 is more
    assert searched(steps) == 0.6


CLOSE = [(0.99999, 0.99996), (1.0, 1.0 - 2**-53), (0.3, float(np.nextafter(0.3, 0))), (5e-324, 0.0)]


@pytest.mark.parametrize(("right", "wrong"), CLOSE)
def test_scores_however_close_are_told_apart(right: float, wrong: float) -> None:
    """Thresholds are scores as they are: neither rounded, nor between two that have nothing between them."""
    steps = labelled_steps([Prediction("a", "s", (1, -1, 1), (right, wrong, right))])
    assert searched(steps) == right
    assert f1_at(steps, searched(steps)) == 1


def test_constant_scores_leave_one_candidate() -> None:
    assert searched(labelled_steps([Prediction("a", "s", (-1, 1, 1), (0.25, 0.25, 0.25))])) == 0.25


# ---- fitted


def normal_steps(n_right: int, n_wrong: int, seed: int = 0, shift: float = 0.0, per_solution: int = 4) -> LabelledSteps:
    """Log odds of right steps around 1 + shift, of wrong ones around -1 + shift, sd 1: at P = .5 they are `shift`."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation([1] * n_right + [-1] * n_wrong)
    scores = 1 / (1 + np.exp(-(labels + shift + rng.normal(0, 1, len(labels)))))
    parts = range(0, len(labels), per_solution)
    return labelled_steps(
        [
            Prediction(
                f"{k:05}", "s", tuple(labels[k : k + per_solution].tolist()), tuple(scores[k : k + per_solution])
            )
            for k in parts
        ]
    )


def fit(steps: LabelledSteps, error_rate: float | None = None, resamples: int = 1) -> np.ndarray:
    return fitted(steps, resample_weights(len(steps.source_S), HELD_OUT, resamples), error_rate)


def log_odds(p: float) -> float:
    return float(np.log(p / (1 - p)))


@pytest.mark.parametrize("n_wrong", [8_000, 400])
@pytest.mark.parametrize("shift", [0.0, 2.5])
def test_the_fit_finds_the_middle_however_few_steps_are_wrong(n_wrong: int, shift: float) -> None:
    # Two normals of equal spread: log odds of "right" are 2 (x - shift), whatever the share of the wrong
    steps = normal_steps(8_000, n_wrong, shift=shift)
    assert log_odds(fit(steps)[0]) == pytest.approx(shift, abs=0.1)


def test_the_fit_is_the_minimum_of_its_loss() -> None:
    rng = np.random.default_rng(1)
    x_K, right_BK, wrong_BK = rng.normal(1, 3, 40), rng.random((1, 40)), rng.random((1, 40))
    right_BK, wrong_BK = right_BK * (x_K > -1) / (right_BK * (x_K > -1)).sum(), wrong_BK / wrong_BK.sum()
    z_BK, at_half_B = platt(x_K, right_BK, wrong_BK)
    slope, intercept = np.polyfit(x_K, z_BK[0], 1)
    assert at_half_B[0] == pytest.approx(-intercept / slope)

    def loss(slope: float, intercept: float) -> float:
        z_K = slope * x_K + intercept
        return float((right_BK[0] * np.logaddexp(0, -z_K) + wrong_BK[0] * np.logaddexp(0, z_K)).sum())

    nudged = [loss(slope + 0.02 * a, intercept + 0.02 * b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]
    assert min(nudged) > loss(slope, intercept)


def test_steps_that_are_told_apart_leave_the_threshold_between_them() -> None:
    steps = labelled_steps([Prediction("a", "s", (1, 1, 1, -1), (0.9, 0.9, 0.95, 0.2))])
    assert 0.2 < fit(steps)[0] < 0.9
    extreme = labelled_steps([Prediction("a", "s", (1, -1), (1.0, 0.0))])
    assert fit(extreme)[0] == pytest.approx(0.5)


@pytest.mark.parametrize("scores", [(0.4, 0.4, 0.4), (0.1, 0.2, 0.9)])
def test_scores_that_do_not_rise_with_the_labels_accept_all(scores: tuple[float, ...]) -> None:
    assert fit(labelled_steps([Prediction("a", "s", (1, 1, -1), scores)]))[0] == 0


@pytest.mark.parametrize("error_rate", [0.04, 0.3, 0.6])
def test_at_a_declared_rate_expected_f1_is_highest(error_rate: float) -> None:
    """On a benchmark of that rate, whatever the rate of the held-out steps, the best threshold is hardly better."""
    held_out = normal_steps(8_000, 320, shift=1.0)
    found = fit(held_out, error_rate)[0]
    assert found in held_out.scores_N
    benchmark = normal_steps(round(16_000 * (1 - error_rate)), round(16_000 * error_rate), seed=1, shift=1.0)
    assert f1_at(benchmark, found) == pytest.approx(f1_at(benchmark, searched(benchmark)), abs=0.004)
    # the rarer errors are, the surer a rejection must be
    assert found < fit(held_out)[0] if error_rate < 0.5 else found > fit(held_out)[0]


@pytest.mark.parametrize("error_rate", [None, 0.3])
def test_resamples_are_fits_to_solutions_written_out_again(error_rate: float | None) -> None:
    """In groups of about equal scores, and so close to the exact fit, not equal."""
    steps = normal_steps(1_500, 60, seed=3)
    found = fit(steps, error_rate, resamples=10)
    weights = resample_weights(len(steps.source_S), HELD_OUT, 10)
    for b in range(1, 11):
        row_N = np.repeat(np.arange(len(steps.scores_N)), weights[b].astype(int)[steps.solution_N])
        drawn = LabelledSteps(
            steps.sources, steps.source_S, steps.solution_N[row_N], steps.right_N[row_N], steps.scores_N[row_N]
        )
        assert log_odds(found[b]) == pytest.approx(
            log_odds(fit(drawn, error_rate)[0]), abs=0.01 if error_rate is None else 0.1
        )
    assert np.std([log_odds(t) for t in found]) > 0.03


def test_a_resample_of_one_kind_keeps_the_threshold() -> None:
    predictions = [Prediction(str(k), "s", (1,), (0.9,)) for k in range(6)] + [Prediction("w", "s", (-1,), (0.3,))]
    steps = labelled_steps(predictions)
    weights = resample_weights(len(steps.source_S), HELD_OUT, 40)
    found = fitted(steps, weights, None)
    without = weights[:, -1] == 0
    assert without.any()
    assert (found[without] == found[0]).all()


@settings(max_examples=50)
@given(solutions, st.sampled_from([None, 0.01, 0.5, 0.99]))
def test_the_threshold_is_a_probability_whatever_the_scores(
    items: list[tuple[str, list[tuple[int, float]]]], error_rate: float | None
) -> None:
    steps = labelled_steps([*build(items), Prediction("both", "x", (1, -1), (0.5, 0.5))])
    found = fit(steps, error_rate, resamples=5)
    assert ((found >= 0) & (found <= 1)).all()
    assert macro_f1(confusion(steps, found, np.ones((6, len(steps.source_S))))).min() >= 0
