"""Stage 2, curation: the pairs that stage 3 learns from, chosen by what the judge answers. It is unsure where a pair is
hard and where its annotators erred, and needs no label to be so; whether it agrees with the label tells more.

Shape suffixes: P pairs, D draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mprm.data.questions import Pair
from mprm.inference.policy import key_hash
from mprm.metrics.estimate import TAILS, Estimate
from mprm.metrics.pairwise import entropy_bins, told_apart
from mprm.metrics.results import Curation, WrongLabels
from mprm.runs.artifacts import atomic_folder, reading, write_json

DRAWS = 10_000  # random subsets that a curated one is compared with
HELD_OUT = "held_out"  # drop_reason of the pairs that stage 3 is validated on


def held_out(pairs: Sequence[Pair], n: int, seed: int) -> list[str]:
    """Ids of n pairs without a trace, and of those that share question and images with one of them: the first in an
    order that the seed, question and images alone decide. Passed over is what shares them with a trace, which stage 1
    learns. Raises ValueError if that leaves no other.
    """
    places = [key_hash("\0".join([str(seed), one.prompt, *one.images])) for one in pairs]
    learnt = {place for place, one in zip(places, pairs, strict=True) if one.trace is not None}
    pool = sorted((place, one.id) for place, one in zip(places, pairs, strict=True) if place not in learnt)
    taken = {place for place, _ in pool[:n]}
    found = [name for place, name in pool if place in taken]
    if n and len(found) == len(pool):
        raise ValueError(f"grpo.held_out={n} leaves none of {len(pool)} pairs without a trace to train on; lower it")
    return found


def signals_of(pairs: Sequence[Pair], unusable: Mapping[str, str], records: Sequence[dict[str, Any]]) -> pa.Table:
    """One row per pair, source after source as in the signals of rollouts: id, source, ranked, drop_reason (of
    `unusable`), entropy (nats a token), entropy_sum (of all tokens of a response; both the mean over the responses),
    agrees (share of the responses with the label's verdict), flipped.

    records: what respond() has kept of the others.
    """
    of = {record["id"]: record for record in records}
    columns: dict[str, list[float | None]] = {"entropy": [], "entropy_sum": [], "agrees": []}
    for pair in pairs:
        responses = of[pair.id]["responses"] if pair.id in of else []
        entropies, lengths = ([one[key] for one in responses] for key in ("entropy", "n_tokens"))
        right = [one["verdict"] == of[pair.id]["better"] for one in responses]
        for column, values in zip(columns.values(), (entropies, np.multiply(entropies, lengths), right), strict=True):
            column.append(float(np.mean(values)) if responses else None)
    order = pa.array(np.argsort([pair.source for pair in pairs], kind="stable"))
    return pa.table(
        {
            "id": [pair.id for pair in pairs],
            "source": pa.array([pair.source for pair in pairs]).dictionary_encode(),
            "ranked": [pair.id not in unusable for pair in pairs],
            "drop_reason": pa.array([unusable.get(pair.id) for pair in pairs], pa.string()),
            **{name: pa.array(column, pa.float64()) for name, column in columns.items()},
            "flipped": pa.array([pair.flipped for pair in pairs], pa.bool_()),
        }
    ).take(order)


def summarise(signals: pa.Table, kept: pa.Table, selector: Any, traced: int, seed: int) -> Curation:
    """traced: pairs that have a trace, which stage 1 learns from."""
    eligible = signals.filter(signals["ranked"])
    is_kept_P = np.isin(eligible["id"].to_pylist(), kept["id"].to_pylist())
    entropy_P, sum_P, agrees_P = (eligible[name].to_numpy() for name in ("entropy", "entropy_sum", "agrees"))
    source_P = np.array(eligible["source"].to_pylist())
    known = not eligible["flipped"].null_count  # of all pairs
    flipped_P = eligible["flipped"].to_numpy().astype(float) if known else None
    signals_P = {"entropy": entropy_P, "entropy_sum": sum_P, "disagreement": -agrees_P}
    left_out = float(entropy_P[~is_kept_P].mean()) if not is_kept_P.all() else None
    return Curation(
        eligible=eligible.num_rows,
        kept=kept.num_rows,
        selector=type(selector).__name__,
        label=selector.label,
        baseline=selector.baseline,
        settings=asdict(selector),
        dropped={**Counter(signals["drop_reason"].drop_null().to_pylist()), "traced": traced},
        entropy={"kept": float(entropy_P[is_kept_P].mean()), "left_out": left_out},
        bins=entropy_bins(agrees_P, entropy_P, flipped_P=flipped_P),
        flipped=None if flipped_P is None else wrong_labels(source_P, is_kept_P, flipped_P, seed),
        told={} if flipped_P is None else {name: told_apart(one, flipped_P == 0) for name, one in signals_P.items()},
    )


def wrong_labels(source_P: np.ndarray, is_kept_P: np.ndarray, flipped_P: np.ndarray, seed: int) -> WrongLabels:
    """Share of wrong labels among the kept pairs, and in random subsets with as many pairs of every source."""
    rng = np.random.default_rng(seed)
    drawn_D = np.zeros(DRAWS)
    for source in np.unique(source_P):
        rows = source_P == source
        wrong = int(flipped_P[rows].sum())
        drawn_D += rng.hypergeometric(wrong, int(rows.sum()) - wrong, int(is_kept_P[rows].sum()), size=DRAWS)
    random_D = drawn_D / is_kept_P.sum()
    kept, random = float(flipped_P[is_kept_P].mean()), float(random_D.mean())
    low, high = map(float, np.quantile(kept - random_D, TAILS))
    return WrongLabels(kept=kept, random=random, difference=Estimate(kept - random, low, high))


def write_curated(folder: Path, signals: pa.Table, kept: pa.Table, summary: Curation) -> None:
    """manifest.json: the summary; signals.parquet: of all pairs; kept.parquet: of the kept, with score and rank."""
    with atomic_folder(folder) as temporary:
        pq.write_table(signals, temporary / "signals.parquet")
        pq.write_table(kept, temporary / "kept.parquet")
        write_json(temporary / "manifest.json", asdict(summary))


def read_kept(folder: Path) -> tuple[list[str], np.ndarray, list[str]]:
    """Ids of the kept pairs, their entropies, (P,), and ids of those held out that the judge can look at."""
    with reading(folder / "kept.parquet"):
        kept = pq.read_table(folder / "kept.parquet", columns=["id", "entropy"])
    with reading(folder / "signals.parquet"):
        pairs = pq.read_table(folder / "signals.parquet", columns=["id", "drop_reason"]).to_pylist()
    held = [row["id"] for row in pairs if row["drop_reason"] == HELD_OUT]
    return kept["id"].to_pylist(), kept["entropy"].to_numpy(), held
