"""The score against worked values and the published ones."""

import csv
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm.data.visualprm400k import VisualPRM400K
from mprm.selection.selectors import BIS
from mprm.selection.signals import build_signals

ORACLE = Path(__file__).parents[1] / "oracle_data" / "selection"


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.875, 0.875, 0.9375, 0.875, 0, 0, 0, 0, 0, 0], 0.25828125),
        ([0.5625, 0.6875, 0.6875, 0.0625, 0, 0, 0, 0], 0.15),
        ([0.0625] * 6 + [0] * 3, 0.0170138888888888888),
        ([1, 0, 0.5, 0], 0.225),
        ([0, 0], 0.05),
        ([0.8, 0.8], 0.04),
    ],
)
def test_worked_values(scores: list[float], expected: float, signals_of: Callable[..., pa.Table]) -> None:
    assert BIS(alpha=0.05).score(signals_of({"a": [scores]})) == pytest.approx([expected], abs=1e-15)


def test_published_scores(tmp_path: Path) -> None:
    dataset = VisualPRM400K(annotations=str(ORACLE / "annotations"), cleaning="published")
    signals = build_signals(dataset, tmp_path)
    rows = {
        row: i for i, row in enumerate(zip(signals["source"].to_pylist(), signals["line"].to_pylist(), strict=True))
    }
    with open(ORACLE / "expected" / "scores.csv") as file:
        published = list(csv.DictReader(file))
    assert sum(signals["ranked"].to_pylist()) == len(published) == 446
    for alpha in ("0.05", "0.2"):
        scores = BIS(alpha=float(alpha)).score(signals)
        for row in published:
            i = rows[row["file"].removesuffix(".jsonl"), int(row["line"])]
            assert signals["n"][i].as_py() == int(row["n"])
            assert scores[i] == pytest.approx(float(row[f"bis_alpha{alpha}"]), abs=1e-12)


@given(st.lists(st.integers(0, 16), min_size=1, max_size=12), st.floats(0, 2))
def test_bounds(correct: list[int], alpha: float) -> None:
    """All-negative scores alpha, all-positive alpha R, and nothing more than alpha + 1/4."""
    p_pos = sum(k > 0 for k in correct) / len(correct)
    reliability = sum(correct) / 16 / sum(k > 0 for k in correct) if any(correct) else 1.0
    table = pa.table({"p_pos": [p_pos], "reliability": [reliability]})
    (score,) = BIS(alpha=alpha).score(table)
    assert 0 <= score <= alpha + 0.25
    if p_pos in (0, 1):
        assert score == alpha * reliability


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
def test_alpha_is_checked(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"selector.alpha=\S+ is not in"):
        BIS(alpha=alpha)
