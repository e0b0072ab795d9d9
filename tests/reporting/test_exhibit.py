import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from mprm.reporting.compare import Comparison, Row, compare, run_folders
from mprm.reporting.composition import histogram_exhibit, maps_exhibit
from mprm.reporting.exhibit import AUC, FIXED, best_row, legend_below
from mprm.reporting.heatmap import heatmap_exhibit
from mprm.reporting.learning import learning_exhibit
from mprm.reporting.overlap import overlap_exhibit
from mprm.reporting.overview import ratio_exhibit, settings_exhibit
from mprm.reporting.style import styled
from mprm.reporting.subsets import read_corpus
from mprm.reporting.tables import Estimate

MakeRow = Callable[..., Row]


def test_a_measure_is_in_the_unit_of_its_axis(make_row: MakeRow) -> None:
    row = make_row("BIS", 0.1, 0.85, f1_fixed=Estimate(0.7, 0.65, 0.72))
    assert AUC.of(row) == Estimate(0.85)
    assert FIXED.of(row) == Estimate(70.0, 65.0, 72.0)
    assert FIXED.of(make_row("BIS", 0.1, None)) is None


def test_the_best_row_is_the_first_of_the_highest(make_row: MakeRow) -> None:
    rows = (make_row("Full", 1, None), make_row("BIS", 0.1, 0.8), make_row("BIS", 0.2, 0.9), make_row("BIS", 0.3, 0.9))
    assert best_row(rows, AUC) is rows[2]
    assert best_row(rows[:1], AUC) is None


def assert_readable(figure: Figure) -> None:
    """Nothing leaves the figure, and no title of a panel covers another."""
    with styled(), warnings.catch_warnings():
        warnings.filterwarnings("error", message="constrained_layout")
        figure.draw_without_rendering()
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(box.x0, box.y0) > -0.03, box
    assert box.x1 < width + 0.03, (box, width)
    assert box.y1 < height + 0.03, (box, height)
    titles = [title.get_window_extent() for axes in figure.axes for title in (axes.title, axes._left_title)]
    titles = [title for title in titles if title.width > 0]
    assert not any(one.overlaps(other) for one, other in combinations(titles, 2))


@pytest.mark.parametrize("other", ["", "objective SoftWithConfidence, backbone a_model_of_a_rather_long_name"])
@pytest.mark.parametrize("n_rows", [2, 9])
def test_nothing_is_clipped_however_many_settings_and_however_long_their_names(
    many_runs: Path, n_rows: int, other: str
) -> None:
    rows = tuple(replace(row, other=other) for row in compare(run_folders(many_runs)).rows)[-n_rows:]
    corpus = read_corpus(rows)
    drawn = [settings_exhibit(Comparison(rows, {})), ratio_exhibit(rows), heatmap_exhibit(rows), learning_exhibit(rows)]
    drawn += [maps_exhibit(corpus), histogram_exhibit(corpus), overlap_exhibit(corpus)]
    for exhibit in drawn:
        if exhibit:
            assert_readable(exhibit.figure)


@pytest.mark.parametrize("n_lines", [1, 2, 15])
@pytest.mark.parametrize("width", [4.2, 8.4, 13])
@pytest.mark.parametrize("name", ["bis", "bis-alpha0.2-ratio0.1-hard-chartworld_internvl-seed, weighted majority"])
def test_a_legend_fits_and_takes_no_room_from_the_panel(name: str, width: float, n_lines: int) -> None:
    with styled():
        figure = Figure(figsize=(width, 4), layout="constrained")
        axes = figure.subplots()
        for number in range(n_lines):
            axes.plot([0, 1], [0, number], label=f"{name} {number}")
        legend_below(figure)
    assert_readable(figure)
    assert axes.get_position().height * figure.get_figheight() > 2.4
