"""The points of a multirun: products, grids beside each other, and what the command line narrows."""

from math import prod

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from mprm.stages.grids import expand

GRIDS = [
    {"selector": "bis", "selector.alpha": "0.05,0.2", "selector.ratio": "0.1,0.5"},
    {"selector": "random", "selector.ratio": "0.1,0.5"},
    {"selector": "full"},
]


def points(grids: list[dict[str, str]], *arguments: str) -> list[str]:
    parse = OverridesParser.create().parse_overrides
    return [" ".join(point) for point in expand(grids, arguments, parse, lambda key: key == "selector")]


def test_grids_stand_beside_each_other() -> None:
    assert points(GRIDS) == [
        "selector=bis selector.alpha=0.05 selector.ratio=0.1",
        "selector=bis selector.alpha=0.05 selector.ratio=0.5",
        "selector=bis selector.alpha=0.2 selector.ratio=0.1",
        "selector=bis selector.alpha=0.2 selector.ratio=0.5",
        "selector=random selector.ratio=0.1",
        "selector=random selector.ratio=0.5",
        "selector=full",
    ]


def test_a_value_replaces_those_of_the_grids_that_have_its_key() -> None:
    assert points(GRIDS, "selector.ratio=0.25", "selector.alpha=0.2") == [
        "selector=bis selector.alpha=0.2 selector.ratio=0.25",
        "selector=random selector.ratio=0.25",
        "selector=full",
    ]


def test_a_choice_of_a_group_narrows() -> None:
    assert points(GRIDS, "selector=full,random", "selector.ratio=0.5") == [
        "selector=random selector.ratio=0.5",
        "selector=full",
    ]


def test_any_other_key_holds_for_every_point() -> None:
    assert points(GRIDS[1:], "seed=0,1", "objective=soft", "selector.ratio=0.1") == [
        "selector=random selector.ratio=0.1 seed=0 objective=soft",
        "selector=random selector.ratio=0.1 seed=1 objective=soft",
        "selector=full seed=0 objective=soft",
        "selector=full seed=1 objective=soft",
    ]


def test_without_grids_it_is_the_product_of_the_command_line() -> None:
    assert points([], "selector.alpha=0.05,0.2", "seed=range(0,2)") == [
        "selector.alpha=0.05 seed=0",
        "selector.alpha=0.05 seed=1",
        "selector.alpha=0.2 seed=0",
        "selector.alpha=0.2 seed=1",
    ]
    assert points([]) == [""]


def test_a_point_of_two_grids_is_one() -> None:
    assert points([{"seed": "0,1"}, {"seed": "1,2"}]) == ["seed=0", "seed=1", "seed=2"]


def test_nothing_left_and_endless_sweeps_are_refused() -> None:
    with pytest.raises(ValueError, match="selector=reliable leaves no point of this sweep"):
        points(GRIDS, "selector=reliable")
    with pytest.raises(ValueError, match="'seed=interval\\(0,1\\)' has no list of values"):
        points(GRIDS, "seed=interval(0,1)")


@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(0, 9), min_size=1)), min_size=1, max_size=4)
)
def test_every_point_is_a_choice_of_a_grid_and_comes_once(grids: list[dict[str, list[int]]]) -> None:
    found = points([{key: ",".join(map(str, values)) for key, values in grid.items()} for grid in grids])
    assert len(set(found)) == len(found)
    for point in found:
        values = dict(pair.split("=") for pair in point.split())
        assert any(values.keys() == grid.keys() and all(int(values[k]) in grid[k] for k in grid) for grid in grids)
    assert len(found) <= sum(prod(len(set(values)) for values in grid.values()) for grid in grids)
