"""What is said of a judge: three pairs by hand, and the judges at the edges.

Shape suffixes: P pairs, 2 orders, N responses, K of them.
"""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm.metrics.estimate import Estimate
from mprm.metrics.pairwise import (
    Judgements,
    accuracy_difference,
    entropy_bins,
    judgements,
    measure_judge,
    told_apart,
    vote_accuracy,
    vote_differences,
)


def record(name: str, swapped: bool, better: str, verdict: str | None, entropy: float, tokens: int) -> dict[str, Any]:
    in_format = verdict is not None and name != "q"
    response = {"text": "...", "verdict": verdict, "in_format": in_format, "entropy": entropy, "n_tokens": tokens}
    return {"id": name, "swapped": swapped, "better": better, "responses": [response]}


RECORDS = [
    record("q", True, "B", "A", 0.6, 30),
    record("p", False, "A", "A", 0.1, 10),
    record("r", False, "A", "A", 0.9, 60),
    record("p", True, "B", "B", 0.3, 20),
    record("q", False, "A", "A", 0.2, 40),
    record("r", True, "B", None, 0.5, 20),
]
SOURCES = {"p": "x", "q": "x", "r": "y"}


@pytest.fixture
def three() -> Judgements:
    return judgements(RECORDS, SOURCES)


def always(first_P2: Any, valid_P2: Any, right_P2: Any) -> Judgements:
    """A judge with these verdicts on pairs of one source."""
    shape = np.shape(first_P2)
    entropy_P2 = np.linspace(0.1, 0.9, shape[0] * 2).reshape(shape)
    verdicts = (np.array(one, dtype=bool) for one in (first_P2, valid_P2, right_P2))
    no_votes_P2K = np.zeros((*shape, 0), bool)
    alike = (np.ones(shape), np.ones(shape, bool), no_votes_P2K, no_votes_P2K)
    return Judgements(np.array(["x"] * shape[0]), *verdicts, entropy_P2, *alike)


def test_responses_go_to_their_pair_and_order(three: Judgements) -> None:
    assert three.source_P.tolist() == ["x", "x", "y"]
    assert three.first_P2.tolist() == [[True, False], [True, True], [True, False]]
    assert three.valid_P2.tolist() == [[True, True], [True, True], [True, False]]
    assert three.right_P2.tolist() == [[True, True], [True, False], [True, False]]
    assert three.entropy_P2.tolist() == [[0.1, 0.3], [0.2, 0.6], [0.9, 0.5]]
    assert three.tokens_P2.tolist() == [[10, 20], [40, 30], [60, 20]]


def test_three_pairs_by_hand(three: Judgements) -> None:
    found = measure_judge(three)
    assert found.pairs == 3
    assert found.accuracy.value == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert found.macro_accuracy == pytest.approx((0.75 + 0.5) / 2)
    assert {name: (one.pairs, one.accuracy.value) for name, one in found.sources.items()} == {
        "x": (2, 0.75),
        "y": (1, 0.5),
    }
    assert found.consistent.value == pytest.approx(1 / 3)  # of q the first one wins twice, of r there is one
    assert found.first.value == pytest.approx(4 / 5)
    assert found.without_verdict == pytest.approx(1 / 6)
    assert found.in_format == pytest.approx(3 / 6)
    assert found.accuracy_in_format == pytest.approx(3 / 6)
    assert found.acc_plus is None
    assert found.entropy == pytest.approx(2.6 / 6)
    assert found.tokens == pytest.approx(180 / 6)
    bins = [(one.lowest, one.highest, one.pairs, one.accuracy.value) for one in found.bins]
    assert bins == [(pytest.approx(e), pytest.approx(e), 1, right) for e, right in ((0.2, 1), (0.4, 0.5), (0.7, 0.5))]
    # Wrong at 0.5 and 0.6, right at 0.1, 0.2, 0.3 and 0.9: either is above three of four.
    assert found.tells == 0.75
    for one in (found.accuracy, found.consistent, found.first, found.sources["x"].accuracy):
        assert 0 <= one.low <= one.value <= one.high <= 1
        assert one.low < one.high
    assert measure_judge(three) == found


def test_an_item_is_right_when_all_of_its_pairs_are() -> None:
    """p and q are one item: right in the order of the record, wrong in the other; r stands alone, right in one."""
    found = measure_judge(judgements(RECORDS, SOURCES, {"p": "i", "q": "i", "r": "j"}))
    assert (found.items, found.acc_plus.value) == (2, 0.5)
    assert (found.sources["x"].items, found.sources["x"].acc_plus.value) == (1, 0.5)
    right = [record | {"better": record["responses"][0]["verdict"] or "A"} for record in RECORDS]
    found = measure_judge(judgements(right, SOURCES, {"p": "i", "q": "i", "r": "j"}))
    assert found.sources["x"].acc_plus.value == 1.0
    assert found.acc_plus.value == 0.75
    assert found.accuracy.value > found.acc_plus.value


def test_how_entropy_tells_wrong_from_right() -> None:
    right, wrong = True, False
    assert told_apart(np.array([0.1, 0.3, 0.2]), np.array([right, right, wrong])) == 0.5
    assert told_apart(np.array([0.2, 0.2]), np.array([right, wrong])) == 0.5
    assert told_apart(np.array([0.1, 0.2, 0.2, 0.4]), np.array([wrong, right, wrong, right])) == 0.125
    assert told_apart(np.array([0.9, 0.1]), np.array([right, wrong])) == 0.0
    for all_alike in (right, wrong):
        assert told_apart(np.array([0.1, 0.2]), np.array([all_alike] * 2)) is None


