"""What a report says, before it is terminal text or HTML: headline, tables, numbers with intervals."""

from __future__ import annotations

from typing import Any

from mprm.metrics.results import Estimate as Estimate
from mprm.reporting.collect import RunRecord
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


def auc_words(results: dict[str, Any]) -> str:
    """The AUC with its interval, or '-' and why there is none: a ranking needs right and wrong steps."""
    if area := auc(results):
        return area.fraction()
    confusion = results.get("thresholds", {}).get("fixed", results)["confusion"]
    right, n = confusion["tp"] + confusion["fn"], sum(confusion.values())
    return f"- (all {n:,} labelled steps are {'correct' if right else 'incorrect'})"


def component(config: dict[str, Any] | None, group: str) -> str:
    """Class name of a component, e.g. BIS for selector; '' when the config does not say."""
    target = ((config or {}).get(group) or {}).get("_target_", "")
    return str(target).rsplit(".", 1)[-1]


def selector_words(config: dict[str, Any] | None) -> str:
    """The selector and the fields that set it apart, e.g. 'BIS (alpha 0.2)'; how much it kept is said beside it."""
    name = component(config, "selector")
    if not config or not name:
        return "The selector"
    alpha = config["selector"].get("alpha")
    return name if alpha is None else f"{name} (alpha {alpha})"


def kept_words(record: RunRecord) -> str | None:
    """'1,200 of 12,000 rollouts (10.0 %)'."""
    if record.manifest is None:
        return None
    totals = record.manifest["totals"]
    kept, candidates = totals["kept"]["rollouts"], totals["eligible"]["rollouts"]
    return f"{kept:,} of {candidates:,} rollouts ({100 * kept / max(candidates, 1):.1f} %)"


def baseline_f1(results: dict[str, Any]) -> dict[str, float]:
    """Overall macro-F1 of the baselines that see no step text, by readable name."""
    found = results.get("baselines") or {}
    return {words: found[name][OVERALL] for name, words in BASELINES.items() if found.get(name)}


def headline(record: RunRecord) -> str:
    """The run in two sentences."""
    kept = kept_words(record)
    text = f"{selector_words(record.config)} kept {kept}." if kept else "No subset has been selected yet."
    if record.results is None:
        return f"{text} There are no results yet: task=evaluate writes them."
    results = record.results
    f1, area = overall(results, MAIN), auc(results)
    reached = f"an overall macro-F1 of {f1.points()} at the {AT}" if f1 else "no overall macro-F1"
    if area:
        reached += f" and an AUC of {area.fraction()}"
    untrained = ((record.config or {}).get("recipe") or {}).get("epochs") == 0
    who = "untrained backbone" if untrained else "reward model trained on them" if kept else "reward model"
    text = f"{text} The {who} reaches {reached}" if kept else f"The {who} reaches {reached}"
    others = [f"{words} {100 * value:.1f}" for words, value in baseline_f1(results).items()]
    return f"{text}; for comparison, {' and '.join(others)}." if others else f"{text}."


def composition_table(record: RunRecord) -> Table | None:
    """Statistics of the eligible and the kept rollouts, as in Table 1 of arXiv 2602.04145."""
    if record.manifest is None:
        return None
    totals = record.manifest["totals"]
    rows = []
    for key, (label, form, scale) in COMPOSITION.items():
        values = [totals[group].get(key) for group in ("eligible", "kept")]
        rows.append((label, *("-" if value is None else form.format(value * scale) for value in values)))
    return Table("What the subset is made of", ("", "eligible", "kept"), tuple(rows))


def sources_table(record: RunRecord) -> Table | None:
    """Records, drops and kept rollouts of every annotation file."""
    if record.manifest is None:
        return None
    rows = [
        (
            name,
            *(f"{part[key]:,}" for key in ("records", "dropped", "eligible", "kept")),
            f"{100 * part['realised_ratio']:.2f}",
        )
        for name, part in record.manifest["sources"].items()
    ]
    columns = ("source", "records", "dropped", "eligible", "kept", "kept of eligible (%)")
    return Table("Rollouts by source", columns, tuple(rows))


def drops_table(record: RunRecord) -> Table | None:
    """Records that can not be trained on, by reason; None when there is no manifest or nothing was dropped."""
    dropped = (record.manifest or {}).get("dropped") or {}
    rows = tuple((reason, f"{count:,}") for reason, count in sorted(dropped.items(), key=lambda item: -item[1]))
    return Table("Records that can not be trained on", ("reason", "records"), rows) if rows else None


def skipped_table(results: dict[str, Any]) -> Table | None:
    """Benchmark records that could not be scored, by reason; None when all were."""
    rows = tuple((reason, f"{count:,}") for reason, count in (results.get("skipped") or {}).items() if count)
    return Table("Benchmark records that were not scored", ("reason", "records"), rows) if rows else None


def thresholds_table(results: dict[str, Any]) -> Table:
    """Both overall definitions at the three thresholds, then the baselines."""
    rows = []
    for name, words in THRESHOLDS.items():
        if part := results["thresholds"].get(name):
            numbers = [overall(results, name, key) for key in (OVERALL, POOLED)]
            rows.append((words, f"{part['threshold']:.3f}", *(n.points() if n else "-" for n in numbers)))
    for name, words in BASELINES.items():
        if part := (results.get("baselines") or {}).get(name):
            numbers = [estimate(part, key, part.get("intervals")) for key in (OVERALL, POOLED)]
            rows.append((f"baseline: {words}", "-", *(n.points() if n else "-" for n in numbers)))
    note = (
        "Macro-F1: mean of the F1 of correct and of incorrect steps, in points. Overall: mean over the sources, "
        "weighted by their labelled steps. Pooled: all steps in one table. Brackets: 95 % bootstrap over solutions. "
        "The calibrated threshold was chosen on training questions that were held out; the oracle one on the benchmark "
        "itself, so it flatters."
    )
    columns = ("threshold", "at", "overall macro-F1", "pooled macro-F1")
    return Table("Benchmark", columns, tuple(rows), note, THRESHOLDS[MAIN])


def per_source_table(results: dict[str, Any]) -> Table:
    """Macro-F1 and the F1 of both classes per source, at the main threshold."""
    numbers = results["thresholds"][MAIN]["per_source"]
    rows = tuple(
        (
            source,
            f"{numbers[source]['n']:,}",
            f1.points(),
            f"{100 * numbers[source]['f1_positive']:.1f}",
            f"{100 * numbers[source]['f1_negative']:.1f}",
        )
        for source, f1 in per_source(results, MAIN).items()
    )
    columns = ("source", "labelled steps", "macro-F1", "F1 correct", "F1 incorrect")
    return Table(f"Benchmark by source ({AT})", columns, rows)


def quality_table(results: dict[str, Any]) -> Table:
    """Quality of the scores themselves, and the size of the benchmark."""
    rows = [("AUC", auc_words(results))]
    for key, label in {"ece": "ECE (calibration error)", "brier": "Brier score"}.items():
        number = estimate(results, key)
        rows.append((label, number.fraction() if number else "-"))
    found = overall(results, "fixed", "first_error_accuracy")
    rows.append(("first error found at 0.5 (%)", found.points() if found else "-"))
    rows += [("solutions", f"{results['n_solutions']:,}"), ("labelled steps", f"{results['n_steps']:,}")]
    return Table("Scores and size", ("", "value"), tuple(rows), main="AUC")
