"""Which rollouts make up which micro-batch of which rank, and what a step of theirs weighs.

Training is one sequence of optimizer steps. The orders of all epochs are joined and cut into global batches; a global
batch is cut into micro-batches over the ranks. A step weighs 1 / (scored steps of its global batch), so that the
gradient does not depend on how the batch was cut. The sequence is a function of its arguments, so that a resumed run
continues it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BatchPlan:
    """order: rollout positions over all epochs; n_scored: scored steps of every rollout, by position."""

    order: np.ndarray
    n_scored: np.ndarray
    global_batch_size: int
    micro_batch_size: int
    world_size: int
    fill_last: bool = False  # DeepSpeed counts micro-batches itself and needs a whole number of global batches

    @property
    def optimizer_steps(self) -> int:
        return -(-len(self.order) // self.global_batch_size)

    @property
    def accumulate(self) -> int:
        return self.global_batch_size // (self.world_size * self.micro_batch_size)

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one rank over the whole training."""
        last = self.optimizer_steps - 1
        return last * self.accumulate + len(self.cut(last))

    def cut(self, step: int) -> list[list[list[tuple[int, float]]]]:
        """Micro-batches of optimizer step `step`: [micro-batch][rank][rollout] = (position, weight of its steps).

        The last global batch may be short: it is filled up to whole micro-batches with rollouts of weight 0.
        """
        chosen = self.order[step * self.global_batch_size : (step + 1) * self.global_batch_size]
        weight = 1.0 / max(1, int(self.n_scored[chosen].sum()))
        items = [(int(position), weight) for position in chosen]
        at_once = self.world_size * self.micro_batch_size
        missing = -len(items) % (self.global_batch_size if self.fill_last else at_once)
        items += [(int(chosen[0]), 0.0)] * missing
        size = self.micro_batch_size
        return [
            [items[start + rank * size : start + (rank + 1) * size] for rank in range(self.world_size)]
            for start in range(0, len(items), at_once)
        ]


class RankBatches:
    """Batch sampler of one rank, from optimizer step `start` on. Its length is that of the whole training."""

    def __init__(self, plan: BatchPlan, rank: int, start: int) -> None:
        self.plan = plan
        self.batch_size = plan.micro_batch_size  # DeepSpeed asks its sampler
        self.rank = rank
        self.start = start

    def __len__(self) -> int:
        return self.plan.micro_batches

    def __iter__(self) -> Iterator[list[tuple[int, float]]]:
        for step in range(self.start, self.plan.optimizer_steps):
            for micro_batch in self.plan.cut(step):
                yield micro_batch[self.rank]
