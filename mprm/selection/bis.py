"""The Balanced-Information Score (arXiv 2602.04145)."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mprm.selection.keep import Selector


@dataclass(frozen=True, kw_only=True)
class BIS(Selector):
    """BIS = (p_pos (1 - p_pos) + alpha) R: how mixed the step labels are, times how reliable the positive ones.

    alpha weighs reliable rollouts that are not mixed against mixed ones that are not reliable: a rollout without a
    positive step scores alpha, one without a negative step alpha R. Published: alpha 0.2 with ratio 0.1, alpha 0.05
    with ratio 0.25.
    """

    alpha: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha < float("inf"):
            raise ValueError(f"selector.alpha={self.alpha} is not in [0, inf); give e.g. selector.alpha=0.05")

    def score(self, signals: pa.Table) -> np.ndarray:
        """BIS of every row."""
        p_pos, reliability = signals["p_pos"].to_numpy(), signals["reliability"].to_numpy()
        return (p_pos * (1 - p_pos) + self.alpha) * reliability
