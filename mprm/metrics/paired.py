"""The difference between two settings on one benchmark, paired by seed and by solution.

Shape suffixes: those of metrics.py (B resamples, S solutions).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mprm.metrics import metrics
from mprm.metrics.intervals import LEVEL, resample_weights
from mprm.metrics.metrics import Floats, LabelledSteps, labelled_steps
from mprm.metrics.predictions import Prediction
from mprm.metrics.student_t import FEWEST, NORMAL_QUANTILE, half_width

RESAMPLES = 1000
SEED = 0  # of the bootstrap: every run on a benchmark is resampled alike, which makes its differences paired


@dataclass(frozen=True)
class Resampled:
    """A measure of one run: of the benchmark, and of every resample of its solutions (NaN where it is undefined)."""

    solutions: tuple[tuple[str, tuple[int, ...]], ...]  # id and labels, sorted
    value: float
    values_B: Floats


@dataclass(frozen=True)
class Difference:
    """Setting A minus setting B with its 95 % interval. seeds: those that both have. resamples: of the bootstrap. each:
    the differences of the seeds."""

    measure: str
    value: float
    low: float
    high: float
    seeds: tuple[int, ...]
    resamples: int
    each: tuple[float, ...] = ()


def resampled_auc(predictions: Sequence[Prediction], resamples: int = RESAMPLES) -> Resampled:
    """The AUC of one run. The order of the predictions does not matter. Raises ValueError if no step is labelled."""
    solutions, steps, weights_BS = _prepared(predictions, resamples)
    return Resampled(solutions, metrics.auc(steps), metrics.auc_of_resamples(steps, weights_BS))


def resampled_f1(predictions: Sequence[Prediction], threshold: float, resamples: int = RESAMPLES) -> Resampled:
    """The overall step-weighted macro-F1 of one run at a threshold, as resampled_auc."""
    solutions, steps, weights_BS = _prepared(predictions, resamples)
    counts_S4 = metrics.confusion_per_solution(steps, threshold)
    of_source = [steps.source_S == source for source in range(len(steps.sources))]
    counts_BG4 = np.stack([weights_BS[:, chosen] @ counts_S4[chosen] for chosen in of_source], axis=1)
    value = metrics.step_weighted_macro_f1(metrics.per_source(steps, counts_S4))
    return Resampled(solutions, float(value), metrics.step_weighted_macro_f1(counts_BG4))


def difference(measure: str, a: Mapping[int, Resampled], b: Mapping[int, Resampled]) -> Difference:
    """Mean of A - B over the seeds that both have, with a 95 % interval for other trainings and other solutions.

    Two parts make the half width sqrt(seed^2 + benchmark^2): Student's t over the seeds' differences, and 1.96 standard
    deviations of the mean difference over resamples that draw the same solutions for A and B. What a training does to
    single steps by chance shows in both, so the interval is rather too wide than too narrow (simulated: 96 to 99 %
    hold the truth with three to five seeds). With fewer than three seeds it is the percentile interval of the
    resamples, and holds for these trainings only. Resamples in which the measure is undefined are left out.

    Args:
        measure: its name, handed through.
        a: the runs of setting A by seed, as resampled_auc or resampled_f1 gives them.
        b: those of setting B.

    Raises:
        ValueError: no seed in common, other solutions or labels in one of the runs, or the measure is undefined.
    """
    seeds = tuple(sorted(a.keys() & b.keys()))
    if not seeds:
        raise ValueError(f"no seed in common: {_listed(a)} and {_listed(b)}; run both settings with the same seeds")
    _check_solutions([run for seed in seeds for run in (a[seed], b[seed])])
    differences = [a[seed].value - b[seed].value for seed in seeds]
    resampled_B = np.mean([a[seed].values_B - b[seed].values_B for seed in seeds], axis=0)
    resampled_B = resampled_B[~np.isnan(resampled_B)]
    value = float(np.mean(differences))
    if math.isnan(value) or len(resampled_B) == 0:
        raise ValueError(
            f"{measure} is undefined: all labelled steps are alike; take a benchmark with both kinds of steps"
        )
    if len(seeds) < FEWEST:
        tail = (1 - LEVEL) / 2
        low, high = (float(end) for end in np.quantile(resampled_B, [tail, 1 - tail]))
    else:
        half = math.hypot(half_width(differences), NORMAL_QUANTILE * float(np.std(resampled_B, ddof=1)))
        low, high = value - half, value + half
    return Difference(measure, value, low, high, seeds, len(resampled_B), tuple(differences))


def _prepared(
    predictions: Sequence[Prediction], resamples: int
) -> tuple[tuple[tuple[str, tuple[int, ...]], ...], LabelledSteps, Floats]:
    """The solutions, their labelled steps in the order of their ids, and the weights of the resamples."""
    predictions = sorted(predictions, key=lambda prediction: prediction.id)
    steps = labelled_steps(predictions)
    solutions = tuple((prediction.id, prediction.labels) for prediction in predictions)
    return solutions, steps, _weights(len(steps.source_S), resamples)


@lru_cache(maxsize=1)
def _weights(n_solutions: int, resamples: int) -> Floats:
    return resample_weights(n_solutions, resamples, SEED)


def _check_solutions(runs: Sequence[Resampled]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if run.solutions != first.solutions:
            apart = sorted({name for name, _ in set(run.solutions) ^ set(first.solutions)})
            raise ValueError(
                f"the solutions of the two, or their labels, differ ({len(apart)}, e.g. {apart[0]!r}); evaluate both "
                "settings on the same benchmark"
            )


def _listed(runs: Mapping[int, Resampled]) -> str:
    return f"seeds {', '.join(map(str, sorted(runs)))}" if runs else "no seed"
