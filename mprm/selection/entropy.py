"""How uncertain the model that is to be trained is of the solution: what it finds easy comes first."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from mprm.selection.keep import Selector


@dataclass(frozen=True, kw_only=True)
class Entropy(Selector):
    """Lowest entropy first; what has none comes last.

    floor: the share of all ranked rows, those with the lowest entropy, that goes behind the others: what the model is
    sure of anyway teaches nothing. The least sure of these come first.
    """

    uses_entropy: ClassVar[bool] = True

    floor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.floor < 1:
            raise ValueError(
                f"selector.floor={self.floor} is not in [0, 1); "
                "give the share of rollouts that the model is sure of, e.g. selector.floor=0.05"
            )

    def score(self, signals: pa.Table) -> np.ndarray:
        """Minus the entropy; below all of these for the floor, and -inf where there is no entropy."""
        entropy = signals["entropy"].to_numpy()
        ranked = np.flatnonzero(signals["ranked"].to_numpy())
        score = -entropy
        lowest = ranked[np.argsort(entropy[ranked], kind="stable")][: int(self.floor * len(ranked))]
        score[lowest] = entropy[lowest] - 2 * np.nanmax(entropy, initial=0) - 1
        return np.where(np.isnan(score), -np.inf, score)
