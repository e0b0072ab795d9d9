"""From the scores of a selector to the rollouts that are kept, and the ways to deal out places by more than a score."""

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa

from mprm.selection.signals import NUMERIC, source_rows

if TYPE_CHECKING:
    from mprm.selection.selectors import Selector

Answer = TypeVar("Answer")

STRATA = 5


def keep(signals: pa.Table, selector: "Selector") -> pa.Table:
    """The rows of `signals` that the selector keeps, in their order there.

    Any table with the columns source, ranked and drop_reason will do that has what the selector looks at.

    Added columns: score; rank, 1 for the first of the scope; tie_group, the number of different scores from the best
    down to this one; tie_size, the number of ranked rows of the scope that have this score. Under the published
    cleaning, rollouts that cannot be trained on lose their place only here.

    Raises ValueError if the selector needs a signal that the table does not have.
    """
    score, second = _scored(signals, selector), _second(signals, selector)
    rank, tie_group, tie_size = (np.zeros(len(score), dtype=np.int64) for _ in range(3))
    ranked = signals["ranked"].to_numpy()
    scopes = source_rows(signals).values() if selector.scope == "source" else [np.arange(len(score))]
    orders, sizes = [], []
    for rows in scopes:
        rows = rows[ranked[rows]]
        if rows.size:
            size = selector.count if selector.count is not None else max(1, int(rows.size * (selector.ratio or 0)))
            size = min(size, rows.size)
            if not selector.rearranges:
                least = np.partition(score[rows], rows.size - size)[rows.size - size]
                rows = rows[score[rows] >= least]  # the rest need not be sorted
            order = rows[np.lexsort((second[rows], -score[rows]))]  # stable, the last key first
            tie_group[order] = 1 + np.cumsum(np.append(False, score[order[1:]] != score[order[:-1]]))
            tie_size[order] = np.bincount(tie_group[order])[tie_group[order]]
            orders.append(order)
            sizes.append(size)
    if selector.rearranges:
        orders = _asked(selector, lambda: selector.arrange(signals, orders, sizes))
    chosen = np.zeros(len(score), dtype=bool)
    for order, size in zip(orders, sizes, strict=True):
        rank[order] = np.arange(1, order.size + 1)
        chosen[order[:size]] = True
    chosen &= signals["drop_reason"].is_null().to_numpy()
    kept = signals.filter(pa.array(chosen))
    for name, values in (("score", score), ("rank", rank), ("tie_group", tie_group), ("tie_size", tie_size)):
        kept = kept.append_column(name, pa.array(values[chosen]))
    return kept


def _scored(signals: pa.Table, selector: "Selector") -> np.ndarray:
    score = _asked(selector, lambda: selector.score(signals))
    if score.shape != (signals.num_rows,) or np.isnan(score[signals["ranked"].to_numpy()]).any():
        raise ValueError(f"selector: {selector.label} gives no score for some rollouts; return one number per row")
    return score


def _second(signals: pa.Table, selector: "Selector") -> np.ndarray:
    """What decides between equal scores, the smaller first; what is equal here, too, keeps file order."""
    if selector.ties == "file_order":
        return np.zeros(signals.num_rows)
    if selector.ties == "random":
        return uniform(signals, selector.seed, "ties")
    column = selector.ties.removeprefix("-")
    if column not in signals.column_names:
        raise ValueError(f"selector.ties={selector.ties} is nothing that pairs have; choose selector.ties=file_order")
    values = signals[column].to_numpy().astype(np.float64)
    return values if selector.ties.startswith("-") else -values


def _asked(selector: "Selector", question: Callable[[], Answer]) -> Answer:
    """What the selector says; ValueError if it looks for a column that is not there."""
    try:
        return question()
    except KeyError as error:  # pyarrow's, which quotes the column
        needed = [name for name in (*NUMERIC, "question_hash") if f'"{name}"' in str(error)]
        if not needed:
            raise
        raise ValueError(
            f"selector: {selector.label} needs {needed[0]}, which pairs do not have; choose entropy, random or full"
        ) from None


def uniform(signals: pa.Table, seed: int, purpose: str = "") -> np.ndarray:
    """A draw in [0, 1) per row, which depends on the seed, the purpose and the row's own source, not on the others."""
    draws = np.empty(signals.num_rows)
    for source, rows in source_rows(signals).items():
        digest = hashlib.sha256((f"{purpose}:{source}" if purpose else source).encode()).digest()
        draws[rows] = np.random.default_rng([seed, int.from_bytes(digest[:8], "little")]).random(rows.size)
    return draws


# ---- another order of the rows of one scope, best first


def one_of_each(order: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The first row of every group, then the second ones, and so on. groups: one of every row of the table."""
    return order[np.argsort(_places_within(groups[order]), kind="stable")]


def balanced(order: np.ndarray, values: np.ndarray) -> np.ndarray:
    """However many come first, as large a share of each of five strata of equal size. values: of all rows."""
    stratum = np.searchsorted(np.quantile(values[order], np.arange(1, STRATA) / STRATA), values[order])
    share = (_places_within(stratum) + 0.5) / np.bincount(stratum)[stratum]
    return order[np.argsort(share, kind="stable")]


def shuffled(order: np.ndarray, where: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """The rows in these places of the order change places with each other. draws: of all rows, the smallest first."""
    mixed = order.copy()
    mixed[where] = order[where][np.argsort(draws[order[where]], kind="stable")]
    return mixed


def _places_within(groups: np.ndarray) -> np.ndarray:
    """For every element the number of earlier ones of its group."""
    by_group = np.argsort(groups, kind="stable")
    number = np.arange(groups.size)
    begins = np.append(True, groups[by_group][1:] != groups[by_group][:-1])
    places = np.empty(groups.size, dtype=np.int64)
    places[by_group] = number - np.maximum.accumulate(np.where(begins, number, 0))
    return places
