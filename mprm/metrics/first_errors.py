"""How many first errors are found, as ProcessBench (arXiv 2412.06559) counts: for benchmarks that judge every solution
up to its first wrong step.

Shape suffixes: those of step_metrics.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mprm.metrics.estimate import Estimate, Floats, over_items
from mprm.metrics.step_metrics import LabelledSteps, first_errors


@dataclass(frozen=True, kw_only=True)
class SourceFirstErrors:
    """One source; None where it has no such solutions."""

    n_wrong: int  # solutions with a wrong step
    n_right: int  # and without
    found: Estimate | None  # of those with one: share of which it is the first step that is rejected
    accepted: Estimate | None  # of those without: share of which no step is rejected
    f1: Estimate | None  # harmonic mean of the two


@dataclass(frozen=True, kw_only=True)
class FirstErrors:
    f1: Estimate | None  # mean over the sources that have one
    per_source: dict[str, SourceFirstErrors]


def first_error_shares(steps: LabelledSteps, thresholds_B: Floats, weights_BS: Floats) -> Floats:
    """Of the solutions with a wrong step the share whose first is found, and of those without the share in which
    nothing is rejected, (B, G, 2); NaN where a source has no such solutions."""
    low_S, high_S = first_errors(steps)
    right_S = np.isneginf(low_S)
    found_BS = (low_S < thresholds_B[:, None]) & (thresholds_B[:, None] <= high_S)
    shares = np.full((len(weights_BS), len(steps.sources), 2), np.nan)
    for source in range(len(steps.sources)):
        for kind in range(2):
            of_kind_S = (steps.source_S == source) & (right_S == bool(kind))
            total_B = weights_BS[:, of_kind_S].sum(axis=1)
            found_B = (weights_BS * found_BS)[:, of_kind_S].sum(axis=1)
            np.divide(found_B, total_B, out=shares[:, source, kind], where=total_B > 0)
    return shares


def f1_of(shares_BG2: Floats) -> Floats:
    """Harmonic mean of the two shares, (B, G); 0 where both are 0, NaN where one is."""
    product, total = 2 * shares_BG2.prod(axis=-1), shares_BG2.sum(axis=-1)
    return np.divide(product, total, out=np.where(np.isnan(total), np.nan, 0.0), where=total > 0)


def mean_f1(f1_BG: Floats) -> Floats:
    """Mean over the sources that have an F1, (B,); NaN where none has."""
    known_BG = ~np.isnan(f1_BG)
    n_B = known_BG.sum(axis=1)
    return np.divide(np.where(known_BG, f1_BG, 0).sum(axis=1), n_B, out=np.full(len(f1_BG), np.nan), where=n_B > 0)


def first_error_results(steps: LabelledSteps, thresholds_B: Floats, weights_BS: Floats) -> FirstErrors:
    """All of it at the threshold that goes with each set of weights."""
    shares_BG2 = first_error_shares(steps, thresholds_B, weights_BS)
    f1_BG = f1_of(shares_BG2)
    right_S = np.isneginf(first_errors(steps)[0])
    n_KG = np.stack([np.bincount(steps.source_S[of], minlength=len(steps.sources)) for of in (~right_S, right_S)])
    return FirstErrors(
        f1=_defined(mean_f1(f1_BG), len(right_S)),
        per_source={
            name: SourceFirstErrors(
                n_wrong=n_wrong,
                n_right=n_right,
                found=_defined(shares_BG2[:, source, 0], n_wrong),
                accepted=_defined(shares_BG2[:, source, 1], n_right),
                f1=_defined(f1_BG[:, source], n_wrong + n_right),
            )
            for source, (name, n_wrong, n_right) in enumerate(zip(steps.sources, *n_KG.tolist(), strict=True))
        },
    )


def _defined(values_B: Floats, n: int) -> Estimate | None:
    return None if np.isnan(values_B[0]) else over_items(values_B, n)
