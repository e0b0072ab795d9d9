"""Stage 2, curation: the pairs that stage 3 learns from, chosen by the entropy of the judge's own responses.

The judge is unsure where a pair is hard and where its annotators erred, and needs no label to be so.

Shape suffixes: P pairs, E bins of entropy, D draws.
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

from mprm.data.preferences import Pair
from mprm.inference.policy import key_hash
from mprm.judge.judge import PresentedPair, present
from mprm.metrics.estimate import TAILS, Estimate
from mprm.metrics.pairwise import entropy_bins
from mprm.metrics.results import Curation, WrongLabels, as_json
from mprm.runs.artifacts import atomic_folder, reading, write_json

DRAWS = 10_000  # random subsets that a curated one is compared with


def in_seeded_order(one: PresentedPair, seed: int) -> PresentedPair:
    """The pair with its answers in an order that the seed and the pair alone decide."""
    return present(one.pair, one.images, key_hash(f"{seed}\0{one.pair.id}") % 2 == 1)


def signals_of(pairs: Sequence[Pair], unusable: Mapping[str, str], records: Sequence[dict[str, Any]]) -> pa.Table:
    """One row per pair, source after source: id, source, ranked, drop_reason (of `unusable`), entropy (nats, the mean
    over the judge's responses), agrees (share of the responses whose verdict is that of the label), flipped.

    records: what respond() has kept of the other pairs.
    """
    of = {record["id"]: record for record in records}
    entropy, agrees = [], []
    for pair in pairs:
        responses = of[pair.id]["responses"] if pair.id in of else []
        entropy.append(float(np.mean([one["entropy"] for one in responses])) if responses else None)
        right = [one["verdict"] == of[pair.id]["better"] for one in responses]
        agrees.append(float(np.mean(right)) if right else None)
    # The rows of a source stand together, as in the signals of rollouts.
    order = pa.array(np.argsort([pair.source for pair in pairs], kind="stable"))
    return pa.table(
        {
            "id": [pair.id for pair in pairs],
            "source": pa.array([pair.source for pair in pairs]).dictionary_encode(),
            "ranked": [pair.id not in unusable for pair in pairs],
            "drop_reason": pa.array([unusable.get(pair.id) for pair in pairs], pa.string()),
            "entropy": pa.array(entropy, pa.float64()),
            "agrees": pa.array(agrees, pa.float64()),
            "flipped": pa.array([pair.flipped for pair in pairs], pa.bool_()),
        }
    ).take(order)


def summarise(signals: pa.Table, kept: pa.Table, selector: Any, traced: int, seed: int) -> Curation:
    """What is said of a curation. traced: pairs that have a trace, which stage 1 learns from."""
    eligible = signals.filter(signals["ranked"])
    is_kept_P = np.isin(eligible["id"].to_pylist(), kept["id"].to_pylist())
    entropy_P, agrees_P = (eligible[name].to_numpy() for name in ("entropy", "agrees"))
    source_P, flipped_P = np.array(eligible["source"].to_pylist()), known_flips(eligible)
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
        bins=entropy_bins(agrees_P, entropy_P, seed, flipped_P=flipped_P),
        flipped=None if flipped_P is None else wrong_labels(source_P, is_kept_P, flipped_P, seed),
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


def known_flips(eligible: pa.Table) -> np.ndarray | None:
    """1 for a wrong label, 0 for a right one, (P,); None unless all are known."""
    if eligible["flipped"].null_count:
        return None
    return eligible["flipped"].to_numpy().astype(float)


def write_curated(folder: Path, signals: pa.Table, kept: pa.Table, summary: Curation) -> None:
    """manifest.json: the summary; signals.parquet: of all pairs; kept.parquet: of the kept, with score and rank."""
    with atomic_folder(folder) as temporary:
        pq.write_table(signals, temporary / "signals.parquet")
        pq.write_table(kept, temporary / "kept.parquet")
        write_json(temporary / "manifest.json", as_json(summary))


def read_kept(folder: Path) -> tuple[list[str], np.ndarray]:
    """Ids of the kept pairs, and their entropies, (P,)."""
    with reading(folder / "kept.parquet"):
        kept = pq.read_table(folder / "kept.parquet", columns=["id", "entropy"])
    return kept["id"].to_pylist(), kept["entropy"].to_numpy()
