"""Entropies of rollouts under the backbone as it lies in its folder: computed once, and kept in the cache."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mprm.config import Config
from mprm.stages.models import check_devices, device, identity, load_backbone, max_tokens, open_by
from mprm.terminal import listed, tracked

if TYPE_CHECKING:
    import pyarrow as pa

    from mprm.runs.journal import Journal

FORMAT_VERSION = 1  # enters the key of the cache: raise it when entropies change their meaning
AT_ONCE = 64  # rollouts: what a kill can lose
RESTORABLE = ("missing_image_file", "unreadable_image")  # looked for again the next time

Found = dict[str, "float | str"]  # by the rollout's id: its entropy, or why it has none


def add_entropy(cfg: Config, rows: pa.Table) -> pa.Table:
    """Rows of a signals table with the columns entropy, in nats, and no_entropy, the reason where there is none.

    Looked at are the rows that are ranked and can be trained on; the others have neither. CACHE/entropy/KEY.journal
    keeps what was computed, by the content of the annotations and the backbone: a killed run goes on, and no rollout is
    computed twice.

    Raises ValueError if the images or the backbone have no folder, or no rollout has an entropy.
    """
    import numpy as np
    import pyarrow as pa

    from mprm.data.rollouts import reading_of
    from mprm.runs.journal import journal

    if cfg.dataset.image_folder.root is None:
        raise ValueError("dataset.images is not set, and entropies depend on the images; give the folder of the images")
    cfg.backbone.folder()
    looked_at = rows["ranked"].to_numpy() & ~rows["drop_reason"].is_valid().to_numpy()
    names = zip(rows["source"].to_pylist(), rows["line"].to_pylist(), strict=True)
    ids = [f"{source}:{line}" for source, line in names]
    wanted = {ids[row]: int(row) for row in np.flatnonzero(looked_at)}
    data_hash = rows.schema.metadata[b"data_hash"].decode()
    images = str(Path(cfg.dataset.image_folder.root).resolve())
    settings = [FORMAT_VERSION, data_hash, *reading_of(cfg.dataset), images, identity(cfg, None)]
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    with journal(Path(cfg.cache) / "entropy" / key, settings, cache_of="entropies") as kept:
        missing = [row for name, row in wanted.items() if name not in kept.done]
        found = _computed(cfg, rows.take(pa.array(missing)), kept) if missing else {}
        found |= {name: kept.done[name] for name in wanted if name in kept.done}
    reasons = Counter(value for value in found.values() if isinstance(value, str))
    if wanted and reasons.total() == len(wanted):
        counts = listed(dict(reasons.most_common()))
        raise ValueError(
            f"none of {len(wanted)} rollouts has an entropy ({counts}); see dataset.images and backbone.max_length"
        )
    values = [found.get(name) for name in ids]
    entropy = [value if isinstance(value, float) else None for value in values]
    reason = [value if isinstance(value, str) else None for value in values]
    rows = rows.append_column("entropy", pa.array(entropy, pa.float64()))
    return rows.append_column("no_entropy", pa.array(reason, pa.string()).dictionary_encode())


def _computed(cfg: Config, rows: pa.Table, kept: Journal) -> Found:
    """Add entropies to the journal, computed on the trainer's device. Returns those that it does not keep."""
    from mprm.inference.scoring import ScoreRequest, Scoring
    from mprm.metrics.predictions import NotScored
    from mprm.selection.examples import read_examples

    check_devices(cfg)
    requests = [
        ScoreRequest(record["id"], record["images"], record["question"], record["steps"])
        for batch in read_examples(cfg.dataset, rows)
        for record in batch.to_pylist()
    ]
    processor, model = load_backbone(cfg)
    by_model = Scoring(model, processor, cfg.backbone.max_length, max_tokens(cfg), device(cfg))
    entropies = by_model.entropies(requests, open_by(cfg.dataset.image_folder.path))
    restorable: Found = {}

    def lasting() -> Iterator[tuple[str, float | str]]:
        for name, found in tracked(entropies, len(requests), "computing entropies"):
            value = found.reason if isinstance(found, NotScored) else found
            if value in RESTORABLE:
                restorable[name] = value
            else:
                yield name, value

    kept.add_each(lasting(), AT_ONCE)
    return restorable