def test_bins_hold_as_many_each_from_low_to_high() -> None:
    entropy_P = np.array([0.7, 0.1, 0.5, 0.3, 0.9, 0.2, 0.8])
    right_P = np.array([0.5, 1.0, 0.0, 1.0, 0.0, 0.5, 1.0])
    found = entropy_bins(right_P, entropy_P, bins=3)
    assert [(one.lowest, one.highest, one.pairs, one.accuracy.value) for one in found] == [
        (0.1, 0.3, 3, pytest.approx(2.5 / 3)),
        (0.5, 0.7, 2, 0.25),
        (0.8, 0.9, 2, 0.5),
    ]
    assert [one.entropy for one in found] == pytest.approx([0.2, 0.6, 0.85])
    assert all(one.flipped is None for one in found)
    flipped_P = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    shares = [one.flipped.value for one in entropy_bins(right_P, entropy_P, 3, flipped_P)]
    assert shares == pytest.approx([1 / 3, 1, 0.5])
    assert len(entropy_bins(right_P, entropy_P)) == 5
    assert len(entropy_bins(right_P[:2], entropy_P[:2])) == 2


def test_a_judge_that_takes_the_first_answer_whatever_it_is() -> None:
    found = measure_judge(always([[1, 1]] * 10, [[1, 1]] * 10, [[1, 0]] * 10))
    assert (found.first.value, found.first.high) == (1, 1)
    assert 0.6 < found.first.low < 0.7  # ten pairs, twenty verdicts, and no other
    assert found.accuracy == Estimate(0.5, 0.5, 0.5)
    assert found.consistent.value == 0.0
    last = measure_judge(always([[0, 0]] * 10, [[1, 1]] * 10, [[0, 1]] * 10))
    assert (last.first.value, last.accuracy.value) == (0.0, 0.5)
    fair = measure_judge(always([[1, 0]] * 10, [[1, 1]] * 10, [[0, 0]] * 10))
    assert (fair.first.value, fair.consistent.value, fair.accuracy.value) == (0.5, 1.0, 0.0)


def test_a_judge_without_any_verdict() -> None:
    found = measure_judge(always([[0, 0]] * 4, [[0, 0]] * 4, [[0, 0]] * 4))
    assert (found.accuracy.value, found.accuracy.low) == (0, 0)
    assert 0.6 < found.accuracy.high < 0.8  # four pairs
    assert found.consistent.value == 0.0
    assert found.without_verdict == 1.0
    assert found.first is None
    assert found.tells is None


def test_a_judge_with_few_verdicts_has_an_interval_of_its_position_bias() -> None:
    """Many resamples of the pairs have none of its three verdicts."""
    valid_P2, first_P2 = np.zeros((30, 2), bool), np.zeros((30, 2), bool)
    valid_P2[4], valid_P2[9, 1], first_P2[4, 0] = True, True, True
    found = measure_judge(always(first_P2, valid_P2, valid_P2))
    assert found.first.value == pytest.approx(1 / 3)
    assert 0 <= found.first.low < found.first.value < found.first.high <= 1


def test_two_judges_are_compared_pair_by_pair(three: Judgements) -> None:
    better = judgements([record | {"better": record["responses"][0]["verdict"]} for record in RECORDS], SOURCES)
    found = accuracy_difference(better, three)
    assert found.value == pytest.approx(0.5 / 3)  # q alone, in one order
    assert found.low < 0 < found.high  # of three pairs nothing is told
    assert accuracy_difference(three, better).value == -found.value
    assert accuracy_difference(three, three) == Estimate(0.0, 0.0, 0.0)


def by_enumeration(verdicts: list[bool | None], k: int) -> float:
    """Every choice of k of the responses votes; None has no verdict."""
    won = []
    for chosen in combinations(verdicts, k):
        right, wrong = chosen.count(True), chosen.count(False)
        won.append(float(right > wrong) if right != wrong else 0.5 * (right > 0))
    return sum(won) / len(won)


@given(st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=7))
def test_a_vote_is_the_mean_over_all_choices(verdicts: list[bool | None]) -> None:
    found = vote_accuracy(verdicts.count(True), verdicts.count(False), len(verdicts))
    assert found == pytest.approx([by_enumeration(verdicts, k) for k in range(1, len(verdicts) + 1)], abs=1e-12)


def test_votes_by_hand() -> None:
    """p: A A B and B B B of A and B; q: no verdict, none and A of A, then A, none, none of B."""
    said = {("p", False): "AAB", ("p", True): "BBB", ("q", False): "--A", ("q", True): "A--"}
    records = [
        one | {"votes": [{"verdict": None if v == "-" else v} for v in said[one["id"], one["swapped"]]]}
        for one in RECORDS
        if one["id"] != "r"
    ]
    judged = judgements(records, {"p": "x", "q": "x"})
    found = measure_judge(judged).votes
    # p: 2/3, 2/3 and 1 with 1, 2 and 3 votes, and 1 in the other order; q: 1/3, 2/3 and 1, and 0 in the other order.
    assert [one.value for one in found] == pytest.approx([1 / 2, 7 / 12, 3 / 4])
    assert all(0 <= one.low <= one.value <= one.high <= 1 for one in found)
    wrong = judgements([one | {"better": "BA"[one["better"] == "B"]} for one in records], {"p": "x", "q": "x"})
    # p: 1/3, 1/3 and 0, and 0; q: 0, and 1/3, 2/3 and 1.
    assert [one.value for one in vote_differences(judged, wrong)] == pytest.approx([1 / 3, 1 / 3, 1 / 2])
    assert vote_differences(judged, judged) == (Estimate(0.0, 0.0, 0.0),) * 3
    assert measure_judge(judgements(RECORDS, SOURCES)).votes == ()
