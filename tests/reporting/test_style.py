import io
import warnings
from collections.abc import Callable
from html import escape

import pytest
from matplotlib.figure import Figure

from mprm.reporting.style import PALETTE, inline_svg, legend_below, looks, styled


def test_twenty_lines_of_a_group_differ_without_colour() -> None:
    found = looks({f"alpha {number}": "BIS" for number in range(20)}).values()
    assert len({(str(look["ls"]), look["marker"], look["fillstyle"]) for look in found}) == 20


def test_groups_differ_in_their_markers_and_baselines_are_ink_and_grey() -> None:
    names = ["mine", "Full", "another", "Random", "third"]
    found = looks({name: name for name in names}, ["Full", "Random"])
    assert len({look["marker"] for look in found.values()}) == len(names)
    assert [found[name]["color"] for name in ("Full", "Random")] == [PALETTE[key][0] for key in ("ink", "grey")]


def test_twenty_groups_differ_without_colour() -> None:
    found = looks({str(number): str(number) for number in range(20)}).values()
    assert len({(str(look["ls"]), look["marker"]) for look in found}) == 20


def test_no_two_colours_of_the_palette_are_one_in_a_page() -> None:
    lights = [light for light, _ in PALETTE.values()]
    assert len(set(lights)) == len(lights)  # inline_svg tells them apart by their value


@pytest.mark.parametrize("name", ["图表", "a$b$c", r"$\frac$", "100 % & <b>"])
def test_any_name_is_drawn_as_it_is_without_a_warning(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with styled():
            figure = Figure(layout="constrained")
            figure.subplots().set_title(name)
            figure.savefig(io.BytesIO(), format="png")
        svg = inline_svg(figure, "x", name)
    assert escape(name) in svg
    assert f'role="img" aria-label="{escape(name)}"' in svg


def test_a_legend_fits_and_takes_no_room_from_the_panel(assert_readable: Callable[[Figure], None]) -> None:
    for name in ("bis", "bis-alpha0.2-ratio0.1-hard-chartworld_internvl-seed, weighted majority"):
        for width in (4.2, 8.4, 13):
            for n_lines in (1, 2, 15):
                with styled():
                    figure = Figure(figsize=(width, 4), layout="constrained")
                    axes = figure.subplots()
                    for number in range(n_lines):
                        axes.plot([0, 1], [0, number], label=f"{name} {number}")
                    legend_below(figure)
                assert_readable(figure)
                assert axes.get_position().height * figure.get_figheight() > 2.4, (name, width, n_lines)
