"""In which order the kept rollouts are trained on."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np


class Order(Protocol):
    """A component of the config group `order`. uses_entropy: the entropies of the kept rollouts are computed for it."""

    uses_entropy: ClassVar[bool]

    def epoch(self, question_N: np.ndarray, entropy_N: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """The positions 0..N-1 in the order of this epoch; a function of its arguments alone.

        question_N: an integer per rollout, the same for the same images and question; entropy_N: float64, NaN where it
        was not computed.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Shuffled:
    """A new random order every epoch."""

    uses_entropy: ClassVar[bool] = False

    def epoch(self, question_N: np.ndarray, entropy_N: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(len(question_N))


@dataclass(frozen=True, kw_only=True)
class ShuffledQuestions:
    """A new random order of the questions every epoch; the rollouts of one follow each other, so that they share a
    forward pass and their prefix is computed once."""

    uses_entropy: ClassVar[bool] = False

    def epoch(self, question_N: np.ndarray, entropy_N: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        _, number_N = np.unique(question_N, return_inverse=True)
        place = np.random.default_rng([seed, epoch]).permutation(number_N.max() + 1)
        return np.argsort(place[number_N], kind="stable")


@dataclass(frozen=True, kw_only=True)
class FileOrder:
    """Sources in name order, rollouts in file order, the same every epoch."""

    uses_entropy: ClassVar[bool] = False

    def epoch(self, question_N: np.ndarray, entropy_N: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        return np.arange(len(question_N))


@dataclass(frozen=True, kw_only=True)
class LowToHigh:
    """Lowest entropy first, the same every epoch; equal ones in file order, those without one last."""

    uses_entropy: ClassVar[bool] = True

    def epoch(self, question_N: np.ndarray, entropy_N: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        return np.argsort(entropy_N, kind="stable")  # NaN goes last
