from pathlib import Path

import pytest

from mprm.reporting.compare import compare, run_folders
from mprm.reporting.sources import by_source, sources_exhibit, sources_table


def test_every_source_is_the_mean_over_seeds(many_runs: Path) -> None:
    rows = compare(run_folders(many_runs)).rows
    points = [(row, by_source(row)) for row in rows]
    # Full: F1 0.8 in both seeds, its sources 3 points below, at and above it
    assert points[0][1] == {
        "bars_sum": pytest.approx([77, 77]),
        "bars_diff": pytest.approx([80, 80]),
        "pie_share": pytest.approx([83, 83]),
    }
    table = sources_table(points)
    assert table.columns == ("setting", "overall", "bars_sum", "bars_diff", "pie_share")
    assert table.rows[0] == ("Full", "80.0", "77.0", "80.0", "83.0")
    exhibit = sources_exhibit(points)
    assert exhibit is not None
    assert [axes.get_title(loc="left") for axes in exhibit.figure.axes] == ["bars_sum", "bars_diff", "pie_share"]
    assert [text.get_text() for axes in exhibit.figure.axes for text in axes.texts] == ["77.0", "80.0", "83.0"]
    assert "pie_share: Full 83.0" in exhibit.says


def test_a_source_that_a_setting_lacks_is_a_gap(many_runs: Path) -> None:
    rows = compare(run_folders(many_runs)).rows[:2]
    points = [(rows[0], {"a": [50.0], "b": [60.0]}), (rows[1], {"a": [70.0]})]
    assert [row[2:] for row in sources_table(points).rows] == [("50.0", "60.0"), ("70.0", "-")]
    exhibit = sources_exhibit(points)
    assert exhibit is not None
    assert [len(axes.lines) for axes in exhibit.figure.axes] == [2, 1]


def test_one_source_needs_no_figure(many_runs: Path) -> None:
    row = compare(run_folders(many_runs)).rows[0]
    assert sources_exhibit([(row, {"a": [50.0]})]) is None
