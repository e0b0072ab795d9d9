"""A measured number and its 95 % interval, for one training or for the mean over several.

Half of an interval's width is sqrt(seeds^2 + items^2); of independent parts that is enough (Banerjee 1960), and either
alone is too narrow. seeds: Student's t over the trainings, where there are three or more. items: Student's t of n / 3
degrees of freedom, for n items, times the standard deviation over resamples that draw the same items for every
training, times sqrt(n / (n - 1)), by which that of a mean is too small. A third: few items hold most of what moves an
AUC, so its deviation is known only as well as that of a third as many numbers alike. With seeds it is the deviation of
what the items do to all trainings alike, the mean covariance of two trainings' resamples: what a training does to
single items by chance is in the seeds' part already. The interval itself is Wilson's (1927), whose ends are those p
from which the number is that far away, were the deviation at p that of a share p: it is longer to the side of .5, and
never leaves the measure's range. tests/benchmarks/coverage.py counts how many hold the truth.

Shape suffixes: Q what is drawn with replacement (solutions, pairs of answers, questions), B what was measured and then
every resample of it: row 0 is the number itself. S trainings. N any columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

LEVEL = 0.95
TAILS = ((1 - LEVEL) / 2, 1 - (1 - LEVEL) / 2)
RESAMPLES = 1000
BENCHMARK, HELD_OUT = range(2)  # what is drawn from; each has draws of its own, the same for all that is compared
SHARE, DIFFERENCE = (0.0, 1.0), (-1.0, 1.0)  # the ranges of a measure, and of one measure minus another
Bounds = tuple[float, float]
ROUNDING = 1e-9  # sums of the same numbers in another order differ by less
UNEVEN = 3  # items that say as much of a deviation as one of many alike would
FEWEST = 3  # trainings with an interval for others: of two Student's t is 12.7, which says nothing


@dataclass(frozen=True)
class Estimate:
    """A number and, where known, its 95 % interval."""

    value: float
    low: float | None = None
    high: float | None = None

    def points(self) -> str:
        """As percentage points: 81.5 [79.8, 83.1]."""
        return self.text(100, ".1f")

    def fraction(self) -> str:
        """As a fraction: 0.893 [0.880, 0.905]."""
        return self.text(1, ".3f")

    def signed_points(self) -> str:
        """A difference as percentage points: +3.1 [1.2, 5.0]."""
        return self.text(100, ".1f", "+")

    def text(self, scale: float, form: str, sign: str = "") -> str:
        """The number with its interval. sign: "+" also in front of a positive number."""
        text = format(self.value * scale, sign + form)
        if self.low is None or self.high is None:
            return text
        return f"{text} [{self.low * scale:{form}}, {self.high * scale:{form}}]"

    def negative(self) -> Estimate:
        """b - a, where this is a - b."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return Estimate(-self.value, low, high)

    def above(self, other: Estimate | float) -> bool:
        """Does the whole interval lie above a number, or above the whole interval of another estimate?"""
        end = other.high if isinstance(other, Estimate) else other
        return self.low is not None and end is not None and self.low > end + ROUNDING

    def below(self, other: Estimate | float) -> bool:
        end = other.low if isinstance(other, Estimate) else other
        return self.high is not None and end is not None and self.high < end - ROUNDING

    def relation(self, better: str = "better than", worse: str = "worse than") -> str:
        """What a difference says: nothing where its interval holds 0."""
        return better if self.above(0) else worse if self.below(0) else "not distinguishable from"


@dataclass(frozen=True, kw_only=True)
class OverSeeds(Estimate):
    """The mean over trainings that differ in their seed alone, of a measure or of a paired difference."""

    by_seed: Mapping[int, float]  # of every training

    @property
    def scope(self) -> str:
        """The trainings that the interval holds for."""
        n = len(self.by_seed)
        return "this training" if n == 1 else f"these {n} trainings" if n < FEWEST else "any training"

    def text(self, scale: float, form: str, sign: str = "") -> str:
        """As of any estimate; of two trainings 81.5 (80.9, 82.1), for their interval is over the benchmark alone."""
        if len(self.by_seed) != 2:
            return super().text(scale, form, sign)
        both = ", ".join(format(value * scale, sign + form) for value in self.by_seed.values())
        return f"{self.value * scale:{sign}{form}} ({both})"


def points(number: Estimate | None) -> str:
    return number.points() if number else "-"


# ---- the bootstrap


@lru_cache(maxsize=2)  # everything that is measured of one benchmark draws the same
def resample_weights(n: int, drawn_from: int = BENCHMARK, resamples: int = RESAMPLES) -> Floats:
    """How often each of n things was drawn, (B, Q): in row 0 once each, then in every resample; every row sums to n."""
    drawn = np.random.default_rng(drawn_from).integers(n, size=(resamples, n))
    weights_BQ = np.stack([np.ones(n), *(np.bincount(row, minlength=n) for row in drawn)])
    weights_BQ.flags.writeable = False
    return weights_BQ


def over_items(values_B: Floats, n: int, bounds: Bounds | None = SHARE) -> Estimate:
    """A number with its interval over the n items that the resamples draw from; those in which it is undefined (NaN)
    are left out. bounds: None for a count, which has none."""
    value, resampled = float(values_B[0]), values_B[1:][~np.isnan(values_B[1:])]
    if len(resampled) == 0:
        return Estimate(value)
    return Estimate(value, *_ends(value, _items_half(float(np.var(resampled)), n), n, bounds))


def mean(values_Q: Floats, bounds: Bounds | None) -> Estimate:
    """The mean of a number of every item: with the bounds SHARE, DIFFERENCE where it is paired, a - b, or None."""
    n = len(values_Q)
    return over_items(resample_weights(n) @ values_Q / n, n, bounds)


