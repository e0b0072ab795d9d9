"""The baselines that arXiv 2602.04145 compares with."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mprm.selection.keep import Selector
from mprm.selection.signals import source_rows


@dataclass(frozen=True, kw_only=True)
class Full(Selector):
    """Every rollout that can be trained on."""

    ratio: float | None = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio != 1.0:
            raise ValueError(
                f"selector=full keeps everything, not ratio={self.ratio} count={self.count}; "
                "leave them out, or choose selector=random"
            )

    def score(self, signals: pa.Table) -> np.ndarray:
        """All equal."""
        return np.zeros(signals.num_rows)


@dataclass(frozen=True, kw_only=True)
class Seeded(Selector):
    """Base of the selectors that draw: one draw per rollout, the same whatever ratio, count and scope are."""

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed < 0:
            raise ValueError(f"selector.seed={self.seed} is negative; give 0 or more")

    def uniform(self, signals: pa.Table) -> np.ndarray:
        """A draw in [0, 1) per row, which depends on the seed and the row's own source, not on the other sources."""
        draws = np.empty(signals.num_rows)
        for source, rows in source_rows(signals).items():
            digest = hashlib.sha256(source.encode()).digest()
            draws[rows] = np.random.default_rng([self.seed, int.from_bytes(digest[:8], "little")]).random(rows.size)
        return draws


@dataclass(frozen=True, kw_only=True)
class Random(Seeded):
    """Uniformly at random. With one seed a smaller ratio keeps a part of what a larger one keeps."""

    def score(self, signals: pa.Table) -> np.ndarray:
        """Uniform in [0, 1)."""
        return self.uniform(signals)


@dataclass(frozen=True, kw_only=True)
class Mixed(Seeded):
    """Mixed rollouts (with a positive and a negative step) in random order, then the rest in random order."""

    def score(self, signals: pa.Table) -> np.ndarray:
        """1 for a mixed rollout, plus uniform in [0, 1)."""
        p_pos = signals["p_pos"].to_numpy()
        return ((p_pos > 0) & (p_pos < 1)) + self.uniform(signals)


@dataclass(frozen=True, kw_only=True)
class Reliable(Selector):
    """Largest mean score of the positive steps first; a rollout without one counts as 1."""

    def score(self, signals: pa.Table) -> np.ndarray:
        """R."""
        return signals["reliability"].to_numpy()


@dataclass(frozen=True, kw_only=True)
class LowMC(Selector):
    """Smallest mean score of the steps first."""

    def score(self, signals: pa.Table) -> np.ndarray:
        """Minus the mean MC score."""
        return -signals["mean_mc"].to_numpy()
