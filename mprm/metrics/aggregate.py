"""What a candidate is worth: one number of the log odds of its steps, larger is better."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def log_probability(log_odds_T: Floats) -> Floats:
    """log P(yes) of every step, without overflow."""
    return -np.logaddexp(0, -log_odds_T)


def mean(log_odds_T: Floats) -> float:
    """Mean P(yes) of the steps: the published one."""
    return float(np.exp(log_probability(log_odds_T)).mean())


def least(log_odds_T: Floats) -> float:
    """P(yes) of the worst step."""
    return float(np.exp(log_probability(log_odds_T.min())))


def product(log_odds_T: Floats) -> float:
    """The log of the product of P(yes): the same order, and a product of many steps does not become zero."""
    return float(log_probability(log_odds_T).sum())


def last(log_odds_T: Floats) -> float:
    """P(yes) of the last step."""
    return float(np.exp(log_probability(log_odds_T[-1])))


def sum_logits(log_odds_T: Floats) -> float:
    """Sum of the log odds: no step alone decides, and more steps that are rather right are better than few."""
    return float(log_odds_T.sum())


AGGREGATORS: dict[str, Callable[[NDArray[Any]], float]] = {
    "mean": mean,
    "min": least,
    "product": product,
    "last": last,
    "sum_logits": sum_logits,
}
