"""Scoring by all processes that a launcher, or a training before it, has started: each takes a share of the questions.

The first one works as it would alone; the others serve it until it is done, and write nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, partial
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from mprm.config import Config
from mprm.tasks import TASKS
from mprm.terminal import say

if TYPE_CHECKING:
    from mprm.inference.score_file import Score
    from mprm.inference.scoring import OpenImages, Scored, ScoreRequest
    from mprm.prms.prm import ScoredBy

AT_ONCE = 64  # solutions of every process that a kill can lose
LONGEST_WAIT = timedelta(days=7)  # of one for another, while that one scores or reads


def processes(cfg: Config) -> int:
    """That work together: those of a launcher, or those that Lightning has started for a training."""
    if not any(name in os.environ for name in ("LOCAL_RANK", "SLURM_STEP_ID")):  # srun sets that, a job alone does not
        return 1
    from mprm.training.strategies import launched

    started = launched()
    return cfg.trainer.world_size if started is None else started[1]


@contextmanager
def together(cfg: Config) -> Iterator[None]:
    """A task that scores: what the first process gives to shared() inside all of them score."""
    n = cfg.trainer.devices
    if processes(cfg) == 1 < n and not TASKS[cfg.task].every_rank:  # for a training Lightning starts the others
        say(f"trainer.devices={n}: one is used; torchrun --nproc_per_node={n} run.py ... uses all")
    yield
    if processes(cfg) == 1 or cfg.check:
        return
    from mprm.stages.models import load_scorer, opener
    from mprm.training.strategies import disconnect_ranks

    _join(cfg)
    scorer = cache(partial(load_scorer, cfg))
    while (order := _told(None)) is not None:  # which the first process itself tells: the end
        run, of, requests = order
        for _ in _exchanged(scorer(run), opener(cfg, of), requests):
            pass
    disconnect_ranks(None)


def shared(cfg: Config, run: str | None, of: str, scored_by: ScoredBy) -> Score:
    """Scores by `scored_by`, which is load_scorer(cfg, run), in all processes, of what opener(cfg, of) has images."""
    from mprm.stages.models import opener

    open_images = opener(cfg, of)

    def scored(requests: Sequence[ScoreRequest]) -> Scored:
        if processes(cfg) == 1:
            yield from scored_by(requests, open_images)
            return
        _join(cfg)
        _told((run, of, list(requests)))
        yield from _exchanged(scored_by, open_images, requests)

    return scored


def _join(cfg: Config) -> None:
    """Connect the processes, unless they are."""
    import torch.distributed as dist

    from mprm.training.strategies import cluster

    if dist.is_initialized():
        return
    for slurm in cluster():
        os.environ.setdefault("MASTER_ADDR", slurm.main_address)
        os.environ.setdefault("MASTER_PORT", str(slurm.main_port))
    numbers = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID"))
    on_node = int(os.environ.get("NODE_RANK", "0")) * cfg.trainer.devices + int(os.environ.get("LOCAL_RANK", "0"))
    rank = next((int(number) for number in numbers if number), on_node)
    dist.init_process_group("gloo", rank=rank, world_size=processes(cfg), timeout=LONGEST_WAIT)


def _told(what: Any) -> Any:
    """What the first process tells all: whose scores of what, or None for the end."""
    import torch.distributed as dist

    told = [what]
    dist.broadcast_object_list(told, src=0)
    return told[0]


def _exchanged(scored_by: ScoredBy, open_images: OpenImages, requests: Sequence[ScoreRequest]) -> Scored:
    """In every process at once: what all of them make of their shares, whole questions each, as it comes."""
    import torch.distributed as dist

    from mprm.inference.scoring import asked

    rank, n_processes = dist.get_rank(), dist.get_world_size()
    questions = [list(members) for _, members in groupby(sorted(requests, key=asked), key=asked)]
    share = [request for members in questions[rank::n_processes] for request in members]
    coming = iter(scored_by(share, open_images))
    while True:
        found: list[Any] = [None] * n_processes
        dist.all_gather_object(found, list(islice(coming, AT_ONCE)))
        if not any(found):
            return
        for part in found:
            yield from part
