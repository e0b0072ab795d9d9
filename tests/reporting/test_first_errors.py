"""The table of first errors, of results as an evaluation makes them."""

from pathlib import Path

from mprm.metrics.evaluate import evaluate
from mprm.metrics.predictions import Prediction, write_predictions
from mprm.metrics.results import write_results
from mprm.reporting.dashboard import numbers
from mprm.reporting.first_errors import first_errors_table
from mprm.reporting.run_record import read_run
from mprm.reporting.steps import step_report

SOLUTIONS = [
    Prediction("0", "gsm8k", (1, -1, 0), (0.9, 0.2, 0.9)),  # found
    Prediction("1", "gsm8k", (1, 1), (0.9, 0.8)),  # accepted
    Prediction("2", "math", (-1, 0), (0.9, 0.1)),  # too late
]


def test_a_row_for_every_threshold_and_source() -> None:
    results = evaluate(SOLUTIONS, SOLUTIONS, resamples=5)
    table = first_errors_table(results)
    assert table is not None
    rows = {row[0]: row[1:] for row in table.rows}
    assert [name for name in rows if name.startswith("mean")] == [
        "mean, fitted threshold",
        "mean, at 0.5",
        "mean, optimistic threshold",
        "mean, majority class",
        "mean, position only",
    ]
    assert rows["mean, at 0.5"][1].startswith("100.0")
    assert all(len(row) == len(table.columns) for row in table.rows)
    found = results.main.first_errors.per_source["math"]
    assert rows["math"] == (f"{results.main.threshold:.3f}", "-", found.found.points(), "-", "1", "0")


def test_another_benchmark_has_no_such_table() -> None:
    judged_on = [*SOLUTIONS, Prediction("3", "math", (-1, 1), (0.9, 0.1))]
    assert first_errors_table(evaluate(judged_on, None, resamples=5)) is None


def test_it_stands_in_the_page_and_among_the_numbers(tmp_path: Path) -> None:
    results = evaluate(SOLUTIONS, SOLUTIONS, resamples=5)
    write_results(tmp_path / "results.json", results)
    write_predictions(tmp_path / "predictions.jsonl", SOLUTIONS)
    record = read_run(tmp_path)
    assert first_errors_table(results) in step_report(record).sections
    assert numbers(record, {})["benchmark/first_error_f1_fixed"] == 1.0
