"""The selectors: BIS, the baselines of its paper (arXiv 2602.04145), and the entropy of arXiv 2602.01884; and from
their scores to the rollouts that are kept."""

import hashlib
import re
from dataclasses import dataclass, fields
from typing import ClassVar, Protocol

import numpy as np
import pyarrow as pa

from mprm.selection.signals import NUMERIC, source_rows


class Selector(Protocol):
    """A component of the group `selector`. RankedSelector has all but the score."""

    uses_entropy: ClassVar[bool]  # score() wants the column entropy, which no signals table has by itself
    baseline: ClassVar[bool]  # figures draw it as a line to compare with

    @property
    def label(self) -> str:
        """What figures and tables call it, with the fields that set it apart from others of its kind."""

    @property
    def ratio(self) -> float | None:
        """Fraction of the ranked rows to keep: max(1, int(m * ratio)) of m, as published. None: see count."""

    @property
    def count(self) -> int | None:
        """Number of the ranked rows to keep. None: see ratio."""

    @property
    def scope(self) -> str:
        """ "source" keeps so many of every source, "global" of all together."""

    @property
    def ties(self) -> str:
        """Which of equal scores goes first: "file_order" (published), or a column of the signals table, of which the
        larger value goes first, the smaller one when the name begins with "-"; what is still equal keeps file order."""

    def score(self, signals: pa.Table) -> np.ndarray:
        """Score of every row, float64, larger is better; rows that are not ranked may get anything."""


@dataclass(frozen=True, kw_only=True)
class RankedSelector:
    """Base of the selectors: a subclass gives every row a score, and the best are kept."""

    uses_entropy: ClassVar[bool] = False
    baseline: ClassVar[bool] = False

    ratio: float | None = 0.1
    count: int | None = None
    scope: str = "source"
    ties: str = "file_order"

    def __post_init__(self) -> None:
        if (self.ratio is None) == (self.count is None):
            raise ValueError(
                f"selector.ratio={self.ratio} and selector.count={self.count}: set one of them and leave the other null"
            )
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ValueError(
                f"selector.ratio={self.ratio} is not in (0, 1]; "
                "give the fraction of rollouts to keep, e.g. selector.ratio=0.1"
            )
        if self.count is not None and self.count < 1:
            raise ValueError(f"selector.count={self.count} is not positive; give the number of rollouts to keep")
        if self.scope not in ("source", "global"):
            raise ValueError(f"selector.scope={self.scope} is unknown; choose source or global")
        if self.ties != "file_order" and self.ties.removeprefix("-") not in NUMERIC:
            raise ValueError(
                f"selector.ties={self.ties} is unknown; choose file_order or one of {', '.join(NUMERIC)}, "
                "with a leading - for the smaller first"
            )

    @property
    def label(self) -> str:
        """The class in words and what sets it apart: its own fields, and an unusual scope or ties."""
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(self).__name__)
        common = {field.name for field in fields(RankedSelector)} | {"seed"}
        told = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in common and (value or value != field.default):
                told.append(f"{field.name} {value:g}" if isinstance(value, float) else f"{field.name} {value}")
        if self.scope == "global":
            told.append("global")
        if self.ties != "file_order":
            told.append(f"ties {self.ties}")
        return f"{words} ({', '.join(told)})" if told else words

    def score(self, signals: pa.Table) -> np.ndarray:
        """Score of every row, float64, larger is better; rows that are not ranked may get anything."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class BIS(RankedSelector):
    """Balanced-Information Score (arXiv 2602.04145): BIS = (p_pos (1 - p_pos) + alpha) R, how mixed the step labels
    are, times how reliable the positive ones.

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
        p_pos, reliability = signals["p_pos"].to_numpy(), signals["reliability"].to_numpy()
        return (p_pos * (1 - p_pos) + self.alpha) * reliability


@dataclass(frozen=True, kw_only=True)
class Full(RankedSelector):
    """Every rollout that can be trained on."""

    baseline = True

    ratio: float | None = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio != 1.0:
            raise ValueError(
                f"selector=full keeps everything, not ratio={self.ratio} count={self.count}; "
                "leave them out, or choose selector=random"
            )

    def score(self, signals: pa.Table) -> np.ndarray:
        return np.zeros(signals.num_rows)


@dataclass(frozen=True, kw_only=True)
class Seeded(RankedSelector):
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

    baseline = True

    def score(self, signals: pa.Table) -> np.ndarray:
        return self.uniform(signals)


