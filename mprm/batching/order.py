"""In which order the kept rollouts are trained on, and which solutions share a forward pass.

A forward pass is a row of at most so many tokens. A solution costs its tokens; solutions of one question in one row
cost their common prefix once.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np


class Order(Protocol):
    """A component of the config group `order`."""

    uses_entropy: ClassVar[bool] = False  # True: the entropies of the kept rollouts are computed before the training

    def epoch(self, question_N: np.ndarray, entropy_N: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """The positions 0..N-1 in the order of this epoch; a function of its arguments alone.

        question_N: an integer per rollout, the same for the same images and question; entropy_N: float64, NaN where it
        was not computed.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Shuffled(Order):
    """A new random order every epoch."""

    def epoch(self, question_N: np.ndarray, entropy_N: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(len(question_N))


@dataclass(frozen=True, kw_only=True)
class ShuffledQuestions(Order):
    """A new random order of the questions every epoch; the rollouts of one follow each other, so that they share a
    forward pass and their prefix is computed once."""

    def epoch(self, question_N: np.ndarray, entropy_N: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        _, number_N = np.unique(question_N, return_inverse=True)
        place = np.random.default_rng([seed, epoch]).permutation(number_N.max() + 1)
        return np.argsort(place[number_N], kind="stable")


@dataclass(frozen=True, kw_only=True)
class FileOrder(Order):
    """Sources in name order, rollouts in file order, the same every epoch."""

    def epoch(self, question_N: np.ndarray, entropy_N: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        return np.arange(len(question_N))


@dataclass(frozen=True, kw_only=True)
class LowToHigh(Order):
    """Lowest entropy first, the same every epoch; equal ones in file order, those without one last."""

    uses_entropy: ClassVar[bool] = True

    def epoch(self, question_N: np.ndarray, entropy_N: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        return np.argsort(entropy_N, kind="stable")  # NaN goes last


@dataclass(frozen=True, kw_only=True)
class HighToLow(Order):
    """Highest entropy first, the same every epoch; equal ones in file order, those without one last."""

    uses_entropy: ClassVar[bool] = True

    def epoch(self, question_N: np.ndarray, entropy_N: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        return np.argsort(-entropy_N, kind="stable")  # NaN goes last


# ---- rows


@dataclass(frozen=True)
class Lengths:
    """Per solution: its tokens; how many of them all solutions of its question begin with; its question (any integer,
    the same for the same images and question)."""

    tokens: np.ndarray
    shared: np.ndarray
    question: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def cost(self, row: list[int]) -> int:
        """Tokens of a row at the most: solutions that share more than their whole question does cost less."""
        prefixes = {int(self.question[i]): int(self.shared[i]) for i in row}
        return sum(prefixes.values()) + sum(int(self.tokens[i] - self.shared[i]) for i in row)


def pack(lengths: Lengths, chosen: list[int], max_tokens: int, n_rows: int) -> list[list[int]] | None:
    """Cut the chosen solutions into n_rows rows of about equal cost, longest first; None if a row exceeds max_tokens.

    Solutions of one question stay together as long as they fit. Rows may be empty.
    """
    units = sorted(_units(lengths, chosen, max_tokens), key=lambda unit: (-unit[0], unit[1]))
    rows: list[list[int]] = [[] for _ in range(n_rows)]
    loads = [(0, row) for row in range(n_rows)]
    for cost, unit in units:
        load, row = loads[0]
        if load + cost > max_tokens:
            return None
        rows[row] += unit
        heapq.heapreplace(loads, (load + cost, row))
    return [rows[row] for _, row in sorted(loads, key=lambda one: -one[0])]


def rows_needed(lengths: Lengths, chosen: list[int], max_tokens: int, multiple: int = 1) -> int:
    """The least number of rows into which pack() cuts them, a multiple of `multiple`."""
    costs = [cost for cost, _ in _units(lengths, chosen, max_tokens)]
    assert max(costs) <= max_tokens, "a solution longer than a row is left out before"
    total = sum(costs)
    n_rows = -(-total // (max_tokens * multiple)) * multiple
    while pack(lengths, chosen, max_tokens, n_rows) is None:
        n_rows += multiple
    return n_rows


def _units(lengths: Lengths, chosen: list[int], max_tokens: int) -> list[tuple[int, list[int]]]:
    """(cost, solutions of one question), each as large as fits."""
    questions: dict[int, list[int]] = {}
    for number in chosen:
        questions.setdefault(int(lengths.question[number]), []).append(number)
    units = []
    for members in questions.values():
        unit: list[int] = []
        for number in members:
            if unit and lengths.cost([*unit, number]) > max_tokens:
                units.append(unit)
                unit = []
            unit.append(number)
        units.append(unit)
    return [(lengths.cost(unit), unit) for unit in units]
