"""Entropies of rollouts under the backbone as it lies in its folder: computed once, and kept in the cache."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mprm.config import Config
from mprm.stages.models import check_devices, device, identity, load_backbone, max_tokens, open_by
from mprm.terminal import bar, listed, say

if TYPE_CHECKING:
    import pyarrow as pa

    from mprm.inference.scoring import ScoreRequest
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
    with _kept(cfg, settings) as kept, bar() as progress:
        missing = [row for name, row in wanted.items() if name not in kept.done]
        task = progress.add_task("computing entropies", total=len(wanted), completed=len(wanted) - len(missing))
        found: Found = {}
        if missing:
            solutions = _solutions(cfg, rows.take(pa.array(missing)))
            found = _computed(cfg, solutions, kept, lambda more: progress.advance(task, more))
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


@contextmanager
def _kept(cfg: Config, settings: list[Any]) -> Iterator[Journal]:
    """The journal of entropies that depend on these settings, which is never finished: it is the cache itself.

    Waits until no other process is at it.
    """
    from mprm.runs.journal import journal

    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    target = Path(cfg.cache) / "entropy" / key
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{target}.lock", "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run computes the same entropies; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        with ExitStack() as stack:
            try:
                kept = stack.enter_context(journal(target, settings))
            except ValueError:  # damaged: what is in a cache is made anew
                Path(f"{target}.journal").unlink()
                kept = stack.enter_context(journal(target, settings))
            yield kept


def _solutions(cfg: Config, rows: pa.Table) -> list[ScoreRequest]:
    from mprm.inference.scoring import ScoreRequest
    from mprm.selection.examples import read_examples

    return [
        ScoreRequest(record["id"], record["images"], record["question"], record["steps"])
        for batch in read_examples(cfg.dataset, rows)
        for record in batch.to_pylist()
    ]


def _computed(cfg: Config, solutions: list[ScoreRequest], kept: Journal, advance: Callable[[int], None]) -> Found:
    """Add entropies to the journal, on the trainer's device. Returns those that it does not keep."""
    from mprm.inference.scoring import Scoring
    from mprm.metrics.predictions import NotScored

    check_devices(cfg)
    processor, model = load_backbone(cfg)
    scoring = Scoring(model, processor, cfg.backbone.max_length, max_tokens(cfg), device(cfg))
    fresh: Found = {}
    restorable: Found = {}
    for name, found in scoring.entropies(solutions, open_by(cfg.dataset.image_folder.path)):
        value = found.reason if isinstance(found, NotScored) else found
        (restorable if value in RESTORABLE else fresh)[name] = value
        if len(fresh) == AT_ONCE:
            kept.add(fresh)
            fresh = {}
        advance(1)
    kept.add(fresh)
    return restorable
