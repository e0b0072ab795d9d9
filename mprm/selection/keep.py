"""What a selector is, and from its scores to the rollouts that are kept."""

from typing import ClassVar, Protocol

import numpy as np
import pyarrow as pa

from mprm.selection.signals import NUMERIC, source_rows


class Selector(Protocol):
    """A component of the group `selector`. RankedSelector in mprm.selection.selectors has all but the score."""

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
    ranked = signals["ranked"].to_numpy()
    scopes = source_rows(signals).values() if selector.scope == "source" else [np.arange(len(score))]
    chosen = np.zeros(len(score), dtype=bool)
    for rows in scopes:
        rows = rows[ranked[rows]]
        if rows.size:
            size = selector.count if selector.count is not None else max(1, int(rows.size * (selector.ratio or 0)))
            size = min(size, rows.size)
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


def _best_first(signals: pa.Table, ties: str, rows: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Positions in `rows`, best first."""
    if ties == "file_order":
        return np.argsort(-score[rows], kind="stable")
    second = signals[ties.removeprefix("-")].to_numpy()[rows].astype(np.float64)
    return np.lexsort((second if ties.startswith("-") else -second, -score[rows]))  # stable, last key first
