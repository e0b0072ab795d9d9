"""The validation split shares neither question nor image with what is trained on."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm.data.rollouts import question_hash
from mprm.selection.subset import held_out

Rollouts = Sequence[tuple[str, Sequence[str]]]  # question and images


def signals(rollouts: Rollouts, unranked: Sequence[int] = ()) -> pa.Table:
    """Rows that are not ranked have null signals."""
    ranked = [number not in unranked for number in range(len(rollouts))]
    usable = [rollout if ok else None for rollout, ok in zip(rollouts, ranked, strict=True)]
    hashes = [row and question_hash(row[0], list(row[1])) for row in usable]
    images = [row and [question_hash("", [name]) for name in row[1]] for row in usable]
    return pa.table(
        {
            "line": pa.array(range(len(rollouts)), pa.int32()),
            "question_hash": pa.array(hashes, pa.int64()),
            "image_hashes": pa.array(images, pa.list_(pa.int64())),
            "ranked": ranked,
            "drop_reason": pa.array([None if ok else "no_steps" for ok in ranked], pa.string()),
        }
    )


def lines(table: pa.Table) -> list[int]:
    found: list[int] = table["line"].to_pylist()
    return found


def test_rollouts_that_are_connected_by_question_or_image_go_together() -> None:
    rollouts = [
        ("How many?", ["a"]),
        ("Which?", ["b"]),
        ("What colour?", ["a"]),  # another question about the picture of 0
        ("Alike?", ["a", "c"]),
        ("Who?", ["c"]),  # of 3, and so of 0
        ("Which?", ["b"]),  # the question of 1
        ("Without a picture?", []),
        ("Without a picture?", []),
    ]
    groups = [{0, 2, 3, 4}, {1, 5}, {6, 7}]
    for count in range(1, 9):
        found = set(lines(held_out(signals(rollouts), count)))
        assert all(group <= found or not group & found for group in groups)
        assert len(found) >= min(count, 8) if count >= 4 else found
    assert lines(held_out(signals(rollouts), 8)) == list(range(8))
    assert lines(held_out(signals(rollouts), 0)) == []
    assert lines(held_out(signals(rollouts, unranked=range(8)), 4)) == []


def test_a_picture_of_everything_does_not_hold_out_everything() -> None:
    """A group of more rollouts than are asked for stays in training, were it the first by its hash."""
    rollouts = [(f"Question {number}?", ["the same"]) for number in range(50)]
    rollouts += [(f"Question {number}?", [f"{number}"]) for number in range(6)]
    assert lines(held_out(signals(rollouts), 10)) == list(range(50, 56))
    assert len(held_out(signals(rollouts), 4)) == 4
    assert len(held_out(signals(rollouts[:50]), 4)) == 50  # there is nothing smaller


def test_the_split_does_not_depend_on_what_is_not_connected() -> None:
    rollouts = [(f"Question {number // 2}?", [f"{number // 2}"]) for number in range(40)]
    few, more = held_out(signals(rollouts), 6), held_out(signals(rollouts), 12)
    assert len(few) == 6
    assert set(lines(few)) < set(lines(more))
    assert lines(held_out(signals(rollouts, unranked=lines(few)), 6)) == sorted(set(lines(more)) - set(lines(few)))


@pytest.mark.parametrize("length", [1_000])
def test_a_long_chain_is_one_group(length: int) -> None:
    order = np.random.default_rng(0).permutation(length)
    chain = [(f"{number}?", [f"{number}", f"{number + 1}"]) for number in order.tolist()]
    assert len(held_out(signals([*chain, ("Alone?", ["x"])]), 1)) == 1
    assert len(held_out(signals(chain), 1)) == length


@given(
    st.lists(st.tuples(st.sampled_from("pqrs"), st.lists(st.sampled_from("abcdefgh"), max_size=3)), max_size=25),
    st.integers(1, 10),
)
def test_nothing_is_shared_with_what_is_left(rollouts: list[tuple[str, list[str]]], count: int) -> None:
    found = set(lines(held_out(signals(rollouts), count)))
    assert bool(found) == bool(rollouts)
    held, left = ([r for number, r in enumerate(rollouts) if (number in found) == side] for side in (True, False))
    assert not {image for _, images in held for image in images} & {image for _, images in left for image in images}
    assert not {(q, *images) for q, images in held} & {(q, *images) for q, images in left}
