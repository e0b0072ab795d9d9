"""What decides which rollouts are kept: scores and ties, and how many of what, of the parts of a mixture by their
weights."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TypeVar

import numpy as np
import pyarrow as pa

from mprm.data.mixture import Mixture, part_of
from mprm.runs.manifest import Part, SourceCounts
from mprm.selection.selectors import Selector
from mprm.selection.signals import NUMERIC, source_rows, uniform

Answer = TypeVar("Answer")


def places(
    signals: pa.Table, selector: Selector, weights: Mapping[str, float] | None = None
) -> list[tuple[np.ndarray, int]]:
    """The ranked rows of every scope, and how many of them are kept: max(1, int(m * ratio)) of m, as published.

    weights: of the parts of a mixture. As many rollouts are kept as without, divided among the parts by their weights.
    Within a part its sources share the places as they do without; with scope=global a part is a scope.
    """
    ranked, apart = signals["ranked"].to_numpy(), selector.scope == "source"
    rows: dict[str, np.ndarray] = {}
    for source, of_source in source_rows(signals).items():
        scope = source if apart else part_of(source) if weights else ""
        if (found := of_source[ranked[of_source]]).size:
            rows[scope] = np.append(rows[scope], found) if scope in rows else found
    sizes = {scope: _size(selector, found.size) for scope, found in rows.items()}
    if weights:
        total = sum(sizes.values()) if apart else _size(selector, int(ranked.sum()))
        parts = [[scope for scope in rows if part_of(scope) == part] for part in weights]
        limits = [sum(rows[scope].size for scope in scopes) for scopes in parts]
        for scopes, share in zip(parts, apportioned(total, [*weights.values()], limits), strict=True):
            usual, most = [sizes[scope] for scope in scopes], [rows[scope].size for scope in scopes]
            sizes |= zip(scopes, apportioned(share, usual, most), strict=True)
    return [(found, sizes[scope]) for scope, found in rows.items()]


def _size(selector: Selector, m: int) -> int:
    return min(m, selector.count if selector.count is not None else max(1, int(m * (selector.ratio or 0))))


def apportioned(total: int, weights: Sequence[float], limits: Sequence[int]) -> list[int]:
    """`total` places, at most the sum of the limits, in proportion to the weights: what is beyond a limit goes to the
    others in the same way, and what is left of rounding down to the largest remainders, the first of equal ones."""
    whole = sum(map(Fraction, weights))
    exact = [total * Fraction(weight) / whole for weight in weights]
    within = [place for place, limit in enumerate(limits) if exact[place] <= limit]
    if len(within) < len(exact):
        rest = total - sum(limit for place, limit in enumerate(limits) if place not in within)
        others = apportioned(rest, [weights[place] for place in within], [limits[place] for place in within])
        shares = dict(zip(within, others, strict=True))
        return [shares.get(place, limit) for place, limit in enumerate(limits)]
    found = [int(share) for share in exact]
    for place in sorted(range(len(found)), key=lambda place: found[place] - exact[place])[: total - sum(found)]:
        found[place] += 1
    return found


def scored(signals: pa.Table, selector: Selector) -> np.ndarray:
    score = asked(signals, selector, lambda: selector.score(signals))
    if score.shape != (signals.num_rows,) or np.isnan(score[signals["ranked"].to_numpy()]).any():
        raise ValueError(f"selector: {selector.label} gives no score for some rollouts; return one number per row")
    return score


def second_of(signals: pa.Table, selector: Selector) -> np.ndarray:
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


def asked(signals: pa.Table, selector: Selector, question: Callable[[], Answer]) -> Answer:
    """What the selector says of the signals; ValueError if it looks for a column that is not there."""
    try:
        return question()
    except KeyError as error:  # pyarrow's, which quotes the column
        columns = (*NUMERIC, "question_hash", "entropy_sum", "agrees")
        needed = [name for name in columns if f'"{name}"' in str(error)]
        if not needed:
            raise
        who = "rollouts" if "n_steps" in signals.column_names else "pairs"
        raise ValueError(
            f"selector: {selector.label} needs {needed[0]}, which {who} do not have; choose entropy, random or full"
        ) from None


def parts_kept(mixture: Mixture, sources: Mapping[str, SourceCounts], kept: pa.Table) -> dict[str, Part]:
    """Of every part."""
    n_steps, weights = kept["n_steps"].to_numpy(), mixture.weights or {}
    steps = {source: int(n_steps[rows].sum()) for source, rows in source_rows(kept).items()}
    found = {}
    for name in mixture.parts:
        own = {source: counts for source, counts in sources.items() if part_of(source) == name}
        n_kept, n_own = sum(counts.kept for counts in own.values()), sum(steps.get(source, 0) for source in own)
        found[name] = Part(
            asked=weights[name] / sum(weights.values()) if weights else None,
            eligible=sum(counts.eligible for counts in own.values()),
            kept=n_kept,
            share=n_kept / kept.num_rows,
            steps=n_own,
            step_share=n_own / int(n_steps.sum()),
        )
    return found
