"""What a candidate is worth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mprm.metrics.aggregate import AGGREGATORS


def test_worked_values() -> None:
    """P(yes) = 3/4, 1/2, 1/5 are the log odds ln 3, 0, ln 1/4."""
    log_odds = np.log([3.0, 1.0, 0.25])
    found = {name: worth(log_odds) for name, worth in AGGREGATORS.items()}
    assert found == pytest.approx(
        {"mean": 1.45 / 3, "min": 0.2, "product": math.log(0.075), "last": 0.2, "sum_logits": math.log(0.75)}
    )


@given(st.lists(st.floats(-800, 800), min_size=1, max_size=50))
def test_extreme_log_odds_are_finite_and_in_range(log_odds: list[float]) -> None:
    with np.errstate(over="raise", invalid="raise"):
        found = {name: worth(np.array(log_odds)) for name, worth in AGGREGATORS.items()}
    assert all(math.isfinite(value) for value in found.values())
    assert 0 <= found["min"] <= found["mean"] + 1e-12
    assert found["mean"] <= 1 + 1e-12
    assert found["product"] <= math.log(found["min"]) + 1e-9 if found["min"] > 0 else found["product"] < 0


def test_products_that_would_be_zero_are_told_apart() -> None:
    long, longer = (AGGREGATORS["product"](np.full(steps, -10.0)) for steps in (100, 101))
    assert math.exp(long) == math.exp(longer) == 0
    assert long > longer
