"""Shares are exact; without weights the published rule holds; what a part lacks the others get."""

from collections.abc import Callable
from fractions import Fraction

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm.selection.places import apportioned, places
from mprm.selection.selectors import Random
from mprm.selection.subset import keep

Signals = Callable[..., pa.Table]


@pytest.fixture
def table() -> Signals:
    """table({"a/x": 10, "b/y": 4}): so many ranked rows of each source."""

    def table(sizes: dict[str, int]) -> pa.Table:
        names = [name for name, size in sizes.items() for _ in range(size)]
        ranked = pa.array([True] * len(names))
        reasons = pa.array([None] * len(names), pa.string()).dictionary_encode()
        return pa.table({"source": pa.array(names).dictionary_encode(), "ranked": ranked, "drop_reason": reasons})

    return table


def kept(signals: pa.Table, selector: Random, weights: dict[str, float] | None) -> dict[str, int]:
    found = keep(signals, selector, weights)["source"].to_pylist()
    return {name: found.count(name) for name in signals["source"].unique().to_pylist()}


def test_so_many_places_go_to_the_parts_by_weight_and_within_a_part_as_ever(table: Signals) -> None:
    signals = table({"a/x": 60, "a/y": 20, "b/z": 40})
    assert kept(signals, Random(ratio=0.25), None) == {"a/x": 15, "a/y": 5, "b/z": 10}
    assert kept(signals, Random(ratio=0.25), {"a": 2, "b": 1}) == {"a/x": 15, "a/y": 5, "b/z": 10}
    assert kept(signals, Random(ratio=0.25), {"b": 2, "a": 1}) == {"a/x": 8, "a/y": 2, "b/z": 20}
    assert kept(signals, Random(ratio=None, count=10), {"a": 2, "b": 4}) == {"a/x": 5, "a/y": 5, "b/z": 20}
    found = kept(signals, Random(ratio=0.25, scope="global"), {"a": 1, "b": 4})
    assert (found["a/x"] + found["a/y"], found["b/z"]) == (6, 24)


def test_a_part_with_too_little_is_kept_whole(table: Signals) -> None:
    signals = table({"a/x": 60, "a/y": 20, "b/z": 6, "c/z": 34})
    assert kept(signals, Random(ratio=0.25), {"a": 1, "b": 1, "c": 1}) == {"a/x": 9, "a/y": 3, "b/z": 6, "c/z": 11}
    assert kept(signals, Random(ratio=1.0), {"a": 1, "b": 5, "c": 9}) == {"a/x": 60, "a/y": 20, "b/z": 6, "c/z": 34}


def test_scopes_are_those_of_the_published_rule_without_weights(table: Signals) -> None:
    signals = table({"a/x": 3, "b/y": 15})
    assert [(rows.tolist()[0], size) for rows, size in places(signals, Random(ratio=0.1))] == [(0, 1), (3, 1)]
    ((rows, size),) = places(signals, Random(ratio=0.1, scope="global"))
    assert (rows.tolist(), size) == (list(range(18)), 1)


def test_what_is_left_goes_to_the_largest_remainders_and_of_equal_ones_to_the_first() -> None:
    assert apportioned(10, [3, 3, 1], [9, 9, 9]) == [4, 4, 2]
    assert apportioned(3, [0.5, 0.5], [9, 9]) == [2, 1]
    assert apportioned(10, [1, 1, 1], [1, 9, 9]) == [1, 5, 4]


part = st.tuples(st.floats(0.01, 100), st.integers(0, 50))


@given(st.lists(part, min_size=1, max_size=6), st.data())
def test_places_are_within_one_of_their_share(parts: list[tuple[float, int]], data: st.DataObject) -> None:
    weights, limits = zip(*parts, strict=True)
    total = data.draw(st.integers(0, sum(limits)))
    found = apportioned(total, weights, limits)
    assert sum(found) == total
    assert all(0 <= size <= limit for size, limit in zip(found, limits, strict=True))
    free = [number for number, limit in enumerate(limits) if found[number] < limit]
    rates = [Fraction(found[number]) / Fraction(weights[number]) for number in free]
    for one, number in zip(rates, free, strict=True):
        assert all(
            one - other < Fraction(1) / Fraction(weights[number]) + Fraction(1) / Fraction(weights[n])
            for other, n in zip(rates, free, strict=True)
        )
