"""The baselines of the paper."""

from collections.abc import Callable

import pyarrow as pa
import pytest

from mprm.selection.selectors import Full, LowMC, Mixed, Random, Reliable, keep

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


def test_seed_is_checked() -> None:
    with pytest.raises(ValueError, match=r"selector.seed=-1 is negative"):
        Random(seed=-1)
