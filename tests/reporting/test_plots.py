from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
import pytest
from matplotlib.figure import Figure

from mprm.reporting import plots, tables
from mprm.reporting.bubbles import places
from mprm.reporting.collect import read_run
from mprm.reporting.style import PALETTE, inline_svg
from mprm.reporting.tables import Estimate


@pytest.fixture
def figures(run: Path) -> dict[str, Figure]:
    record = read_run(run)
    assert not [name for name, value in vars(record).items() if value is None]
    candidates = plots.eligible(record.signals)
    sources = tables.per_source(record.results, "fixed")
    return {
        "map": plots.bis_map(candidates, record.kept, 0.2),
        "histogram": plots.mc_histogram(candidates, record.kept),
        "learning": plots.learning_curve(record.metrics),
        "sources": plots.source_f1(Estimate(0.8, 0.78, 0.82), sources, {"majority class": 0.4}, "threshold 0.5"),
        "calibration": plots.calibration(*record.scored, 0.5, 15),
    }


def test_every_axes_has_title_and_labels(figures: dict[str, Figure]) -> None:
    for figure in figures.values():
        assert figure.axes
        for axes in figure.axes:
            assert axes.get_title(loc="left")
            assert axes.get_xlabel()
            assert axes.get_ylabel()


def test_drawing_leaves_the_settings_of_the_caller_alone(run: Path) -> None:
    record = read_run(run)
    before = dict(matplotlib.rcParams)
    inline_svg(plots.learning_curve(record.metrics), "a", "a")
    assert dict(matplotlib.rcParams) == before


def test_map_counts_every_rollout_once_as_kept_or_dropped() -> None:
    table = pa.table({"p_pos": [0.5, 0.5, 0.5, 1.0], "reliability": [0.25, 0.25, 0.75, 1.0]})
    cells = places(table, plots.GRID)
    assert cells.sum() == 4
    assert cells[20, 10] == 2
    assert cells[20, 30] == 1
    assert cells[40, 40] == 1
    kept, dropped = plots.bis_map(table, table.slice(1, 2), None).axes[0].collections
    assert kept.get_offsets().tolist() == [[0.5, 0.25], [0.5, 0.75]]
    assert dropped.get_offsets().tolist() == [[0.5, 0.25], [1.0, 1.0]]


def test_kept_and_dropped_differ_in_marker_as_well_as_colour(figures: dict[str, Figure]) -> None:
    kept, dropped = figures["map"].axes[0].collections[-2:]
    assert len(kept.get_paths()[0].vertices) != len(dropped.get_paths()[0].vertices)
    assert len(dropped.get_facecolor()) == 0


def test_score_lines_only_for_bis(figures: dict[str, Figure], run: Path) -> None:
    record = read_run(run)
    assert record.signals is not None
    without = plots.bis_map(plots.eligible(record.signals), record.kept, None)
    assert len(figures["map"].axes[0].collections) == len(without.axes[0].collections) + 1


def test_series_leaves_out_lines_without_a_finite_value() -> None:
    rows = [
        {"step": 1, "a": 2.0},
        {"step": 2},
        {"step": 3, "a": float("nan")},
        {"step": 4, "a": None},
        {"step": 5, "a": 1},
    ]
    steps, values = plots.series(rows, "a")
    assert steps.tolist() == [1, 5]
    assert values.tolist() == [2, 1]


def test_smooth_is_a_running_mean_that_shrinks_at_the_ends() -> None:
    values = np.arange(40.0) ** 2
    smooth = plots.smooth(values)  # half window 40 // 40 = 1
    assert smooth[0] == pytest.approx((0 + 1) / 2)
    assert smooth[10] == pytest.approx((81 + 100 + 121) / 3)
    assert smooth[39] == pytest.approx((38**2 + 39**2) / 2)
    assert plots.smooth(values[:20]).tolist() == values[:20].tolist()


def test_calibration_bins_by_hand() -> None:
    correct = np.array([True, False, True, False])
    scores = np.array([0.91, 0.93, 1.0, 0.2])
    score, share, count = plots.calibration_bins(correct, scores, 10)
    assert score.tolist() == pytest.approx([0.2, (0.91 + 0.93 + 1.0) / 3])
    assert share.tolist() == pytest.approx([0, 2 / 3])
    assert count.tolist() == [1, 3]


def test_source_rows_are_sorted_with_overall_apart(figures: dict[str, Figure]) -> None:
    axes = figures["sources"].axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["Overall", "bars_sum", "bars_diff", "pie_share"]
    assert [text.get_text() for text in axes.texts] == ["80.0", "77.0", "80.0", "83.0"]


def test_one_run_of_one_step_can_be_drawn() -> None:
    figure = plots.learning_curve([{"step": 1, "train/loss": 0.7}])
    assert len(figure.axes[0].lines) == 2
    assert len(figure.axes[1].lines) == 0


def test_inline_svg_follows_the_page(figures: dict[str, Figure]) -> None:
    for name, figure in figures.items():
        svg = inline_svg(figure, name, 'says "<b>"')
        assert svg.startswith("<svg ")
        assert 'role="img" aria-label="says &quot;&lt;b&gt;&quot;"' in svg
        assert "var(--ink)" in svg
        assert not any(light in svg for light, _ in PALETTE.values())
        assert "http" not in svg.replace("http://www.w3.org/", "")
