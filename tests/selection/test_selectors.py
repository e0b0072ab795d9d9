"""The baselines of the paper; how many rollouts are kept, of what, and which of equal scores."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm.selection.selectors import Full, LowMC, Mixed, Random, RankedSelector, Reliable
from mprm.selection.subset import keep


@dataclass(frozen=True, kw_only=True)
class ByMean(RankedSelector):
    def score(self, signals: pa.Table) -> np.ndarray:
        return signals["mean_mc"].to_numpy()


def table(means: dict[str, list[float]], drop_reason: dict[str, list[str | None]] | None = None) -> pa.Table:
    source = [name for name, values in means.items() for _ in values]
    mean = [value for values in means.values() for value in values]
    reasons = [r for values in drop_reason.values() for r in values] if drop_reason else [None] * len(mean)
    columns = {
        "source": pa.array(source, pa.string()).dictionary_encode(),
        "line": pa.array([i for values in means.values() for i in range(len(values))], pa.int32()),
        "n_steps": pa.array(range(len(mean)), pa.int32()),
        "mean_mc": pa.array(mean, pa.float64()),
        "ranked": pa.array([True] * len(mean), pa.bool_()),
        "drop_reason": pa.array(reasons, pa.string()),
    }
    return pa.table(columns)


def kept(signals: pa.Table, **settings: Any) -> list[tuple[str, int]]:
    rows = keep(signals, ByMean(**settings))
    return list(zip(rows["source"].to_pylist(), rows["line"].to_pylist(), strict=True))


TWO = {"a": [0.1, 0.9, 0.5, 0.9, 0.5], "b": [0.6, 0.2]}


def test_per_source_and_global() -> None:
    assert kept(table(TWO), ratio=0.4) == [("a", 1), ("a", 3), ("b", 0)]
    assert kept(table(TWO), ratio=0.4, scope="global") == [("a", 1), ("a", 3)]
    assert kept(table(TWO), ratio=None, count=3) == [("a", 1), ("a", 2), ("a", 3), ("b", 0), ("b", 1)]
    assert kept(table(TWO), ratio=None, count=3, scope="global") == [("a", 1), ("a", 3), ("b", 0)]


def test_at_least_one_is_kept_of_every_source() -> None:
    assert kept(table(TWO), ratio=0.01) == [("a", 1), ("b", 0)]


@pytest.mark.parametrize(("m", "ratio", "k"), [(100, 0.29, 28), (105, 0.15, 15), (3, 1.0, 3), (3, 0.1, 1), (7, 0.3, 2)])
def test_size_is_the_int_of_the_float_product(m: int, ratio: float, k: int) -> None:
    assert len(kept(table({"a": [0.5] * m}), ratio=ratio)) == k


def test_ties_keep_file_order_or_follow_a_signal() -> None:
    assert kept(table(TWO), ratio=0.2) == [("a", 1), ("b", 0)]
    assert kept(table(TWO), ratio=0.2, ties="n_steps") == [("a", 3), ("b", 0)]
    assert kept(table(TWO), ratio=0.2, ties="-n_steps") == [("a", 1), ("b", 0)]


def test_ties_at_random_follow_the_seed_and_no_file_order() -> None:
    signals = table({"a": [0.9] * 50 + [0.5] * 50 + [0.1] * 50})
    drawn = [[line for _, line in kept(signals, ratio=0.5, ties="random", seed=seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0][:50] == list(range(50))  # the better ones all the same
    assert len(drawn[0]) == 75
    assert max(drawn[0]) < 100
    assert 10 < sum(line < 75 for line in drawn[0][50:]) < 20  # of 25


def test_rank_and_tie_group() -> None:
    rows = keep(table(TWO), ByMean(ratio=1.0))
    assert rows["score"].to_pylist() == [0.1, 0.9, 0.5, 0.9, 0.5, 0.6, 0.2]
    assert rows["rank"].to_pylist() == [5, 1, 3, 2, 4, 1, 2]
    assert rows["tie_group"].to_pylist() == [3, 1, 2, 1, 2, 1, 2]
    assert rows["tie_size"].to_pylist() == [1, 2, 2, 2, 2, 1, 1]
    assert keep(table(TWO), ByMean(ratio=0.6))["tie_size"].to_pylist() == [2, 2, 2, 1]  # one of the tie is not kept
    assert keep(table(TWO), ByMean(ratio=1.0, scope="global"))["rank"].to_pylist() == [7, 1, 4, 2, 5, 3, 6]


def test_a_ranked_rollout_that_is_dropped_keeps_its_place() -> None:
    reasons = {"a": [None, "no_image", None, None, None], "b": [None, None]}
    assert kept(table(TWO, reasons), ratio=0.4) == [("a", 3), ("b", 0)]


def test_rollouts_that_are_not_ranked_count_for_nothing(signals_of: Callable[..., pa.Table]) -> None:
    signals = signals_of({"a": [[0.5], [None], [0.25], [0.75], []], "b": [[None]]})
    rows = keep(signals, LowMC(ratio=0.5))
    assert rows["line"].to_pylist() == [2]  # 1 of 3
    assert keep(signals_of({"a": [[]], "b": [[None]]}), LowMC()).num_rows == 0


@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=30),
    st.floats(0.01, 1),
    st.sampled_from(["source", "global"]),
)
def test_no_rollout_left_out_scores_more_than_one_kept(means: list[float], ratio: float, scope: str) -> None:
    signals = table({"a": means})
    lines = [line for _, line in kept(signals, ratio=ratio, scope=scope)]
    assert lines == sorted(lines)
    assert len(lines) == max(1, int(len(means) * ratio))
    left_out = [mean for i, mean in enumerate(means) if i not in lines]
    assert min(means[i] for i in lines) >= max(left_out, default=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1.5}, r"selector.ratio=1.5 is not in \(0, 1\]"),
        ({"ratio": 0.0}, "selector.ratio=0.0 is not in"),
        ({"ratio": float("nan")}, "selector.ratio=nan is not in"),
        ({"count": 5}, "selector.ratio=0.1 and selector.count=5: set one"),
        ({"ratio": None}, "selector.ratio=None and selector.count=None: set one"),
        ({"ratio": None, "count": 0}, "selector.count=0 is not positive"),
        ({"scope": "file"}, "selector.scope=file is unknown"),
        ({"ties": "line"}, "selector.ties=line is unknown"),
        ({"seed": -1}, "selector.seed=-1 is negative"),
        ({"balance": "steps"}, "selector.balance=steps is unknown; choose none, questions or question_length"),
        ({"random_share": 1.5}, r"selector.random_share=1.5 is not in \[0, 1\]"),
        ({"random_share": float("nan")}, "selector.random_share=nan is not in"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ByMean(**settings)


MANY = [[i % 17 / 16, i % 3 / 2] for i in range(200)]


def lines(table: pa.Table, source: str = "a") -> list[int]:
    rows = zip(table["source"].to_pylist(), table["line"].to_pylist(), strict=True)
    return [line for name, line in rows if name == source]


def test_full_keeps_everything(signals_of: Callable[..., pa.Table]) -> None:
    assert keep(signals_of({"a": MANY, "b": [[1.0]]}), Full()).num_rows == 201
    for settings in ({"ratio": 0.5}, {"ratio": None, "count": 3}):
        with pytest.raises(ValueError, match="selector=full keeps everything"):
            Full(**settings)


def test_reliable_and_low_mc(signals_of: Callable[..., pa.Table]) -> None:
    signals = signals_of({"a": [[1.0, 0.0], [0.5, 0.5], [0.75, 0.75], [0.0, 0.0]]})
    assert Reliable().score(signals).tolist() == [1.0, 0.5, 0.75, 1.0]  # no positive step counts as reliable
    assert LowMC().score(signals).tolist() == [-0.5, -0.5, -0.75, 0.0]
    assert lines(keep(signals, Reliable(ratio=0.5))) == [0, 3]
    assert lines(keep(signals, LowMC(ratio=0.5))) == [0, 3]


def test_random_depends_on_seed_and_own_source_only(signals_of: Callable[..., pa.Table]) -> None:
    both = signals_of({"a": MANY, "b": MANY})
    drawn = lines(keep(both, Random(seed=1)))
    assert len(drawn) == 20
    assert drawn == lines(keep(both, Random(seed=1)))
    assert drawn != lines(keep(both, Random(seed=2)))
    assert drawn != lines(keep(both, Random(seed=1)), "b")
    assert drawn == lines(keep(both.slice(0, 200), Random(seed=1)))


def test_random_subsets_are_nested(signals_of: Callable[..., pa.Table]) -> None:
    signals = signals_of({"a": MANY})
    small, large = (set(lines(keep(signals, Random(ratio=ratio)))) for ratio in (0.1, 0.25))
    assert small < large


def test_mixed_goes_first(signals_of: Callable[..., pa.Table]) -> None:
    rollouts = [[1.0, 0.0] if i % 10 == 0 else [1.0, 1.0] if i % 2 else [0.0, 0.0] for i in range(100)]
    signals = signals_of({"a": rollouts})
    mixed = set(range(0, 100, 10))
    assert set(lines(keep(signals, Mixed(ratio=0.1)))) == mixed
    assert set(lines(keep(signals, Mixed(ratio=0.05)))) < mixed
    assert set(lines(keep(signals, Mixed(ratio=0.3)))) > mixed
    assert lines(keep(signals, Mixed(ratio=0.3, seed=1))) != lines(keep(signals, Mixed(ratio=0.3, seed=2)))
