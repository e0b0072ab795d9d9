"""The report of a step scorer (steps.py), and of what it was trained on (selection.py)."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.figure import Figure as Drawing
from rich.console import Console

from mprm.metrics.evaluate import evaluate
from mprm.metrics.predictions import Prediction, read_predictions
from mprm.metrics.results import Estimate, write_results
from mprm.metrics.step_metrics import labelled_steps
from mprm.reporting.report import Report, Table, Text, html
from mprm.reporting.run_record import RunRecord, read_run
from mprm.reporting.selection import GRID, bis_map, compared_subsets, map_figure, places
from mprm.reporting.steps import (
    Scored,
    calibration_bins,
    headline,
    print_run,
    step_report,
    threshold_figure,
    write_report,
)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., Path]) -> RunRecord:
    """A finished run. Read only."""
    return read_run(make_run(tmp_path_factory.mktemp("written") / "runs" / "bis-demo"))


OF_SCORES = ("thresholds", "calibration")


def figures(report: Report) -> list[str]:
    return [figure.name for figure in report.figures]


def tables(report: Report) -> dict[str, dict[str, tuple[str, ...]]]:
    """Title -> name of the row -> its cells."""
    return {one.title: {row[0]: row[1:] for row in one.rows} for one in report.shown if isinstance(one, Table)}


def test_the_page_has_every_figure_in_words_too(record: RunRecord) -> None:
    report = step_report(record)
    assert figures(report) == ["thresholds", "calibration", "learning", "map"]
    assert all(len(figure.alt) > 40 for figure in report.figures)
    for figure in report.figures:
        for axes in figure.drawing.axes:
            assert axes.get_title(loc="left")
            assert axes.get_xlabel()
            assert axes.get_ylabel()
    page = write_report(record.folder).read_text()
    assert page.count("<svg ") == 4
    assert "Command that repeats this run" in page
    assert "-cn config task=experiment runs=again" in page
    assert "torch" in page


def test_the_tables_hold_the_numbers_of_the_results(record: RunRecord) -> None:
    found, results = tables(step_report(record)), record.results
    assert results
    others = results.baselines.values()
    f1 = {name: at.overall_step_weighted_macro_f1.points() for name, at in results.thresholds.items()}
    assert found["Benchmark"] == {
        "AUC": (*["0.893 [0.882, 0.904]"] * 3, "-"),
        "F1 at the fitted threshold": (
            *(f1["fitted"], *(at.overall_step_weighted_macro_f1.points() for at in others)),
            "0.430",
        ),
        "F1 at 0.5": (f1["fixed"], "-", "-", "0.500"),
        "optimistic F1": (f1["optimistic"], "-", "-", "0.471"),
        "F1, all sources pooled": (*(at.pooled_macro_f1.points() for at in (results.main, *others)), "0.430"),
        "first errors found (%)": (*["61.2 [58.2, 64.2]"] * 3, "0.430"),
        "average precision of wrong steps": ("0.700 [0.685, 0.715]", "-", "-", "-"),
        "ECE (calibration error)": ("0.071", "-", "-", "-"),
        "Brier score": ("0.123", "-", "-", "-"),
        "solutions": ("120", "-", "-", "-"),
        "labelled steps": ("903", "-", "-", "-"),
    }
    by_source = results.main.per_source
    assert {name: row[1] for name, row in found["Benchmark by source (threshold 0.430)"].items()} == {
        name: part.macro_f1.points() for name, part in by_source.items()
    }
    assert found["What the subset is made of"]["mixed rollouts (%)"] == ("7.67", "43.21")
    assert found["Rollouts without a wrong step"] == {
        "rollouts": ("490", "49"),
        "steps per rollout": ("5.00", "3.00"),
        "words in the question": ("20.0", "20.0"),
        "steps that were never sampled (%)": ("1.00", "1.00"),
        "rollouts that share a score (median)": ("-", "7"),
        "from all_bars (%)": ("100.0", "100.0"),
    }
    (easier,) = [one.lines for one in step_report(record).shown if one.title == "Before any training"]
    assert easier == [record.manifest.easier_words()]
    assert easier[0].startswith("The subset is easier than its corpus: ")
    assert found["Rollouts by source"] == {"all_bars": ("1,000", "20", "980", "98", "10.00")}
    assert found["Records that cannot be trained on"] == {"records": ("no_steps", "20")}


def test_the_headline_says_what_was_kept_and_reached(record: RunRecord) -> None:
    assert headline(record) == (
        "On the 98 of 980 rollouts (10.0 %) that BIS (alpha 0.2) kept, this training reaches an AUC of 0.893 [0.882, "
        "0.904] and an overall macro-F1 of 80.0 [78.5, 81.5] at the threshold fitted to held-out rollouts; for "
        "comparison, majority class 41.2 and position only 55.1."
    )
    untrained = replace(record, config=(record.config or {}) | {"recipe": {"epochs": 0}})
    assert "kept, the untrained backbone reaches an AUC" in headline(untrained)
    assert headline(replace(record, results=None)) == (
        "BIS (alpha 0.2) kept 98 of 980 rollouts (10.0 %). There are no results yet: task=evaluate writes them."
    )
    assert headline(replace(record, manifest=None)).startswith("The reward model reaches an AUC of 0.893")
    assert record.results
    rest = {name: at for name, at in record.results.thresholds.items() if name != "fitted"}
    without = replace(record, results=replace(record.results, thresholds=rest))
    assert "79.0 [77.5, 80.5] at the threshold 0.5, for want of held-out rollouts; for" in headline(without)


def test_what_is_undefined_is_a_dash(record: RunRecord) -> None:
    results = record.results
    assert results
    fixed = results.thresholds["fixed"]
    sources = fixed.per_source | {"bars_sum": replace(fixed.per_source["bars_sum"], macro_f1=Estimate(0.77))}
    fixed = replace(fixed, auc=None, per_source=sources)
    thresholds = {name: at for name, at in results.thresholds.items() if name != "fitted"} | {"fixed": fixed}
    undefined = replace(results, auc=None, average_precision=None, ece=None, brier=None, thresholds=thresholds)
    report = step_report(replace(record, results=undefined))
    found = tables(report)
    assert found["Benchmark"]["AUC"][0].startswith("- (all 903 labelled steps are")
    assert found["Benchmark by source (threshold 0.500)"]["bars_sum"] == ("300", "77.0", "89.0", "69.0")
    assert "F1 at the fitted threshold" not in found["Benchmark"]
    assert not {"calibration", "thresholds"} & set(figures(report))


def test_results_as_the_evaluation_writes_them(run: Path) -> None:
    predictions = read_predictions(run / "predictions.jsonl")
    results = evaluate(predictions, predictions[:30], resamples=50)
    write_results(run / "results.json", results)
    record = read_run(run)
    found = tables(step_report(record))
    assert found["Benchmark"]["optimistic F1"][0] == (
        results.thresholds["optimistic"].overall_step_weighted_macro_f1.points()
    )
    assert record.predictions
    steps = labelled_steps(record.predictions)
    score, share, count = calibration_bins(steps.right_N, steps.scores_N, results.ece_bins)
    assert float(np.abs(score - share) @ count / count.sum()) == pytest.approx(results.ece)


def test_calibration_bins_by_hand() -> None:
    correct, scores = np.array([True, False, True, False]), np.array([0.91, 0.93, 1.0, 0.2])
    score, share, count = calibration_bins(correct, scores, 10)
    assert score.tolist() == pytest.approx([0.2, (0.91 + 0.93 + 1.0) / 3])
    assert share.tolist() == pytest.approx([0, 2 / 3])
    assert count.tolist() == [1, 3]


def test_an_unfinished_run_shows_what_it_has(record: RunRecord) -> None:
    for gone, shown in (
        (("results", "predictions"), ["learning", "map"]),
        (("metrics",), [*OF_SCORES, "map"]),
        (("kept",), [*OF_SCORES, "learning"]),
        (("signals",), [*OF_SCORES, "learning"]),
        (("manifest",), [*OF_SCORES, "learning"]),
        (("config", "versions"), [*OF_SCORES, "learning", "map"]),
        (("config", "versions", "manifest", "results", "predictions", "metrics"), []),
    ):
        report = step_report(replace(record, **dict.fromkeys(gone)))
        assert figures(report) == shown, gone
        notes = [one.lines for one in report.shown if isinstance(one, Text) and one.title == "No BIS map"]
        assert bool(notes) == (gone in (("kept",), ("signals",)))


def test_hostile_texts_are_escaped(record: RunRecord) -> None:
    hostile = "</pre><script>alert('x')</script>\"&"
    assert record.results
    fixed = record.results.main
    sources = {hostile if name == "bars_sum" else name: part for name, part in fixed.per_source.items()}
    thresholds = record.results.thresholds | {"fitted": replace(fixed, per_source=sources)}
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
        "80.0 [78.5, 81.5]",
        "0.893 [0.882, 0.904]",
        "position only",
        "bars_diff",
    ):
        assert text in shown
    assert "F1: mean" not in shown, "notes are the page's"
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


# ---- F1 against the threshold


def scored(shift: float) -> Scored:
    """Two hundred steps whose log odds are shifted: the same ranking at another threshold."""
    rng = np.random.default_rng(0)
    predictions = []
    for number in range(40):
        labels = np.where(rng.random(5) < 0.3, -1, 1)
        scores = 1 / (1 + np.exp(-(labels + rng.normal(0, 1, 5) + shift)))
        predictions.append(Prediction(str(number), "s", tuple(labels.tolist()), tuple(scores.tolist())))
    return Scored(labelled_steps(predictions), evaluate(predictions, predictions, resamples=10).thresholds)


def test_the_same_ranking_is_the_same_line_elsewhere(assert_readable: Callable[[Drawing], None]) -> None:
    lines = {"low": [scored(0.0)], "high": [scored(3.0)]}
    looks = {"low": {"color": "#000000", "marker": "o"}, "high": {"color": "#888888", "marker": "s"}}
    figure = threshold_figure(lines, looks, {"majority class": 41.2})
    axes = figure.drawing.axes[0]
    drawn = {str(line.get_label()): line for line in axes.lines}
    low, high = (np.asarray(drawn[name].get_ydata()) for name in lines)
    assert max(low) == pytest.approx(max(high), abs=1.5)
    at_half = int(np.abs(np.asarray(drawn["low"].get_xdata())).argmin())
    assert low[at_half] > high[at_half] + 10, "at 0.5 the shifted one looks worse"
    assert list(drawn["threshold 0.5"].get_xdata()) == [0, 0]
    assert list(drawn["majority class"].get_ydata()) == [41.2, 41.2]
    for name, (one,) in lines.items():
        # The marker stands at the fitted threshold, on the line.
        x, y = (np.asarray(values) for values in drawn[name].get_data())
        (mark,) = drawn[name].get_markevery()
        assert y[mark] == pytest.approx(100 * one.f1("fitted"), abs=1.5)
        assert 1 / (1 + np.exp(-x[mark])) == pytest.approx(one.thresholds["fitted"].threshold, abs=0.03)
        assert f"{name}: {100 * one.f1('fixed'):.1f} at 0.5, {100 * one.f1('fitted'):.1f} at the fitted" in figure.alt
    assert_readable(figure.drawing)
