"""Means over questions with 95 % bootstrap intervals: questions are drawn with replacement, whatever is compared is
drawn alike. Shape suffixes: B resamples, Q questions, N numbers of candidates."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mprm.metrics.intervals import LEVEL, resample_weights

Floats = NDArray[np.float64]
RESAMPLES = 1000


class Resamples:
    """The resamples of `n_questions`, the same for the same seed."""

    def __init__(self, n_questions: int, seed: int) -> None:
        self.weights_BQ = resample_weights(n_questions, RESAMPLES, seed)

    def curve(self, values_QN: Floats) -> dict[str, Any]:
        """Accuracy and interval for every n."""
        low_N, high_N = _interval(self.weights_BQ @ values_QN / len(values_QN))
        interval = np.stack([low_N, high_N], axis=1).tolist()
        return {"accuracy": values_QN.mean(axis=0).tolist(), "interval": interval}

    def mean(self, values_Q: Floats) -> dict[str, float]:
        """Mean and interval; of a - b for a paired difference."""
        low, high = _interval(self.weights_BQ @ values_Q / len(values_Q))
        return {"value": float(values_Q.mean()), "low": float(low), "high": float(high)}

    def saved(self, used_Q: Floats, all_Q: Floats) -> dict[str, float]:
        """1 - sum(used) / sum(all), and interval."""
        low, high = _interval(1 - (self.weights_BQ @ used_Q) / (self.weights_BQ @ all_Q))
        return {"value": float(1 - used_Q.sum() / all_Q.sum()), "low": float(low), "high": float(high)}


def _interval(values_B: Floats) -> Floats:
    tail = (1 - LEVEL) / 2
    return np.asarray(np.quantile(values_B, [tail, 1 - tail], axis=0))
