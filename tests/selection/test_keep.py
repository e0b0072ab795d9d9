"""Places that are dealt out by more than a score."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mprm.selection.selectors import BIS, Random, Reliable
from mprm.selection.signals import balanced, one_of_each, shuffled
from mprm.selection.subset import keep


def test_one_of_each_question_before_the_second_of_any() -> None:
    assert one_of_each(np.array([4, 0, 2, 1, 3]), np.array([7, 8, 8, 7, 7])).tolist() == [4, 2, 0, 1, 3]


def test_every_fifth_gives_the_same_share() -> None:
    lengths = np.arange(100)
    order = balanced(np.arange(100), lengths)  # the short ones are the best
    assert order[:10].tolist() == [0, 20, 40, 60, 80, 1, 21, 41, 61, 81]
    assert sorted(order.tolist()) == list(range(100))
    assert balanced(np.array([2, 0, 1]), np.full(3, 5)).tolist() == [2, 0, 1]  # one length, one stratum


def test_shuffled_rows_change_places_with_each_other() -> None:
    draws = np.array([0.5, 0.1, 0.9, 0.3])
    assert shuffled(np.array([2, 3, 0, 1]), np.array([0, 2, 3]), draws).tolist() == [1, 3, 0, 2]


ALL_POSITIVE = [[1.0, 1.0], [0.75, 0.75], [0.5, 0.5], [0.25, 0.25]]
CORPUS = {"a": [*ALL_POSITIVE * 20, *[[1.0, 0.0]] * 4, *[[0.0, 0.0]] * 4, *[[0.0625, 0.0]] * 4], "b": ALL_POSITIVE * 25}


def chosen(signals: pa.Table, **settings: Any) -> list[tuple[str, int]]:
    rows = keep(signals, BIS(**settings))
    return list(zip(rows["source"].to_pylist(), rows["line"].to_pylist(), strict=True))


def test_all_positive_rollouts_at_random_the_others_by_bis(signals_of: Callable[..., pa.Table]) -> None:
    signals = signals_of(CORPUS)
    for ties in ("file_order", "random"):
        by_score, filled = (chosen(signals, ratio=0.2, ties=ties, fill=fill) for fill in ("score", "random"))
        # Mixed ones, then a tie at alpha of all-negative ones and of all-positive ones with R = 1.
        assert [row for row in filled if row[1] >= 80 and row[0] == "a"] == [
            row for row in by_score if row[1] >= 80 and row[0] == "a"
        ]
        assert Counter(source for source, _ in filled) == Counter(source for source, _ in by_score)
    reliable = sum(line % 4 == 0 for _, line in by_score if line < 80)
    assert sum(line % 4 == 0 for _, line in filled if line < 80) < reliable / 2
    assert filled != chosen(signals, ratio=0.2, ties="random", fill="random", seed=1)


def test_the_score_is_that_of_the_selector_and_the_rank_of_the_place(signals_of: Callable[..., pa.Table]) -> None:
    signals = signals_of(CORPUS)
    rows = keep(signals, BIS(ratio=1.0, fill="random"))
    np.testing.assert_array_equal(rows["score"].to_numpy(), BIS().score(signals))
    assert sorted(rows["rank"].to_pylist()[:92]) == list(range(1, 93))
    assert rows["rank"].to_pylist()[:80] != keep(signals, BIS(ratio=1.0))["rank"].to_pylist()[:80]
    np.testing.assert_array_equal(rows["tie_group"], keep(signals, BIS(ratio=1.0))["tie_group"])


def test_a_share_of_the_places_is_drawn(signals_of: Callable[..., pa.Table]) -> None:
    signals = signals_of(CORPUS)
    whole = chosen(signals, ratio=0.2)
    half = chosen(signals, ratio=0.2, random_share=0.5)
    assert Counter(source for source, _ in half) == Counter(source for source, _ in whole)
    assert set(chosen(signals, ratio=0.1)) <= set(half)
    assert set(half) != set(whole)
    drawn = keep(signals, Reliable(ratio=0.5, random_share=1.0))  # all: neither score nor file order
    assert drawn["line"].to_pylist() != keep(signals, Reliable(ratio=0.5))["line"].to_pylist()
    np.testing.assert_allclose(np.mean(drawn["reliability"]), np.mean(signals["reliability"]), atol=0.05)


def test_balance_of_questions(signals_of: Callable[..., pa.Table]) -> None:
    signals = signals_of({"a": [[1.0, 0.0]] * 30})
    questions = pa.array([i // 3 for i in range(30)], pa.int64())
    signals = signals.set_column(signals.column_names.index("question_hash"), "question_hash", questions)
    assert [line for _, line in chosen(signals, ratio=0.4, balance="questions")] == sorted([*range(0, 30, 3), 1, 4])
    drawn = keep(signals, Random(ratio=0.4, balance="questions"))["question_hash"].to_pylist()
    assert set(drawn) == set(range(10))


def test_balance_of_question_length(signals_of: Callable[..., pa.Table]) -> None:
    signals = signals_of({"a": [[1.0 - i / 100] * 2 for i in range(100)]})
    words = pa.array([10 + i for i in range(100)], pa.int32())
    signals = signals.set_column(signals.column_names.index("n_question_words"), "n_question_words", words)
    lines = [line for _, line in chosen(signals, ratio=0.1, balance="question_length")]
    assert lines == [0, 1, 20, 21, 40, 41, 60, 61, 80, 81]


@pytest.mark.parametrize("scope", ["source", "global"])
@pytest.mark.parametrize("balance", ["none", "questions", "question_length"])
@pytest.mark.parametrize("random_share", [None, 0.5])
def test_a_smaller_ratio_keeps_a_part_of_what_a_larger_one_keeps(
    scope: str, balance: str, random_share: float | None, signals_of: Callable[..., pa.Table]
) -> None:
    settings = {"scope": scope, "balance": balance, "random_share": random_share, "fill": "random", "ties": "random"}
    signals = signals_of(CORPUS)
    small, large = (set(chosen(signals, ratio=ratio, **settings)) for ratio in (0.1, 0.3))
    assert small < large


def test_pairs_have_no_questions_to_balance() -> None:
    pairs = pa.table(
        {
            "source": pa.array(["a"], pa.string()).dictionary_encode(),
            "ranked": [True],
            "drop_reason": pa.array([None], pa.string()),
        }
    )
    with pytest.raises(ValueError, match="needs question_hash, which pairs do not have"):
        keep(pairs, Random(balance="questions"))
