from collections.abc import Callable
from dataclasses import replace

from matplotlib.patches import Rectangle

from mprm.reporting.compare import Row
from mprm.reporting.heatmap import families, heatmap_exhibit
from mprm.reporting.tables import Estimate

MakeRow = Callable[..., Row]


def grid(make_row: MakeRow) -> tuple[Row, ...]:
    cells = ((0.02, 0.05, 0.81), (0.02, 0.1, 0.82), (0.2, 0.05, 0.86), (0.2, 0.1, 0.84))
    return (
        make_row("Full", 1.0, 0.9),
        *(make_row("BIS", ratio, auc, alpha=alpha) for alpha, ratio, auc in cells),
        make_row("Random", 0.1, 0.80),
        make_row("Mixed", 0.25, 0.70),  # a ratio that the grid does not have
        make_row("Random", 0.05, 0.99, other="objective Soft"),
    )


def test_a_family_is_compared_with_its_own_ratios_and_the_same_rest(make_row: MakeRow) -> None:
    (family,) = families(grid(make_row))
    assert (family.name, family.alphas, family.ratios, family.others) == ("BIS", [0.02, 0.2], [0.05, 0.1], ["Random"])
    assert list(family.beside) == [("Random", 0.1)]
    assert family.full is not None


def test_numbers_stand_in_the_cells_and_the_best_is_outlined_and_named(make_row: MakeRow) -> None:
    exhibit = heatmap_exhibit(grid(make_row))
    assert exhibit is not None
    axes, other = exhibit.figure.axes
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["0.810", "0.820", "0.860", "best", "0.840", "-", "0.800", "0.900", "Full"]
    best = axes.texts[texts.index("best")].get_position()
    heavy = [patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_linewidth() > 2]
    assert len(heavy) == 1
    assert heavy[0].get_x() < best[0] < heavy[0].get_x() + heavy[0].get_width()
    assert heavy[0].get_y() < best[1] < heavy[0].get_y() + heavy[0].get_height()
    assert (axes.get_title(loc="left"), axes.get_ylabel()) == ("BIS: AUC", "alpha")
    assert axes.get_xlabel() == "rollouts kept (% of eligible)"
    assert "76.0" in [text.get_text() for text in other.texts]
    assert "alpha 0.2 at 5 % 0.860" in exhibit.says
    assert "Full 0.900" in exhibit.says


def test_a_stronger_colour_is_higher(make_row: MakeRow) -> None:
    exhibit = heatmap_exhibit(grid(make_row))
    assert exhibit is not None
    shades = [patch.get_alpha() for patch in exhibit.figure.axes[0].patches if patch.get_alpha()]
    low, _, high, _, empty, random, full = shades
    assert empty == random < low < high < full


def test_half_widths_stand_below(make_row: MakeRow) -> None:
    rows = tuple(make_row("BIS", ratio, alpha=0.1, auc=0.8) for ratio in (0.1, 0.2))
    wide = replace(make_row("BIS", 0.3, alpha=0.1), auc=Estimate(0.85, 0.83, 0.87))
    exhibit = heatmap_exhibit((*rows, wide))
    assert exhibit is not None
    assert [text.get_text() for text in exhibit.figure.axes[0].texts][-3:] == ["0.850", "best", "± 0.020"]


def test_one_cell_is_no_map(make_row: MakeRow) -> None:
    assert heatmap_exhibit((make_row("BIS", 0.1, alpha=0.2), make_row("Random", 0.1))) is None
    assert heatmap_exhibit((make_row("Random", 0.1), make_row("Random", 0.2))) is None


def test_two_families_are_two_lines_of_panels(make_row: MakeRow) -> None:
    rows = tuple(
        make_row("BIS", ratio, alpha=0.2, other=other)
        for other in ("objective Hard", "objective Soft")
        for ratio in (0.1, 0.2)
    )
    exhibit = heatmap_exhibit(rows)
    assert exhibit is not None
    titles = [axes.get_title(loc="left") for axes in exhibit.figure.axes]
    assert titles[0] == "BIS, objective Hard: AUC"
    assert titles[2] == "BIS, objective Soft: AUC"
