"""The points of a multirun: one grid, or several beside each other, narrowed by the command line."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product

from hydra.core.override_parser.types import Override

Parse = Callable[[list[str]], list[Override]]


def expand(
    grids: Sequence[Mapping[str, str]], arguments: Sequence[str], parse: Parse, is_group: Callable[[str], bool]
) -> list[list[str]]:
    """The overrides of every point, grid by grid, each point once.

    A grid is the product of its keys' values, e.g. {selector: bis, selector.alpha: "0.05,0.2"}. An argument whose key
    no grid has applies to all of them. One whose key some have replaces the values there, and leaves the others alone;
    if the key is a config group, the grids keep those of their choices that it names.

    Raises ValueError if nothing is left.
    """
    given = {override.get_key_element(): _values(override) for override in parse(list(arguments))}
    in_a_grid = {key for grid in grids for key in grid}
    points: dict[tuple[str, ...], None] = {}
    for grid in grids or [{}]:
        values = {override.get_key_element(): _values(override) for override in parse(_arguments(grid))}
        for key, asked in given.items():
            if key in values and is_group(key):
                values[key] = [value for value in values[key] if value in asked]
            elif key in values or key not in in_a_grid:
                values[key] = asked
        points |= dict.fromkeys(product(*([f"{key}={value}" for value in found] for key, found in values.items())))
    if not points:
        raise ValueError(
            f"{' '.join(arguments)} leaves no point of this sweep; its groups are narrowed to choices that they have"
        )
    return [list(point) for point in points]


def _arguments(grid: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in grid.items()]


def _values(override: Override) -> list[str]:
    """The values of an override as texts, one if it is no sweep. Raises ValueError for a sweep without an end."""
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise ValueError(f"'{override.input_line}' has no list of values; give key=a,b,c or key=range(first,end,step)")
    return list(override.sweep_string_iterator())
