from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mprm.reporting.compare import Comparison, Row, compare, run_folders
from mprm.reporting.overview import comparison_figure, ratio_exhibit, settings_exhibit
from mprm.reporting.tables import Estimate

MakeRow = Callable[..., Row]


def test_every_setting_is_a_named_dot_and_the_best_is_marked(many_runs: Path) -> None:
    comparison = compare(run_folders(many_runs))
    axes = comparison_figure(comparison).axes
    assert [one.get_title(loc="left") for one in axes] == [
        "AUC",
        "Overall macro-F1 at 0.5",
        "Overall macro-F1, calibrated",
    ]
    assert all(one.get_xlabel() for one in axes)
    names = [label.get_text() for label in axes[0].get_yticklabels()]
    assert names == [row.label for row in reversed(comparison.rows)]
    assert [text.get_text() for text in axes[0].texts if "best" in text.get_text()] == ["0.900 best"]


def test_without_calibrated_thresholds_there_is_no_panel_for_them(many_runs: Path) -> None:
    comparison = compare(run_folders(many_runs))
    rows = tuple(replace(row, f1_calibrated=None) for row in comparison.rows)
    labels = [axes.get_xlabel() for axes in comparison_figure(replace(comparison, rows=rows)).axes]
    assert len(labels) == 2
    assert not any("calibrated" in label for label in labels)


def test_the_text_alternative_says_every_number(make_row: MakeRow) -> None:
    rows = (make_row("Full", 1.0, 0.9), make_row("BIS", 0.1, 0.85, alpha=0.2))
    says = settings_exhibit(Comparison(rows, {})).says
    assert "Full: AUC 0.900, Overall macro-F1 at 0.5 80.0" in says
    assert "BIS, alpha 0.2, 10 %: AUC 0.850, Overall macro-F1 at 0.5 75.0" in says


def test_lines_join_what_differs_in_the_ratio_alone(make_row: MakeRow) -> None:
    rows = (
        make_row("Full", 1.0, 0.9),
        *(make_row("BIS", ratio, 0.8 + ratio / 10, alpha=alpha) for alpha in (0.1, 0.2) for ratio in (0.5, 0.05)),
        make_row("Mixed", 0.05, 0.7),
    )
    exhibit = ratio_exhibit(rows)
    assert exhibit is not None
    axes = exhibit.figure.axes[0]
    lines = {str(line.get_label()): line for line in axes.lines}
    assert list(lines) == ["Full", "BIS, alpha 0.1", "BIS, alpha 0.2", "Mixed"]
    assert list(lines["BIS, alpha 0.2"].get_ydata()) == pytest.approx([0.805, 0.85])
    assert lines["BIS, alpha 0.1"].get_linestyle() != lines["BIS, alpha 0.2"].get_linestyle()
    assert axes.get_xscale() == "log"
    assert "AUC of BIS, alpha 0.1: 5 % 0.805, 50 % 0.850." in exhibit.says


@pytest.mark.parametrize(("ratios", "scale"), [((0.1, 0.5), "linear"), ((0.1, 0.51), "log")])
def test_the_axis_is_logarithmic_where_ratios_span_more_than_five(
    make_row: MakeRow, ratios: tuple[float, ...], scale: str
) -> None:
    exhibit = ratio_exhibit(tuple(make_row("Random", ratio) for ratio in ratios))
    assert exhibit is not None
    assert exhibit.figure.axes[0].get_xscale() == scale


def test_a_wide_interval_is_cut_and_a_mean_never(make_row: MakeRow) -> None:
    rows = (make_row("Random", 0.1, auc=0.7), make_row("Random", 0.2, auc=0.8))
    rows = (replace(rows[0], auc=Estimate(0.7, -2.0, 3.0)), rows[1])
    exhibit = ratio_exhibit(rows)
    assert exhibit is not None
    assert exhibit.figure.axes[0].get_ylim() == pytest.approx((0.67, 0.83))


def test_one_ratio_is_no_line(make_row: MakeRow) -> None:
    assert ratio_exhibit((make_row("Full", 1.0), make_row("BIS", 0.1, alpha=0.2), make_row("Random", 0.1))) is None


def test_ratios_of_runs_without_a_number_are_no_error(make_row: MakeRow) -> None:
    exhibit = ratio_exhibit((make_row("Random", 0.1, None), make_row("Random", 0.2, None)))
    assert exhibit is not None
