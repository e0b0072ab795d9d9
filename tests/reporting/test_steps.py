"""The report of a step scorer (steps.py), and of what it was trained on (selection.py)."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from mprm.metrics.evaluate import evaluate
from mprm.metrics.predictions import read_predictions
from mprm.metrics.results import Estimate, write_results
from mprm.reporting.report import Report, Table, Text, html
from mprm.reporting.run_record import RunRecord, read_run
from mprm.reporting.selection import GRID, bis_map, compared_subsets, map_figure, places
from mprm.reporting.steps import calibration_bins, headline, print_run, step_report, write_report


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., Path]) -> RunRecord:
    """A finished run. Read only."""
    return read_run(make_run(tmp_path_factory.mktemp("written") / "runs" / "bis-demo"))


def figures(report: Report) -> list[str]:
    return [figure.name for figure in report.figures]


def tables(report: Report) -> dict[str, dict[str, tuple[str, ...]]]:
    """Title -> name of the row -> its cells."""
    return {one.title: {row[0]: row[1:] for row in one.rows} for one in report.shown if isinstance(one, Table)}


def test_the_page_has_every_figure_in_words_too(record: RunRecord) -> None:
    report = step_report(record)
    assert figures(report) == ["calibration", "learning", "map"]
    assert all(len(figure.alt) > 40 for figure in report.figures)
    for figure in report.figures:
        for axes in figure.drawing.axes:
            assert axes.get_title(loc="left")
            assert axes.get_xlabel()
            assert axes.get_ylabel()
    page = write_report(record.folder).read_text()
    assert page.count("<svg ") == 3
    assert "Command that repeats this run" in page
    assert "-cn config task=experiment runs=again" in page
    assert "torch" in page


def test_the_tables_hold_the_numbers_of_the_results(record: RunRecord) -> None:
    found, results = tables(step_report(record)), record.results
    assert results
    benchmark = found["Benchmark"]
    for words, at in (
        ("fixed", results.thresholds["fixed"]),
        ("calibrated on held-out questions", results.thresholds["calibrated"]),
        ("oracle (optimistic)", results.thresholds["oracle"]),
        ("baseline: majority class", results.baselines["majority"]),
        ("baseline: position only", results.baselines["position_only"]),
    ):
        assert benchmark[words][1:] == (at.overall_step_weighted_macro_f1.points(), at.pooled_macro_f1.points())
    assert benchmark["calibrated on held-out questions"][0] == "0.430"
    by_source = results.thresholds["fixed"].per_source
    assert {name: row[1] for name, row in found["Benchmark by source (threshold 0.5)"].items()} == {
        name: part.macro_f1.points() for name, part in by_source.items()
    }
    assert found["Scores and size"] == {
        "AUC": ("0.893 [0.882, 0.904]",),
        "ECE (calibration error)": ("0.071",),
        "Brier score": ("0.123",),
        "first error found at 0.5 (%)": ("61.2 [58.2, 64.2]",),
        "solutions": ("120",),
        "labelled steps": ("903",),
    }
    assert found["What the subset is made of"]["mixed rollouts (%)"] == ("7.67", "43.21")
    assert found["Records that cannot be trained on"] == {"records": ("no_steps", "20")}


def test_the_headline_says_what_was_found(record: RunRecord) -> None:
    assert headline(record) == (
        "BIS (alpha 0.2) kept 98 of 980 rollouts (10.0 %). The reward model trained on them reaches an "
        "overall macro-F1 of 80.0 [78.5, 81.5] at the threshold 0.5 and an AUC of 0.893 [0.882, 0.904]; "
        "for comparison, majority class 41.2 and position only 55.1."
    )
    untrained = replace(record, config=(record.config or {}) | {"recipe": {"epochs": 0}})
    assert "The untrained backbone reaches an overall macro-F1" in headline(untrained)
    assert headline(replace(record, results=None)).endswith("There are no results yet: task=evaluate writes them.")
    assert headline(replace(record, manifest=None)).startswith("The reward model reaches an overall macro-F1 of 80.0")


def test_what_is_undefined_is_a_dash(record: RunRecord) -> None:
    results = record.results
    assert results
    fixed = results.thresholds["fixed"]
    sources = fixed.per_source | {"bars_sum": replace(fixed.per_source["bars_sum"], macro_f1=Estimate(0.77))}
    fixed = replace(fixed, auc=None, per_source=sources)
    thresholds = {name: at for name, at in results.thresholds.items() if name != "calibrated"} | {"fixed": fixed}
    undefined = replace(results, auc=None, ece=None, brier=None, thresholds=thresholds)
    report = step_report(replace(record, results=undefined))
    found = tables(report)
    assert found["Scores and size"]["AUC"][0].startswith("- (all 903 labelled steps are")
    assert found["Benchmark by source (threshold 0.5)"]["bars_sum"] == ("300", "77.0", "90.0", "70.0")
    assert "calibrated on held-out questions" not in found["Benchmark"]
    assert "calibration" not in figures(report)


def test_results_as_the_evaluation_writes_them(run: Path) -> None:
    predictions = read_predictions(run / "predictions.jsonl")
    results = evaluate(predictions, predictions[:30], seed=0, resamples=50)
    write_results(run / "results.json", results)
    record = read_run(run)
    found = tables(step_report(record))
    assert found["Benchmark"]["oracle (optimistic)"][1] == (
        results.thresholds["oracle"].overall_step_weighted_macro_f1.points()
    )
    assert record.scored
    score, share, count = calibration_bins(*record.scored, results.ece_bins)
    assert float(np.abs(score - share) @ count / count.sum()) == pytest.approx(results.ece)


def test_calibration_bins_by_hand() -> None:
    correct, scores = np.array([True, False, True, False]), np.array([0.91, 0.93, 1.0, 0.2])
    score, share, count = calibration_bins(correct, scores, 10)
    assert score.tolist() == pytest.approx([0.2, (0.91 + 0.93 + 1.0) / 3])
    assert share.tolist() == pytest.approx([0, 2 / 3])
    assert count.tolist() == [1, 3]


def test_an_unfinished_run_shows_what_it_has(record: RunRecord) -> None:
    for gone, shown in (
        (("results", "scored"), ["learning", "map"]),
        (("metrics",), ["calibration", "map"]),
        (("kept",), ["calibration", "learning"]),
        (("signals",), ["calibration", "learning"]),
        (("manifest",), ["calibration", "learning"]),
        (("config", "versions"), ["calibration", "learning", "map"]),
        (("config", "versions", "manifest", "results", "scored", "metrics"), []),
    ):
        report = step_report(replace(record, **dict.fromkeys(gone)))
        assert figures(report) == shown, gone
        notes = [one.lines for one in report.shown if isinstance(one, Text) and one.title == "No BIS map"]
        assert bool(notes) == (gone in (("kept",), ("signals",)))


def test_hostile_texts_are_escaped(record: RunRecord) -> None:
    hostile = "</pre><script>alert('x')</script>\"&"
    assert record.results
    fixed = record.results.thresholds["fixed"]
    sources = {hostile if name == "bars_sum" else name: part for name, part in fixed.per_source.items()}
    thresholds = record.results.thresholds | {"fixed": replace(fixed, per_source=sources)}
    results = replace(record.results, thresholds=thresholds, skipped={hostile: 2})
    page = html(step_report(replace(record, results=results, folder=Path(hostile), config={"a": hostile})))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_terminal_says_the_headline_and_the_tables(record: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    buffer = io.StringIO()
    print_run(record, Console(file=buffer, width=100))
    shown = buffer.getvalue()
    assert shown.startswith("bis-demo ─")
    for text in (
        "98 of 980 rollouts",
        "81.0 [79.5, 82.5]",
        "0.893 [0.882, 0.904]",
        "baseline: position only",
        "bars_diff",
    ):
        assert text in shown
    assert "Macro-F1: mean" not in shown, "notes are the page's"
    assert max(map(len, shown.splitlines())) <= 100


def test_an_empty_run_prints(tmp_path: Path) -> None:
    buffer = io.StringIO()
    print_run(read_run(tmp_path), Console(file=buffer, width=100))
    assert "No subset has been selected yet" in buffer.getvalue()


# ---- what was selected


def test_the_map_counts_every_rollout_once_as_kept_or_dropped() -> None:
    table = pa.table({"p_pos": [0.5, 0.5, 0.5, 1.0], "reliability": [0.25, 0.25, 0.75, 1.0]})
    counts = places(table)
    assert (counts.sum(), counts[GRID // 2, GRID // 4], counts[GRID, GRID]) == (4, 2, 1)
    axes = bis_map(counts, places(table.slice(1, 2))).axes[0]
    kept, dropped = (one.get_offsets().tolist() for one in axes.collections if len(one.get_offsets()) > 1)
    assert kept == [[0.5, 0.25], [0.5, 0.75]]
    assert dropped == [[0.5, 0.25], [1.0, 1.0]]
    markers = [len(one.get_paths()[0].vertices) for one in axes.collections]
    assert markers[0] != markers[2], "not by colour alone"


def test_lines_of_equal_score_are_drawn_only_where_they_are_the_score(record: RunRecord) -> None:
    def lines(one: RunRecord) -> bool:
        figure = map_figure(one)
        assert figure
        return any("equal score" in str(line.get_label()) for line in figure.drawing.axes[0].lines)

    assert lines(record)
    assert record.kept is not None
    place = record.kept.column_names.index("score")
    other = record.kept.set_column(place, "score", pa.array(np.arange(record.kept.num_rows, dtype=np.float64)))
    assert not lines(replace(record, kept=other)), "another selector that has an alpha"


def test_settings_that_kept_the_same_share_a_row(many_runs: Path) -> None:
    # The invented selections of Random and Mixed are the same, and at 5 % those of both alphas.
    folders = sorted(path for path in many_runs.iterdir() if path.name.endswith("-0"))
    table = compared_subsets((folder.name.removesuffix("-0"), folder) for folder in folders)
    assert table is not None
    assert [row[0] for row in table.rows] == [
        "all eligible",
        "bis-0.05-0.05 (and 1 more)",
        "bis-0.05-0.5",
        "bis-0.2-0.5",
        "full",
        "mixed-0.05 (and 1 more)",
        "mixed-0.5 (and 1 more)",
    ]
    assert "mixed-0.05 (and 1 more): random-0.05." in table.note
    assert table.rows[0][1:] == ("392", "1,960", "5.62", "27.8", "3.57", "7.67", "0.8566")
    assert compared_subsets([]) is None
