"""Curves of one question against all of its subsets."""

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm.metrics.curves import best_of_n, orders, pass_at_n, vote

M = 6
lengths = st.integers(1, M)
scores = st.sampled_from([-np.inf, 0.1, 0.2, 0.3])
candidates = lengths.flatmap(
    lambda m: st.tuples(st.lists(scores, min_size=m, max_size=m), st.lists(st.booleans(), min_size=m, max_size=m))
)


def over_subsets(n_candidates: int, value) -> list[float]:  # type: ignore[no-untyped-def]
    """Mean of value(subset) over all subsets of every size."""
    sizes = range(1, n_candidates + 1)
    return [float(np.mean([value(list(s)) for s in combinations(range(n_candidates), n)])) for n in sizes]


def test_worked_values() -> None:
    """Three candidates, the second best is right: n = 1: 1/3; n = 2: in one of three subsets; n = 3: never."""
    assert best_of_n(np.array([0.1, 0.9, 0.5]), np.array([False, False, True])) == pytest.approx([1 / 3, 1 / 3, 0])
    assert pass_at_n(np.array([False, False, True])) == pytest.approx([1 / 3, 2 / 3, 1])
    # All tied: every member is equally likely, whatever n is.
    assert best_of_n(np.zeros(4), np.array([True, False, False, False])) == pytest.approx([0.25] * 4)


@given(candidates)
def test_best_of_n_is_the_mean_over_all_subsets(some: tuple[list[float], list[bool]]) -> None:
    score, correct = np.array(some[0]), np.array(some[1])

    def chosen(subset: list[int]) -> float:
        best = score[subset].max()
        return float(np.mean([correct[m] for m in subset if score[m] == best]))

    assert best_of_n(score, correct) == pytest.approx(over_subsets(len(score), chosen))


@given(st.lists(st.booleans(), min_size=1, max_size=M))
def test_pass_at_n_is_the_mean_over_all_subsets(correct: list[bool]) -> None:
    expected = over_subsets(len(correct), lambda subset: any(correct[m] for m in subset))
    assert pass_at_n(np.array(correct)) == pytest.approx(expected)


@given(candidates)
def test_a_choice_is_never_better_than_one_that_knows(some: tuple[list[float], list[bool]]) -> None:
    score, correct = np.array(some[0]), np.array(some[1])
    known, chosen = pass_at_n(correct), best_of_n(score, correct)
    assert (chosen <= known + 1e-9).all()
    assert best_of_n(correct.astype(float), correct) == pytest.approx(known)
    assert chosen[0] == pytest.approx(correct.mean())


voters = st.integers(1, 5).flatmap(
    lambda m: st.tuples(
        st.lists(st.sampled_from([-1, 0, 1, 2]), min_size=m, max_size=m),
        st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=m, max_size=m),
        st.lists(st.booleans(), min_size=m, max_size=m),
    )
)


@given(voters)
def test_votes_over_all_orders_are_the_mean_over_all_subsets(some: tuple[list[int], list[float], list[bool]]) -> None:
    raw, weights, correct = some
    names = [name for name in dict.fromkeys(raw) if name >= 0]
    classes = [names.index(name) if name >= 0 else -1 for name in raw]
    right = {k: np.mean([c for c, of in zip(correct, classes, strict=True) if of == k]) for k in classes if k >= 0}

    def voted(subset: list[int]) -> float:
        totals = {k: sum(weights[m] for m in subset if classes[m] == k) for k in right}
        most = max(totals.values(), default=0.0)
        return float(np.mean([right[k] for k in right if totals[k] == most])) if most > 0 else 0.0

    every_order = np.array(list(permutations(range(len(raw)))))
    found = vote(np.array(classes), np.array(weights), np.array(correct), every_order)
    assert found == pytest.approx(over_subsets(len(raw), voted))


def test_votes_by_hand() -> None:
    """Answers a, a, b in this order, b right: a, then a, then a with two votes. With weights 1, 1, 3 b wins at last."""
    classes, correct, order = np.array([0, 0, 1]), np.array([False, False, True]), np.array([[0, 1, 2]])
    assert vote(classes, np.ones(3), correct, order).tolist() == [0, 0, 0]
    assert vote(classes, np.array([1.0, 1.0, 3.0]), correct, order).tolist() == [0, 0, 1]
    assert vote(classes, np.array([1.0, 1.0, 2.0]), correct, order).tolist() == [0, 0, 0.5]
    assert vote(classes, np.zeros(3), correct, order).tolist() == [0, 0, 0]
    assert vote(np.array([-1, -1, 0]), np.ones(3), correct, order).tolist() == [0, 0, 1]


def test_equal_sums_tie_in_whatever_order_they_were_added() -> None:
    weights = np.array([0.1, 0.2, 0.3, 0.3, 0.2, 0.1])  # .1 + .2 + .3 and .3 + .2 + .1 are not the same float
    found = vote(np.array([0, 0, 0, 1, 1, 1]), weights, np.array([1, 1, 1, 0, 0, 0], bool), np.arange(6)[None])
    assert found[-1] == 0.5


def test_orders_are_permutations_by_seed() -> None:
    first, again, other = (orders(7, 50, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (np.sort(first, axis=1) == np.arange(7)).all()
    assert (first == again).all()
    assert (first != other).any()
    assert len(np.unique(first[:, 0])) == 7
