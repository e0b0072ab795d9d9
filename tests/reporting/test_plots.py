from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from mprm.metrics.estimate import Estimate, OverSeeds
from mprm.reporting import plots
from mprm.reporting.plots import ForestRow, Measure
from mprm.reporting.style import inline_svg, looks

PANELS = [
    Measure(title="AUC", axis="area", scale=1, form=".3f"),
    Measure(title="F1", axis="points"),
]


def number(value: float, low: float | None = None, high: float | None = None, *seeds: float) -> OverSeeds:
    return OverSeeds(value, low, high, by_seed=dict(enumerate(seeds or (value,))))


NUMBERS = [
    [number(0.8, 0.78, 0.83, 0.79, 0.80, 0.81), None],
    [number(0.9, 0.87, 0.93, 0.88, 0.92), number(0.7)],
    [number(0.85), number(0.6, 0.5, 0.7)],
]


def rows(names: tuple[str, ...] = ("Full", "mine", "Random")) -> list[ForestRow]:
    look = looks({name: name for name in names}, ["Full", "Random"])
    return [
        ForestRow(label=name, numbers=numbers, look=look[name], main=name == "mine")
        for name, numbers in zip(names, NUMBERS, strict=True)
    ]


def test_a_forest_has_every_number_first_row_on_top_and_marks_the_best() -> None:
    figure = plots.forest(PANELS, rows())
    left, right = figure.axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["Random", "mine", "Full"]
    assert [text.get_text() for text in left.texts] == ["0.850", "0.900 best", "0.800"]
    assert [text.get_text() for text in right.texts] == ["60.0", "70.0 best"]
    assert [(axes.get_title(loc="left"), axes.get_xlabel()) for axes in figure.axes] == [
        ("AUC", "area"),
        ("F1", "points"),
    ]
    # Seeds are dots, the interval of two is not drawn, that of one is dotted.
    assert [len(collection.get_segments()) for collection in left.collections] == [1]
    dots = [list(line.get_xdata()) for line in left.lines]
    assert [0.88, 0.92] in dots
    assert [0.79, 0.80, 0.81] in dots
    (solid,), (dotted,) = (axes.collections[0].get_linestyle() for axes in figure.axes)
    assert (solid[1], dotted[1] is None) == (None, False)


@pytest.mark.parametrize("n_panels", [1, 3, 7])
def test_a_forest_is_readable_however_many_panels_and_however_long_the_names(
    n_panels: int, assert_readable: Callable[[Figure], None]
) -> None:
    long = [
        ForestRow(label=f"BIS (alpha 0.2), 10 %, objective SoftWithConfidence, backbone a_rather_long_name {n}",
                  numbers=[number(0.8, 0.7, 0.9)] * n_panels, look={"color": "k", "marker": "o"})
        for n in range(5)
    ]  # fmt: skip
    panels = [Measure(title=f"a source of a long name, panel {n}", axis="macro-F1 (points)") for n in range(n_panels)]
    figure = plots.forest(panels, long, across=5)
    assert len(figure.axes) == n_panels
    assert_readable(figure)


def test_a_heat_map_shows_numbers_in_their_cells_and_the_highest_in_bold(
    assert_readable: Callable[[Figure], None],
) -> None:
    cells = {("a", "5"): [NUMBERS[0][0], None], ("a", "10"): [NUMBERS[1][0], None], ("Full", "100"): NUMBERS[2]}
    figure = plots.heatmap(PANELS, ["a", "Full"], ["5", "10", "100"], cells, x_label="kept (%)", y_label="setting")
    left, right = figure.axes
    found = {text.get_position(): (text.get_text(), text.get_fontweight()) for text in left.texts}
    assert found == {
        (0.5, 0.5): ("0.800\n± 0.025", "normal"),
        (1.5, 0.5): ("0.900\n(0.880, 0.920)", "bold"),
        (2.5, 1.5): ("0.850", "normal"),
    }
    assert [text.get_text() for text in right.texts] == ["60.0\n± 10.0"]
    values = left.collections[0].get_array()
    assert np.ma.getmaskarray(values).reshape(2, 3).tolist() == [[False, False, True], [True, True, False]]
    assert left.get_ylim() == (2, 0), "the first row on top"
    assert_readable(figure)


def test_drawing_leaves_the_settings_of_the_caller_alone() -> None:
    before = dict(matplotlib.rcParams)
    inline_svg(plots.forest(PANELS, rows()), "a", "a")
    assert dict(matplotlib.rcParams) == before


def test_series_leaves_out_lines_without_a_finite_value() -> None:
    lines = [
        {"step": 1, "a": 2.0},
        {"step": 2},
        {"step": 3, "a": float("nan")},
        {"step": 4, "a": None},
        {"step": 5, "a": 1},
    ]
    steps, values = plots.series(lines, "a")
    assert steps.tolist() == [1, 5]
    assert values.tolist() == [2, 1]


def test_smooth_is_a_running_mean_that_shrinks_at_the_ends() -> None:
    values = np.arange(40.0) ** 2
    smooth = plots.smooth(values)  # half window 40 // 40 = 1
    assert smooth[0] == pytest.approx((0 + 1) / 2)
    assert smooth[10] == pytest.approx((81 + 100 + 121) / 3)
    assert smooth[39] == pytest.approx((38**2 + 39**2) / 2)
    assert plots.smooth(values[:20]).tolist() == values[:20].tolist()


def test_curves_are_those_that_were_logged() -> None:
    panels = {
        ("Loss", "nats"): {"train/loss": "train loss", "val/loss": "validation loss"},
        ("Accuracy", "share right"): {"train/accuracy": "accuracy"},
        ("Reward", "reward"): {"train/reward": "reward"},
    }
    lines = [{"step": step, "train/loss": step / 10, "train/accuracy": 0.1 * step} for step in range(1, 6)]
    drawn = plots.training_curves("a", "Training", panels, [*lines, {"step": 5, "val/loss": 0.4}])
    assert drawn is not None
    axes = drawn.drawing.axes
    assert [(one.get_title(loc="left"), one.get_xlabel(), one.get_ylabel()) for one in axes] == [
        ("Loss", "optimizer steps", "nats"),
        ("Accuracy", "optimizer steps", "share right"),
    ]
    assert np.asarray(axes[1].lines[0].get_ydata()).tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert drawn.alt == (
        "Training: train loss from 0.1 to 0.5 at step 5; validation loss from 0.4 to 0.4 at step 5; "
        "accuracy from 0.1 to 0.5 at step 5."
    )
    assert plots.training_curves("a", "Training", panels, [{"step": 1, "train/loss": float("nan")}]) is None


def test_speed_is_the_median_of_what_was_logged() -> None:
    of_steps = [{"speed/rollouts_per_second": n, "speed/waiting": n / 100, "speed/mfu": 0.4} for n in (1.0, 2.0, 9.0)]
    lines = [{"step": step, **one} for step, one in enumerate(of_steps)]
    table = plots.speed_table({"SFT": lines, "older": [{"step": 1, "train/loss": 0.5}], "none": None})
    assert table.rows == (("SFT", "2", "-", "40.0%", "2.0%", "-"),)


def test_percents_have_ends_even_without_an_interval() -> None:
    found = plots.percents([Estimate(0.5, 0.4, 0.7), Estimate(0.2)])
    assert found == pytest.approx(np.array([[40, 20], [50, 20], [70, 20]]))
