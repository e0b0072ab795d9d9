"""What a report says, before it is terminal text or HTML: headline, tables, numbers with intervals."""

from __future__ import annotations

from typing import Any

from mprm.metrics.results import Estimate as Estimate
from mprm.reporting.report import Table as Table

OVERALL = "overall_step_weighted_macro_f1"
POOLED = "pooled_macro_f1"

MAIN = "fixed"  # the threshold that every headline, table by source and figure speaks of: it needs no data of ours
AT = "threshold 0.5"
THRESHOLDS = {
    "fixed": "fixed",
    "calibrated": "calibrated on held-out questions",
    "oracle": "oracle (optimistic)",
}
BASELINES = {"majority": "majority class", "position_only": "position only"}
COMPOSITION = {
    "rollouts": ("rollouts", "{:,.0f}", 1),
    "steps": ("steps", "{:,.0f}", 1),
    "steps_per_rollout": ("steps per rollout", "{:.2f}", 1),
    "words_per_step": ("words per step", "{:.1f}", 1),
    "error_step_share": ("error steps (%)", "{:.2f}", 100),
    "mixed_share": ("mixed rollouts (%)", "{:.2f}", 100),
    "mean_mc": ("mean MC score", "{:.4f}", 1),
}


def estimate(part: dict[str, Any], key: str, intervals: dict[str, Any] | None = None) -> Estimate | None:
    """part[key] with the interval of the same name; None when the number is not there or undefined (one class only)."""
    value = part.get(key)
    if value is None:
        return None
    low, high = (intervals or {}).get(key) or (None, None)
    return Estimate(value, low, high)


def overall(results: dict[str, Any], threshold: str, key: str = OVERALL) -> Estimate | None:
    """An overall number at one of the thresholds, with its interval."""
    part = results["thresholds"].get(threshold)
    return estimate(part, key, part.get("intervals")) if part else None


def per_source(results: dict[str, Any], threshold: str) -> dict[str, Estimate]:
    """Macro-F1 of every source at one of the thresholds."""
    part = results["thresholds"][threshold]
    intervals = (part.get("intervals") or {}).get("per_source") or {}
    return {
        source: Estimate(numbers["macro_f1"], *(intervals.get(source) or (None, None)))
        for source, numbers in part["per_source"].items()
    }


def auc(results: dict[str, Any]) -> Estimate | None:
    """Area under the ROC curve over all labelled steps."""
    return estimate(results, "auc", results.get("intervals"))


def component(config: dict[str, Any] | None, group: str) -> str:
    """Class name of a component, e.g. BIS for selector; '' when the config does not say."""
    target = ((config or {}).get(group) or {}).get("_target_", "")
    return str(target).rsplit(".", 1)[-1]


def baseline_f1(results: dict[str, Any]) -> dict[str, float]:
    """Overall macro-F1 of the baselines that see no step text, by readable name."""
    found = results.get("baselines") or {}
    return {words: found[name][OVERALL] for name, words in BASELINES.items() if found.get(name)}
