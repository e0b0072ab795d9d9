"""Overall macro-F1 on VisualProcessBench as published in arXiv 2602.04145, one training each, no intervals.

The published number is that of the best threshold on the benchmark itself: compare it with F1 oracle, no other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

UNTRAINED = (52.28, 49.68)


class Published(NamedTuple):
    """One published training."""

    selector: str
    ratio: float
    internvl: float  # InternVL2.5-8B, points
    qwen: float | None  # Qwen2.5-VL-7B, points; None: not published
    alpha: float | None = None  # None: BIS with an alpha that we do not know, or another selector
    tau: float | None = 0.0  # hard labels: correct above tau; None: soft labels


TRAINED = (
    Published("Full", 1.0, 65.12, 65.57),
    Published("Full", 1.0, 64.26, 65.27, tau=1 / 16),
    Published("Full", 1.0, 63.02, 62.72, tau=2 / 16),
    Published("Full", 1.0, 61.54, 62.23, tau=None),
    Published("Random", 0.05, 63.34, 53.54),
    Published("Random", 0.10, 62.86, 61.99),
    Published("Random", 0.15, 63.27, 59.82),
    Published("Random", 0.25, 63.37, 64.44),
    Published("Random", 0.35, 63.52, 64.77),
    Published("Random", 0.50, 64.02, 64.54),
    Published("BIS", 0.05, 64.51, 64.42),
    Published("BIS", 0.10, 65.46, 64.63, alpha=0.2),
    Published("BIS", 0.15, 64.98, 65.29),
    Published("BIS", 0.25, 64.84, None, alpha=0.02),
    Published("BIS", 0.25, 65.46, 65.53, alpha=0.05),
    Published("BIS", 0.25, 64.86, None, alpha=0.08),
    Published("BIS", 0.35, 64.98, 65.69),
    Published("BIS", 0.50, 65.00, 65.02),
    Published("Mixed", 0.25, 64.70, None),
    Published("Reliable", 0.25, 62.75, None),
    Published("LowMC", 0.25, 64.18, None),
)


def published_f1(config: Mapping[str, Any]) -> float | None:
    """The published overall macro-F1, a fraction, of a run with this config; None where there is none.

    Settings match by data set, benchmark, selector, ratio, alpha, labels (objective) and class of the backbone; recipe,
    seed and the weights that the backbone starts from are not looked at, but for a recipe of 0 epochs, which is the
    untrained backbone. The alpha of BIS is known for the ratios 0.10 and 0.25 only: at the others any alpha matches.
    """
    names = {
        group: str((config.get(group) or {}).get("_target_", "")).rpartition(".")[2]
        for group in ("dataset", "benchmark", "backbone", "selector", "objective")
    }
    place = {"InternVL": 0, "Qwen2_5_VL": 1}.get(names["backbone"])
    if (names["dataset"], names["benchmark"]) != ("VisualPRM400K", "VisualProcessBench") or place is None:
        return None
    if (config.get("recipe") or {}).get("epochs") == 0:
        return UNTRAINED[place] / 100
    selector, objective = config["selector"], config["objective"]
    tau = {"Hard": objective.get("tau"), "Soft": None}.get(names["objective"], math.nan)
    for one in TRAINED:
        same = one.selector == names["selector"] and selector.get("count") is None and _close(tau, one.tau)
        same &= _close(selector.get("ratio"), one.ratio)
        points = (one.internvl, one.qwen)[place]
        if same and (one.alpha is None or _close(selector.get("alpha"), one.alpha)) and points is not None:
            return points / 100
    return None


def _close(given: float | None, published: float | None) -> bool:
    if given is None or published is None:
        return given is published
    return math.isclose(given, published, abs_tol=1e-6)
