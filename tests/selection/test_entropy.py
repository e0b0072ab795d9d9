"""Which rollouts entropy keeps, and what a table without Monte-Carlo scores can be selected by."""

import math
from typing import Any

import pyarrow as pa
import pytest

from mprm.selection.selectors import BIS, Entropy, Full, LowMC, Random, Selector
from mprm.selection.subset import keep

FIVE = [0.5, 0.1, None, 0.3, 0.2]


def pairs(entropy: dict[str, list[float | None]], not_ranked: tuple[int, ...] = ()) -> pa.Table:
    """What pairs of solutions have: no step scores."""
    source = [name for name, values in entropy.items() for _ in values]
    values = [value for column in entropy.values() for value in column]
    return pa.table(
        {
            "source": pa.array(source, pa.string()).dictionary_encode(),
            "ranked": pa.array([row not in not_ranked for row in range(len(values))]),
            "drop_reason": pa.array([None] * len(values), pa.string()).dictionary_encode(),
            "entropy": pa.array(values, pa.float64()),
            "row": pa.array(range(len(values))),
        }
    )


def kept(table: pa.Table, **settings: Any) -> list[int]:
    rows: list[int] = keep(table, Entropy(**settings)).sort_by("rank")["row"].to_pylist()
    return rows


def test_lowest_first_and_what_has_none_last() -> None:
    table = pairs({"a": FIVE})
    assert kept(table, ratio=1.0) == [1, 4, 3, 0, 2]
    assert kept(table, ratio=0.4) == [1, 4]
    rows = keep(table, Entropy(ratio=1.0))
    assert rows["score"].to_pylist() == [-0.5, -0.1, -math.inf, -0.3, -0.2]
    assert rows["tie_group"].to_pylist() == [4, 1, 5, 3, 2]
    nothing = keep(pairs({"a": [None, None]}), Entropy(ratio=1.0, floor=0.5))
    assert nothing["rank"].to_pylist() == [1, 2]
    assert nothing["tie_group"].to_pylist() == [1, 1]


def test_ratio_count_scope_and_ties_are_as_everywhere() -> None:
    table = pairs({"a": [0.4, 0.3], "b": [0.2, 0.1], "c": [None, 0.9]}, not_ranked=(3,))
    assert sorted(kept(table, ratio=0.5)) == [1, 2, 5]
    assert kept(table, ratio=0.5, scope="global") == [2, 1]
    assert sorted(kept(table, ratio=None, count=2)) == [0, 1, 2, 4, 5]
    assert kept(pairs({"a": [0.2, 0.1, 0.2, 0.1]}), ratio=0.75) == [1, 3, 0]  # file order


def test_the_floor_goes_behind_the_others() -> None:
    """int(0.4 * 5) of all, whatever the source; the least sure of them first."""
    assert kept(pairs({"a": FIVE}), ratio=1.0, floor=0.4) == [3, 0, 4, 1, 2]
    assert kept(pairs({"a": FIVE}), ratio=0.2, floor=0.39) == [4]
    assert kept(pairs({"a": FIVE}), ratio=1.0, floor=0.99) == [0, 3, 4, 1, 2]
    two = pairs({"a": [0.1, 0.2], "b": [0.3, 0.4]})
    assert sorted(kept(two, ratio=0.5, floor=0.5)) == [1, 2]
    assert kept(two, ratio=1.0, floor=0.5, scope="global") == [2, 3, 1, 0]
    ranked = pairs({"a": [0.1, 0.2, 0.3, 0.4, 0.5]}, not_ranked=(0,))
    assert kept(ranked, ratio=1.0, floor=0.25) == [2, 3, 4, 1]
    for floor in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"^selector.floor=.* is not in \[0, 1\); give .*floor=0.05$"):
            Entropy(floor=floor)


def test_pairs_are_selected_by_what_they_have() -> None:
    table = pairs({"a": FIVE}).drop_columns("entropy")
    assert keep(table, Full())["row"].to_pylist() == [0, 1, 2, 3, 4]
    assert keep(table, Random(ratio=0.6)).num_rows == 3
    lacking: list[tuple[Selector, str]] = [
        (BIS(), r"selector: BIS \(alpha 0.2\) needs p_pos, which pairs do not have; choose entropy, random or full"),
        (
            Entropy(signal="sum"),
            r"selector: Entropy \(signal sum\) needs entropy_sum, which pairs do not have; choose .*",
        ),
        (LowMC(), "selector: Low MC needs mean_mc, which pairs do not have; choose entropy, random or full"),
        (Full(ties="-n_steps"), "selector.ties=-n_steps is nothing that pairs have; choose selector.ties=file_order"),
    ]
    for selector, message in lacking:
        with pytest.raises(ValueError, match=f"^{message}$"):
            keep(table, selector)
