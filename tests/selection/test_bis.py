"""The score against worked values and the published ones."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betainc

from mprm.data.visualprm400k import VisualPRM400K
from mprm.selection.scan import p_right
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


def test_flip_rates_are_the_published_ones(signals_of: Callable[..., pa.Table]) -> None:
    """eta(K) of K = 1, 2, 4, 8 of 16 under a uniform prior and tau = 1/4, to three places."""
    rows = signals_of({"a": [[(k, 16)] for k in (1, 2, 4, 8)]})
    assert (1 - rows["p_right"].to_numpy()).round(3).tolist() == [0.950, 0.836, 0.426, 0.012]


@given(st.integers(0, 16), st.integers(1, 16))
def test_the_posterior_is_the_incomplete_beta_function(k: int, n: int) -> None:
    k = min(k, n)
    assert p_right(k / n, k, n) == pytest.approx(1 - betainc(1 + k, 1 + n - k, 0.25), abs=1e-12)


P_1, P_8, P_0 = 1 - 0.94988702, 1 - 0.01238478, 0.75**17  # of 1, 8 and 0 of 16


@pytest.mark.parametrize(
    ("counts", "p_pos", "reliability"),
    [
        ([(16, 16), (8, 16), (1, 16), (0, 16)], (1 + P_8 + P_1 + P_0) / 4, (1 + P_8 + P_1) / 3),
        ([(0, 4)], 0.75**5, 1.0),  # few continuations leave a doubt; no positive label is wrong
        ([(0, 16), (0, 0)], P_0 / 2, 1.0),  # what comes after a step that nothing leads right from is wrong
        ([0.2, 0.25, 0.9], 2 / 3, 2 / 3),  # without counts the score is the success rate
        ([(200, 1000), (300, 1000)], 0.5, 0.5),  # and so it is with many
    ],
)
def test_posterior_labels(
    counts: list[Any], p_pos: float, reliability: float, signals_of: Callable[..., pa.Table]
) -> None:
    signals = signals_of({"a": [counts]})
    assert signals["p_right"].to_pylist() == pytest.approx([p_pos], abs=1e-6)
    assert signals["p_right_positive"].to_pylist() == pytest.approx([reliability], abs=1e-6)
    expected = (p_pos * (1 - p_pos) + 0.2) * reliability
    assert BIS(labels="posterior").score(signals) == pytest.approx([expected], abs=1e-6)


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -0.1}, r"selector.alpha=-0.1 is not in"),
        ({"alpha": float("nan")}, r"selector.alpha=nan is not in"),
        ({"alpha": float("inf")}, r"selector.alpha=inf is not in"),
        ({"labels": "soft"}, "selector.labels=soft is unknown; choose hard or posterior"),
        ({"fill": "file"}, "selector.fill=file is unknown; choose score or random"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BIS(**settings)


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({}, "BIS (alpha 0.2)"),
        ({"alpha": 0.0, "seed": 3}, "BIS (alpha 0)"),
        ({"fill": "random", "labels": "posterior"}, "BIS (alpha 0.2, labels posterior, fill random)"),
        ({"balance": "questions", "random_share": 0.5}, "BIS (balance questions, random_share 0.5, alpha 0.2)"),
        ({"ties": "random", "scope": "global"}, "BIS (alpha 0.2, global, ties random)"),
    ],
)
def test_the_label_tells_what_is_unusual(settings: dict[str, Any], label: str) -> None:
    assert BIS(**settings).label == label
