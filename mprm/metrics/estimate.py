"""A measured number and its 95 % interval: of a bootstrap over what was measured, of Student's t over trainings.

Shape suffixes: B resamples, Q what is drawn with replacement (solutions, pairs of answers, questions), N any columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

LEVEL = 0.95
TAILS = ((1 - LEVEL) / 2, 1 - (1 - LEVEL) / 2)
NORMAL_QUANTILE = 1.96
RESAMPLES = 1000
PAIRED = 0  # seed of the bootstrap of every run that is compared: they are resampled alike
FEWEST = 3  # trainings with an interval: of two Student's t is 12.7, which says nothing, so the two are shown


@dataclass(frozen=True)
class Estimate:
    """A number and, where known, its 95 % interval; the mean of two seeds has none, but both values in `each`."""

    value: float
    low: float | None = None
    high: float | None = None
    each: tuple[float, ...] = ()

    def points(self) -> str:
        """As percentage points: 81.5 [79.8, 83.1], of two seeds 81.5 (80.9, 82.1)."""
        return self.text(100, ".1f")

    def fraction(self) -> str:
        """As a fraction: 0.893 [0.880, 0.905]."""
        return self.text(1, ".3f")

    def signed_points(self) -> str:
        """A difference as percentage points: +3.1 [1.2, 5.0]."""
        return self.text(100, ".1f", "+")

    def text(self, scale: float, form: str, sign: str = "") -> str:
        """The number with its interval, or else with `each`. sign: "+" also in front of a positive number."""
        text = format(self.value * scale, sign + form)
        if self.each:
            return f"{text} ({', '.join(format(value * scale, form) for value in self.each)})"
        if self.low is None or self.high is None:
            return text
        return f"{text} [{self.low * scale:{form}}, {self.high * scale:{form}}]"

    def negative(self) -> Estimate:
        """b - a, where this is a - b."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return Estimate(-self.value, low, high, tuple(-value for value in self.each))

    def above(self, other: Estimate | float) -> bool:
        """Does the whole interval lie above a number, or above the whole interval of another estimate?"""
        end = other.high if isinstance(other, Estimate) else other
        return self.low is not None and end is not None and self.low > end

    def below(self, other: Estimate | float) -> bool:
        end = other.low if isinstance(other, Estimate) else other
        return self.high is not None and end is not None and self.high < end

    def relation(self, better: str = "better than", worse: str = "worse than") -> str:
        """What a difference says: nothing where its interval holds 0."""
        return better if self.above(0) else worse if self.below(0) else "not distinguishable from"


# ---- the bootstrap


@lru_cache(maxsize=1)  # everything that is measured of one benchmark draws the same
def resample_weights(n: int, seed: int, resamples: int = RESAMPLES) -> Floats:
    """How often each of n things was drawn in each resample, (B, Q); every row sums to n. The same n and seed give the
    same draws: two runs on one benchmark are resampled alike."""
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n))
    weights_BQ = np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(np.float64)
    weights_BQ.flags.writeable = False
    return weights_BQ


def percentile(value: float, values_B: Floats) -> Estimate:
    """A number with the percentile interval of its resamples; those in which it is undefined (NaN) are left out."""
    defined = values_B[~np.isnan(values_B)]
    if len(defined) == 0:
        return Estimate(float(value))
    low, high = np.quantile(defined, TAILS)
    return Estimate(float(value), float(low), float(high))


class Resamples:
    """Means over n things, the same resamples for the same seed. Of a - b the mean is a paired difference."""

    def __init__(self, n: int, seed: int) -> None:
        self.weights_BQ = resample_weights(n, seed)

    def mean(self, values_Q: Floats) -> Estimate:
        return percentile(values_Q.mean(), self.weights_BQ @ values_Q / len(values_Q))

    def means(self, values_QN: Floats) -> tuple[Estimate, ...]:
        """The mean of every column."""
        means_NB = (self.weights_BQ @ values_QN / len(values_QN)).T
        return tuple(percentile(*column) for column in zip(values_QN.mean(axis=0), means_NB, strict=True))

    def saved(self, used_Q: Floats, all_Q: Floats) -> Estimate:
        """1 - sum(used) / sum(all)."""
        saved_B = 1 - (self.weights_BQ @ used_Q) / (self.weights_BQ @ all_Q)
        return percentile(1 - used_Q.sum() / all_Q.sum(), saved_B)