@dataclass(frozen=True, kw_only=True)
class Mixed(Seeded):
    """Mixed rollouts (with a positive and a negative step) in random order, then the rest in random order."""

    def score(self, signals: pa.Table) -> np.ndarray:
        p_pos = signals["p_pos"].to_numpy()
        return ((p_pos > 0) & (p_pos < 1)) + self.uniform(signals)


@dataclass(frozen=True, kw_only=True)
class Reliable(RankedSelector):
    """Largest mean score of the positive steps first; a rollout without one counts as 1."""

    def score(self, signals: pa.Table) -> np.ndarray:
        return signals["reliability"].to_numpy()


@dataclass(frozen=True, kw_only=True)
class LowMC(RankedSelector):
    """Smallest mean score of the steps first."""

    def score(self, signals: pa.Table) -> np.ndarray:
        return -signals["mean_mc"].to_numpy()


@dataclass(frozen=True, kw_only=True)
class Entropy(RankedSelector):
    """Lowest entropy under the model that is to be trained first; what has none comes last."""

    uses_entropy = True

    # The share of all ranked rows, those with the lowest entropy, that goes behind the others, the least sure of them
    # first: what the model is sure of anyway teaches nothing.
    floor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.floor < 1:
            raise ValueError(
                f"selector.floor={self.floor} is not in [0, 1); "
                "give the share of rollouts that the model is sure of, e.g. selector.floor=0.05"
            )

    def score(self, signals: pa.Table) -> np.ndarray:
        entropy = signals["entropy"].to_numpy()
        ranked = np.flatnonzero(signals["ranked"].to_numpy())
        score = -entropy
        lowest = ranked[np.argsort(entropy[ranked], kind="stable")][: int(self.floor * len(ranked))]
        score[lowest] = entropy[lowest] - 2 * np.nanmax(entropy, initial=0) - 1
        return np.where(np.isnan(score), -np.inf, score)


def keep(signals: pa.Table, selector: Selector) -> pa.Table:
    """The rows of `signals` that the selector keeps, in their order there.

    Any table with the columns source, ranked and drop_reason will do that has what the selector looks at.

    Added columns: score; rank, 1 for the best of the scope; tie_group, the number of different scores from the best
    down to this one. Under the published cleaning, rollouts that cannot be trained on lose their place only here.

    Raises ValueError if the selector needs a signal that the table does not have.
    """
    score = _scored(signals, selector)
    rank = np.zeros(len(score), dtype=np.int64)
    tie_group = np.zeros(len(score), dtype=np.int64)
    ranked, second = signals["ranked"].to_numpy(), np.zeros(len(score))
    if selector.ties != "file_order":
        second = signals[selector.ties.removeprefix("-")].to_numpy().astype(np.float64)
        second = second if selector.ties.startswith("-") else -second
    scopes = source_rows(signals).values() if selector.scope == "source" else [np.arange(len(score))]
    chosen = np.zeros(len(score), dtype=bool)
    for rows in scopes:
        rows = rows[ranked[rows]]
        if rows.size:
            size = selector.count if selector.count is not None else max(1, int(rows.size * (selector.ratio or 0)))
            size = min(size, rows.size)
            least = np.partition(score[rows], rows.size - size)[rows.size - size]
            rows = rows[score[rows] >= least]  # the rest need not be sorted
            order = rows[np.lexsort((second[rows], -score[rows]))]  # stable, the last key first
            rank[order] = np.arange(1, order.size + 1)
            tie_group[order] = 1 + np.cumsum(np.append(False, score[order[1:]] != score[order[:-1]]))
            chosen[order[:size]] = True
    chosen &= signals["drop_reason"].is_null().to_numpy()
    kept = signals.filter(pa.array(chosen))
    for name, values in (("score", score), ("rank", rank), ("tie_group", tie_group)):
        kept = kept.append_column(name, pa.array(values[chosen]))
    return kept


def _scored(signals: pa.Table, selector: Selector) -> np.ndarray:
    if selector.ties != "file_order" and selector.ties.removeprefix("-") not in signals.column_names:
        raise ValueError(f"selector.ties={selector.ties} is nothing that pairs have; choose selector.ties=file_order")
    try:
        score = selector.score(signals)
    except KeyError as error:  # pyarrow's, which quotes the column
        needed = [name for name in NUMERIC if f'"{name}"' in str(error)]
        if not needed:
            raise
        raise ValueError(
            f"selector: {selector.label} needs {needed[0]}, which pairs do not have; choose entropy, random or full"
        ) from None
    if score.shape != (signals.num_rows,) or np.isnan(score[signals["ranked"].to_numpy()]).any():
        raise ValueError(f"selector: {selector.label} gives no score for some rollouts; return one number per row")
    return score
