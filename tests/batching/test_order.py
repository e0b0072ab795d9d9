"""Orders of training."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm.batching.order import FileOrder, LowToHigh, Order, Shuffled, ShuffledQuestions

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


def test_entropies_are_computed_for_the_order_that_uses_them_alone() -> None:
    orders: list[Order] = [Shuffled(), ShuffledQuestions(), FileOrder(), LowToHigh()]
    assert [order.uses_entropy for order in orders] == [False, False, False, True]
