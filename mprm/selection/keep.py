"""From scores to the rollouts that are kept."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from mprm.selection.signals import NUMERIC, source_rows


@dataclass(frozen=True, kw_only=True)
class Selector(ABC):
    """Base of the selectors: how many rollouts are kept, of what, and which of equal scores go first.

    ratio or count: the fraction or the number of ranked rollouts to keep; the other one is null. A ratio keeps
    max(1, int(m * ratio)) of m, as published. scope: "source" keeps so many of every source, "global" of all together.
    ties: "file_order" (published), or a column of the signals table, of which the larger value goes first, the smaller
    one when the name begins with "-"; what is still equal keeps file order. uses_entropy: score() wants the column
    entropy, which no signals table has by itself.
    """

    uses_entropy: ClassVar[bool] = False

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

    @abstractmethod
    def score(self, signals: pa.Table) -> np.ndarray:
        """Score of every row, float64, larger is better; rows that are not ranked may get anything."""

    def size(self, ranked: int) -> int:
        """How many of `ranked` > 0 rollouts are kept."""
        if self.count is not None:
            return min(self.count, ranked)
        assert self.ratio is not None
        return max(1, int(ranked * self.ratio))


def keep(signals: pa.Table, selector: Selector) -> pa.Table:
    """The rows of `signals` that the selector keeps, in their order there.

    Any table with the columns source, ranked and drop_reason will do that has what the selector looks at.

    Added columns: score; rank, 1 for the best of the scope; tie_group, the number of different scores from the best
    down to this one. Under the published cleaning, rollouts that can not be trained on lose their place only here.

    Raises ValueError if the selector needs a signal that the table has not.
    """
    score = _scored(signals, selector)
    rank = np.zeros(len(score), dtype=np.int64)
    tie_group = np.zeros(len(score), dtype=np.int64)
    ranked = signals["ranked"].to_numpy()
    scopes = source_rows(signals).values() if selector.scope == "source" else [np.arange(len(score))]
    chosen = np.zeros(len(score), dtype=bool)
    for rows in scopes:
        rows = rows[ranked[rows]]
        if rows.size:
            size = selector.size(rows.size)
            least = np.partition(score[rows], rows.size - size)[rows.size - size]
            rows = rows[score[rows] >= least]  # the rest need not be sorted
            order = rows[_best_first(signals, selector.ties, rows, score)]
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
        return selector.score(signals)
    except KeyError as error:  # pyarrow's, which quotes the column
        needed = [name for name in NUMERIC if f'"{name}"' in str(error)]
        if not needed:
            raise
        choice = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(selector).__name__).lower()
        raise ValueError(
            f"selector={choice} needs {needed[0]}, which pairs do not have; choose entropy, random or full"
        ) from None


def _best_first(signals: pa.Table, ties: str, rows: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Positions in `rows`, best first."""
    if ties == "file_order":
        return np.argsort(-score[rows], kind="stable")
    second = signals[ties.removeprefix("-")].to_numpy()[rows].astype(np.float64)
    return np.lexsort((second if ties.startswith("-") else -second, -score[rows]))  # stable, last key first