# ---- over seeds


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """Mean and interval mean -/+ t sd / sqrt(n) over n seeds; of two seeds the two values, of one nothing more."""
    mean = float(np.mean(values))
    if len(values) < FEWEST:
        return Estimate(mean, each=tuple(values) if len(values) > 1 else ())
    half = half_width(values)
    return Estimate(mean, mean - half, mean + half)


def half_width(values: Sequence[float]) -> float:
    """t sd / sqrt(n): half the 95 % interval of the mean of n >= FEWEST numbers."""
    from scipy.special import stdtrit  # only comparisons need it

    n = len(values)
    assert n >= FEWEST, values
    return float(stdtrit(n - 1, TAILS[1])) * float(np.std(values, ddof=1)) / math.sqrt(n)


@dataclass(frozen=True)
class Resampled:
    """A measure of one run: of the benchmark, and of every resample of it (NaN where it is undefined)."""

    items: tuple[tuple[str, object], ...]  # what was measured: id and label, sorted by id
    value: float
    values_B: Floats


def resampled_mean(values: Mapping[str, float]) -> Resampled:
    """The mean of a number of every item, by its id."""
    ids = sorted(values)
    values_Q = np.array([values[name] for name in ids])
    means_B = resample_weights(len(ids), PAIRED) @ values_Q / len(ids)
    return Resampled(tuple((name, None) for name in ids), float(values_Q.mean()), means_B)


@dataclass(frozen=True, kw_only=True)
class Difference(Estimate):
    """Setting A minus setting B."""

    by_seed: Mapping[int, float]  # of the seeds that both have


def difference(measure: str, a: Mapping[int, Resampled], b: Mapping[int, Resampled]) -> Difference:
    """Mean of A - B over the seeds that both have, with a 95 % interval for other trainings and other items.

    Half the width is sqrt(seed^2 + benchmark^2): Student's t over the seeds' differences, and 1.96 standard deviations
    of the mean difference over resamples that draw the same items for A and B. What a training does to single items by
    chance shows in both, so the interval is rather too wide than too narrow (simulated: 96 to 99 % hold the truth with
    three to five seeds). With fewer than three seeds it is the percentile interval of the resamples, and holds for
    these trainings only. Resamples in which the measure is undefined are left out.

    a, b: the runs of a setting by seed. Raises ValueError for no seed in common, other items or labels in one of the
    runs, or an undefined measure.
    """
    seeds = tuple(sorted(a.keys() & b.keys()))
    if not seeds:
        raise ValueError(f"no seed in common: {_listed(a)} and {_listed(b)}; run both settings with the same seeds")
    items = a[seeds[0]].items
    for run in (run for seed in seeds for run in (a[seed], b[seed])):
        if run.items != items:
            apart = sorted({name for name, _ in set(run.items) ^ set(items)})
            raise ValueError(
                f"what the two were measured on, or its labels, differ ({len(apart)}, e.g. {apart[0]!r}); evaluate "
                "both settings on the same benchmark"
            )
    by_seed = {seed: a[seed].value - b[seed].value for seed in seeds}
    differences = list(by_seed.values())
    resampled_B = np.mean([a[seed].values_B - b[seed].values_B for seed in seeds], axis=0)
    resampled_B = resampled_B[~np.isnan(resampled_B)]
    value = float(np.mean(differences))
    if math.isnan(value) or len(resampled_B) == 0:
        raise ValueError(
            f"{measure} is undefined: all labelled steps are alike; take a benchmark with both kinds of steps"
        )
    if len(seeds) < FEWEST:
        low, high = (float(end) for end in np.quantile(resampled_B, TAILS))
    else:
        half = math.hypot(half_width(differences), NORMAL_QUANTILE * float(np.std(resampled_B, ddof=1)))
        low, high = value - half, value + half
    return Difference(value, low, high, by_seed=by_seed)


def _listed(runs: Mapping[int, Resampled]) -> str:
    return f"seeds {', '.join(map(str, sorted(runs)))}" if runs else "no seed"
