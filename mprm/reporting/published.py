"""Overall macro-F1 on VisualProcessBench as published in arXiv 2602.04145, one training each, no intervals.

The published number is that of the best threshold on the benchmark itself: compare it with F1 oracle, no other.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mprm.reporting.tables import component


class Published(NamedTuple):
    """One published training. alpha None: BIS with an alpha that we do not know, or another selector."""

    selector: str
    ratio: float
    internvl: float  # InternVL2.5-8B, points
    qwen: float | None  # Qwen2.5-VL-7B, points; None: not published
    alpha: float | None = None
    tau: float | None = 0.0  # hard labels: correct above tau; None: soft labels


UNTRAINED = Published("", 0.0, 52.28, 49.68)
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


def published_f1(config: dict[str, Any]) -> float | None:
    """The published overall macro-F1, a fraction, of a run with this config; None where there is none.

    Only for VisualPRM400K and VisualProcessBench. Settings match by selector, ratio, alpha, labels (objective) and
    class of the backbone; recipe, seed and the weights that the backbone starts from are not looked at, but for a
    recipe of 0 epochs, which is the untrained backbone. The alpha of BIS is known for the ratios 0.10 and 0.25
    only: at the other ratios any alpha matches.
    """
    backbone = component(config, "backbone")
    if component(config, "dataset") != "VisualPRM400K" or component(config, "benchmark") != "VisualProcessBench":
        return None
    untrained = (config.get("recipe") or {}).get("epochs") == 0
    for entry in (UNTRAINED,) if untrained else TRAINED:
        points = {"InternVL": entry.internvl, "Qwen2_5_VL": entry.qwen}.get(backbone)
        if points is not None and (untrained or _matches(entry, config)):
            return points / 100
    return None


def _matches(entry: Published, config: dict[str, Any]) -> bool:
    selector, objective = config["selector"], config["objective"]
    ratio = 1.0 if entry.selector == "Full" else selector.get("ratio")
    tau = objective.get("tau") if component(config, "objective") == "Hard" else None
    return (
        component(config, "selector") == entry.selector
        and selector.get("count") is None
        and _close(ratio, entry.ratio)
        and (entry.alpha is None or _close(selector.get("alpha"), entry.alpha))
        and (tau is None if entry.tau is None else _close(tau, entry.tau))
        and component(config, "objective") in ("Hard", "Soft")
    )


def _close(given: float | None, published: float) -> bool:
    return given is not None and math.isclose(given, published, abs_tol=1e-6)
