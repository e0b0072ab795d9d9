"""First errors, as ProcessBench counts them: of benchmarks that judge solutions up to their first wrong step."""

from __future__ import annotations

from mprm.metrics.estimate import points
from mprm.metrics.results import StepResults, ThresholdResults
from mprm.reporting.report import Table

AT = {"fitted": "mean, fitted threshold", "fixed": "mean, at 0.5", "optimistic": "mean, optimistic threshold"}
BASELINES = {"majority": "mean, majority class", "position_only": "mean, position only"}
NOTE = (
    "F1: harmonic mean of the share of the solutions with a wrong step in which it is the first that is rejected, and "
    "of the share of the others in which none is; mean: over the sources, as published. Wrong and right: solutions."
)


def first_errors_table(results: StepResults) -> Table | None:
    """The mean F1 at every threshold and of the baselines, then every source at the main threshold; None for another
    kind of benchmark."""
    main = results.main.first_errors
    if main is None:
        return None
    rows = [_mean(words, results.thresholds.get(name)) for name, words in AT.items()]
    rows += [_mean(words, results.baselines[name]) for name, words in BASELINES.items()]
    for name, part in main.per_source.items():
        shares, solutions = map(points, (part.f1, part.found, part.accepted)), (part.n_wrong, part.n_right)
        rows.append((name, f"{results.main.threshold:.3f}", *shares, *(f"{n:,}" for n in solutions)))
    columns = ("", "threshold", "F1", "errors found (%)", "right accepted (%)", "wrong", "right")
    return Table("First errors (ProcessBench)", columns, tuple(row for row in rows if row), NOTE)


def _mean(words: str, part: ThresholdResults | None) -> tuple[str, ...]:
    if part is None or part.first_errors is None:
        return ()
    return (words, f"{part.threshold:.3f}", points(part.first_errors.f1), *["-"] * 4)