def means(values_QN: Floats) -> tuple[Estimate, ...]:
    """The mean share of every column."""
    n = len(values_QN)
    return tuple(over_items(values_B, n) for values_B in (resample_weights(n) @ values_QN / n).T)


def saved(used_Q: Floats, all_Q: Floats) -> Estimate:
    """1 - sum(used) / sum(all)."""
    weights_BQ = resample_weights(len(used_Q))
    return over_items(1 - (weights_BQ @ used_Q) / (weights_BQ @ all_Q), len(used_Q))


def _items_half(variance: float, n: int) -> float:  # of the variance over resamples
    return student(n / UNEVEN) * math.sqrt(variance * n / max(n - 1, 1))


def _ends(value: float, half: float, n: int, bounds: Bounds | None) -> tuple[float, float]:
    """Of the interval around a number, Wilson's where it has bounds. At the end of its range, where nothing varies, its
    deviation is taken for that of a share of n items."""
    if bounds is None:
        return value - half, value + half
    start, width = bounds[0], bounds[1] - bounds[0]
    share = (value - start) / width
    variance = share * (1 - share)
    factor = (half / width) ** 2 / variance if variance > ROUNDING else student(n - 1) ** 2 / n
    middle = (share + factor / 2) / (1 + factor)
    reach = math.sqrt(max(0.0, factor * variance + factor**2 / 4)) / (1 + factor)
    return start + width * (middle - reach), start + width * (middle + reach)


# ---- over seeds


@dataclass(frozen=True)
class Resampled:
    """A measure of one training."""

    items: tuple[tuple[str, object], ...]  # what was measured: id and label, sorted by id
    values_B: Floats  # NaN where it is undefined
    bounds: Bounds = SHARE

    @property
    def value(self) -> float:
        return float(self.values_B[0])

    def minus(self, other: Resampled) -> Resampled:
        """The paired difference: both were measured on the same items and resamples."""
        return Resampled(self.items, self.values_B - other.values_B, DIFFERENCE)


def resampled_mean(values: Mapping[str, float]) -> Resampled:
    """The mean of a number of every item, by its id."""
    ids = sorted(values)
    values_Q = np.array([values[name] for name in ids])
    return Resampled(tuple((name, None) for name in ids), resample_weights(len(ids)) @ values_Q / len(ids))


def over_seeds(runs: Mapping[int, Resampled]) -> OverSeeds:
    """Mean over the seeds of a setting, with a 95 % interval for other trainings and other items.

    With fewer than three seeds it is that over the items alone, and holds for these trainings only (OverSeeds.scope).
    Resamples in which the measure is undefined are left out. Raises ValueError if the runs were measured on other items
    or labels.
    """
    seeds = sorted(runs)
    check_items([runs[seed] for seed in seeds])
    by_seed = {seed: runs[seed].value for seed in seeds}
    values_SB, first = np.stack([runs[seed].values_B for seed in seeds]), runs[seeds[0]]
    if len(seeds) < FEWEST:
        found = over_items(values_SB.mean(axis=0), len(first.items), first.bounds)
        return OverSeeds(found.value, found.low, found.high, by_seed=by_seed)
    covariance_SS = np.cov(values_SB[:, 1:][:, ~np.isnan(values_SB[:, 1:]).any(axis=0)], bias=True)
    alike = float(covariance_SS[~np.eye(len(seeds), dtype=bool)].mean())
    half = math.hypot(half_width([*by_seed.values()]), _items_half(max(0.0, alike), len(first.items)))
    value = float(values_SB[:, 0].mean())
    return OverSeeds(value, *_ends(value, half, len(first.items), first.bounds), by_seed=by_seed)


def difference(a: Mapping[int, Resampled], b: Mapping[int, Resampled]) -> OverSeeds:
    """Setting A minus setting B, over the seeds that both have, with the interval of over_seeds: paired, since both are
    measured on the same items and resamples.

    a, b: the runs of a setting by seed. Raises ValueError for no seed in common, and as over_seeds.
    """
    seeds = a.keys() & b.keys()
    if not seeds:
        raise ValueError(f"no seed in common: {_listed(a)} and {_listed(b)}; run both settings with the same seeds")
    check_items([run for seed in sorted(seeds) for run in (a[seed], b[seed])])
    return over_seeds({seed: a[seed].minus(b[seed]) for seed in seeds})


def check_items(runs: Sequence[Resampled]) -> None:
    """Raise ValueError if not all were measured on the same items with the same labels."""
    for run in runs:
        if run.items != runs[0].items:
            apart = sorted({name for name, _ in set(run.items) ^ set(runs[0].items)})
            raise ValueError(
                f"what the two were measured on, or its labels, differ ({len(apart)}, e.g. {apart[0]!r}); evaluate "
                "both on the same benchmark, and see under Not scored in their reports what one of them left out"
            )


def half_width(values: Sequence[float]) -> float:
    """t sd / sqrt(n): half the 95 % interval of the mean of n >= FEWEST numbers."""
    n = len(values)
    assert n >= FEWEST, values
    return student(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)


@cache
def student(freedom: float) -> float:
    """The quantile of Student's t for 95 % intervals; with less than one degree of freedom that of one."""
    from scipy.special import stdtrit  # light tasks import this module, too

    return float(stdtrit(max(freedom, 1), TAILS[1]))


def _listed(runs: Mapping[int, Resampled]) -> str:
    return f"seeds {', '.join(map(str, sorted(runs)))}" if runs else "no seed"
