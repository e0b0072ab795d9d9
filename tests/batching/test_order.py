"""Orders of training, and which solutions share a row: worked arithmetic, and what every packing keeps."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mprm.batching.order import (
    FileOrder,
    HighToLow,
    Lengths,
    LowToHigh,
    Order,
    Shuffled,
    ShuffledQuestions,
    pack,
    rows_needed,
)

QUESTION_N = np.array([7, -3, 7, 2**62, -3, 7, 5] * 6)  # hashes are any 64-bit integers
ENTROPY_N = np.full(len(QUESTION_N), np.nan)


@pytest.mark.parametrize("order", [Shuffled(), ShuffledQuestions()])
def test_shuffled_is_a_permutation_given_by_seed_and_epoch(order: Order) -> None:
    first = order.epoch(QUESTION_N, ENTROPY_N, seed=1, epoch=0).tolist()
    assert sorted(first) == list(range(len(QUESTION_N)))
    assert order.epoch(QUESTION_N, ENTROPY_N, seed=1, epoch=0).tolist() == first
    others = [order.epoch(QUESTION_N, ENTROPY_N, seed=1, epoch=epoch).tolist() for epoch in range(1, 6)]
    others += [order.epoch(QUESTION_N, ENTROPY_N, seed=seed, epoch=0).tolist() for seed in range(2, 6)]
    assert all(sorted(other) == list(range(len(QUESTION_N))) for other in others)
    assert len({tuple(other) for other in [first, *others]}) > 5


def test_shuffled_knows_no_questions() -> None:
    other_N = np.arange(len(QUESTION_N))
    assert Shuffled().epoch(QUESTION_N, ENTROPY_N, 1, 0).tolist() == Shuffled().epoch(other_N, ENTROPY_N, 1, 0).tolist()


def test_file_order_is_the_same_every_epoch() -> None:
    question_N = np.zeros(5, dtype=np.int64)
    orders = [FileOrder().epoch(question_N, np.zeros(5), seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert orders == [[0, 1, 2, 3, 4]] * 4


@given(question=st.lists(st.integers(-3, 3), min_size=1, max_size=30), seed=st.integers(0, 5))
def test_rollouts_of_a_question_follow_each_other_in_file_order(question: list[int], seed: int) -> None:
    order = ShuffledQuestions().epoch(np.array(question), np.zeros(len(question)), seed, 0).tolist()
    assert sorted(order) == list(range(len(question)))
    asked = [question[position] for position in order]
    changes = sum(a != b for a, b in pairwise(asked))
    assert changes == len(set(question)) - 1
    for member in set(question):
        places = [position for position in order if question[position] == member]
        assert places == sorted(places)


def test_questions_come_in_every_order() -> None:
    question_N = np.array([0, 0, 1, 2])
    orders = Counter(tuple(ShuffledQuestions().epoch(question_N, np.zeros(4), seed, 0).tolist()) for seed in range(300))
    assert len(orders) == 6  # 3! orders of the questions
    assert min(orders.values()) > 25


def test_low_to_high_is_the_same_every_epoch() -> None:
    """Equal ones in file order, those without an entropy behind all others, in file order too."""
    question_N, entropy_N = np.arange(7), np.array([0.5, np.nan, 0.1, 0.5, np.nan, 0.0, 0.1])
    orders = [LowToHigh().epoch(question_N, entropy_N, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert orders == [[5, 2, 6, 0, 3, 1, 4]] * 4
    assert HighToLow().epoch(question_N, entropy_N, 0, 0).tolist() == [0, 3, 2, 6, 5, 1, 4]


def test_entropies_are_computed_for_the_order_that_uses_them_alone() -> None:
    orders: list[Order] = [Shuffled(), ShuffledQuestions(), FileOrder(), LowToHigh(), HighToLow()]
    assert [order.uses_entropy for order in orders] == [False, False, False, True, True]


# ---- rows

WORKED = Lengths(
    tokens=np.array([10, 12, 20, 9, 10]), shared=np.array([8, 8, 20, 8, 8]), question=np.array([5, 5, 6, 5, 7])
)


@st.composite
def measured(draw: st.DrawFn) -> Lengths:
    question = np.array(draw(st.lists(st.integers(-2, 6), min_size=1, max_size=30)), dtype=np.int64)
    prefix = {number: draw(st.integers(1, 20)) for number in sorted(set(question.tolist()))}
    shared = np.array([prefix[number] for number in question.tolist()])
    own = draw(st.lists(st.integers(0, 20), min_size=len(question), max_size=len(question)))
    return Lengths(tokens=shared + np.array(own), shared=shared, question=question)


def test_a_row_costs_every_prefix_once() -> None:
    assert len(WORKED) == 5
    assert WORKED.cost([0]) == 10
    assert WORKED.cost([0, 1]) == 8 + 2 + 4
    assert WORKED.cost([0, 1, 3]) == 8 + 2 + 4 + 1
    assert WORKED.cost([2, 4, 0]) == 20 + 10 + 10
    assert WORKED.cost([]) == 0


def test_questions_stay_together_and_the_longest_row_comes_first() -> None:
    """Units of 15 (question 5), 20 and 10 tokens: 20 | 15 + 10 with two rows, one each with three."""
    everything = [0, 1, 2, 3, 4]
    assert pack(WORKED, everything, 25, 2) == [[0, 1, 3, 4], [2]]
    assert pack(WORKED, everything, 24, 2) is None
    assert pack(WORKED, everything, 20, 3) == [[2], [0, 1, 3], [4]]
    assert pack(WORKED, everything, 100, 1) == [[2, 0, 1, 3, 4]]
    assert pack(WORKED, everything, 20, 5) == [[2], [0, 1, 3], [4], [], []]


def test_a_question_that_does_not_fit_a_row_is_cut() -> None:
    """14 tokens hold the first two of question 5, the third starts anew with 9."""
    assert pack(WORKED, [0, 1, 3], 14, 2) == [[0, 1], [3]]
    assert pack(WORKED, [0, 1, 3], 14, 1) is None


def test_rows_needed() -> None:
    everything = [0, 1, 2, 3, 4]
    assert [rows_needed(WORKED, everything, max_tokens) for max_tokens in (45, 44, 25, 24, 20)] == [1, 2, 2, 3, 3]
    assert rows_needed(WORKED, everything, 45, multiple=2) == 2
    assert rows_needed(WORKED, everything, 24, multiple=2) == 4
    assert rows_needed(WORKED, everything, 24, multiple=3) == 3


@settings(max_examples=200, deadline=None)
@given(lengths=measured(), data=st.data())
def test_every_packing(lengths: Lengths, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=len(lengths), unique=True))
    longest = int(lengths.tokens[chosen].max())
    max_tokens = data.draw(st.integers(longest, 4 * longest))
    multiple = data.draw(st.integers(1, 4))
    n_rows = rows_needed(lengths, chosen, max_tokens, multiple)
    assert n_rows % multiple == 0
    packed = pack(lengths, chosen, max_tokens, n_rows)
    assert packed is not None
    assert packed == pack(lengths, list(chosen), max_tokens, n_rows)
    assert len(packed) == n_rows
    assert sorted(number for row in packed for number in row) == sorted(chosen)
    loads = [lengths.cost(row) for row in packed]
    assert max(loads) <= max_tokens

    # No fewer rows do, and they are fewer than if each were less than half full.
    if n_rows > multiple:
        assert pack(lengths, chosen, max_tokens, n_rows - multiple) is None
    units: dict[int, list[int]] = {}
    for number in chosen:
        units.setdefault(int(lengths.question[number]), []).append(number)
    whole = [members for members in units.values() if lengths.cost(members) <= max_tokens]
    for members in whole:
        assert any(set(members) <= set(row) for row in packed)
    if len(whole) == len(units):
        costs = [lengths.cost(members) for members in units.values()]
        assert n_rows - multiple < max(1, 2 * sum(costs) / max_tokens)
        # Balanced: the longest row is at most the mean and one unit.
        assert max(loads) <= sum(costs) / n_rows + max(costs)


@given(lengths=measured(), n_rows=st.integers(1, 6))
def test_more_rows_never_fail_where_one_is_enough(lengths: Lengths, n_rows: int) -> None:
    everything = list(range(len(lengths)))
    packed = pack(lengths, everything, lengths.cost(everything), n_rows)
    assert packed is not None
    loads = [lengths.cost(row) for row in packed]
    if n_rows <= len(set(lengths.question.tolist())):
        assert min(loads) > 0  # no device has nothing to do
