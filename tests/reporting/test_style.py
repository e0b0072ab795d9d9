import io
import warnings
from html import escape

import pytest
from matplotlib.figure import Figure

from mprm.reporting.style import PALETTE, inline_svg, line_looks, styled


def test_twenty_lines_of_a_selector_differ_without_colour() -> None:
    looks = line_looks({f"alpha {number}": "BIS" for number in range(20)})
    assert len({(str(look["ls"]), look["marker"], look["fillstyle"]) for look in looks.values()}) == 20


def test_selectors_differ_in_their_markers() -> None:
    names = ("BIS", "Full", "Random", "Mixed", "Reliable", "LowMC", "Longest")
    assert len({look["marker"] for look in line_looks({name: name for name in names}).values()}) == len(names)


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
        assert escape(name) in inline_svg(figure, "x", "y")
