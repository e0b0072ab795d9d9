"""In which order the kept rollouts are trained on."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Order(Protocol):
    """A component of the config group `order`."""

    def epoch(self, count: int, seed: int, epoch: int) -> np.ndarray:
        """The positions 0..count-1 in the order of this epoch; a function of its arguments alone."""
        ...


@dataclass(frozen=True, kw_only=True)
class Shuffled:
    """A new random order every epoch."""

    def epoch(self, count: int, seed: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(count)


@dataclass(frozen=True, kw_only=True)
class FileOrder:
    """Sources in name order, rollouts in file order, the same every epoch."""

    def epoch(self, count: int, seed: int, epoch: int) -> np.ndarray:
        return np.arange(count)
