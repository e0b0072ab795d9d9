"""Which rollouts make up which forward pass of which rank, and what a step of theirs weighs.

Training is one sequence of optimizer steps. The orders of all epochs are joined and cut into global batches; the
rollouts of a global batch are packed into rows of at most max_tokens, as many on every rank and in every optimizer
step. The weight of a step is a function of its global batch: 1 / (its scored steps), or what makes the published mean
of micro-batch means. So the gradient does not depend on how the batch was packed or on the number of ranks. The
sequence is a function of its arguments, so that a resumed run continues it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mprm.batching.packing import Lengths, pack, rows_needed

Row = list[tuple[int, float]]  # position of a rollout and weight of its steps


@dataclass(frozen=True)
class BatchPlan:
    """order: rollout positions over all epochs; n_scored: scored steps of every rollout, by position; micro_batch_size:
    rollouts whose steps are averaged first, None: all of a global batch."""

    order: np.ndarray
    n_scored: np.ndarray
    lengths: Lengths
    global_batch_size: int
    max_tokens: int
    world_size: int
    micro_batch_size: int | None = None

    @property
    def optimizer_steps(self) -> int:
        return -(-len(self.order) // self.global_batch_size)

    @cached_property
    def accumulate(self) -> int:
        """Rows per rank and optimizer step: Lightning and DeepSpeed want the same number in every step."""
        steps = range(self.optimizer_steps)
        n_rows = max((self._rows_needed(step) for step in steps), default=0)
        while any(pack(self.lengths, self.chosen(step), self.max_tokens, n_rows) is None for step in steps):
            n_rows += self.world_size
        return n_rows // self.world_size

    def _rows_needed(self, step: int) -> int:
        return rows_needed(self.lengths, self.chosen(step), self.max_tokens, self.world_size)

    @cached_property
    def most_keys(self) -> int:
        """The largest number of keys of a row: a solution attends to its question's prefix, which stands there once."""
        rows = (row for step in range(self.optimizer_steps) for ranks in self.cut(step) for row in ranks)
        return max(sum(int(self.lengths.tokens[position]) for position, _ in row) for row in rows)

    @property
    def micro_batches(self) -> int:
        """Rows of one rank over the whole training."""
        return self.optimizer_steps * self.accumulate

    def chosen(self, step: int) -> list[int]:
        """Rollouts of the global batch of optimizer step `step`."""
        chosen: list[int] = self.order[step * self.global_batch_size : (step + 1) * self.global_batch_size].tolist()
        return chosen

    def cut(self, step: int) -> list[list[Row]]:
        """Rows of optimizer step `step`: [forward pass][rank]. A row left empty gets the shortest rollout, weight 0."""
        chosen = self.chosen(step)
        weights = self._weights(chosen)
        rows = pack(self.lengths, chosen, self.max_tokens, self.accumulate * self.world_size)
        assert rows is not None
        filler = [(min(chosen, key=lambda position: int(self.lengths.tokens[position])), 0.0)]
        # A rollout may stand in a batch twice, at the border of two epochs.
        weighted = [[(position, weights[position].pop()) for position in row] or filler for row in rows]
        return [weighted[start : start + self.world_size] for start in range(0, len(rows), self.world_size)]

    def _weights(self, chosen: list[int]) -> dict[int, list[float]]:
        """Weight of a step of each chosen rollout, as often as it was chosen."""
        size = self.micro_batch_size or len(chosen)
        means = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        weights: dict[int, list[float]] = {}
        for rollouts in means:
            weight = 1.0 / (len(means) * max(1, int(self.n_scored[rollouts].sum())))
            for position in rollouts:
                weights.setdefault(position, []).append(weight)
        return weights


class RankBatches:
    """Batch sampler of one rank, from optimizer step `start` on. Its length is that of the whole training."""

    batch_size = 1  # DeepSpeed asks its sampler, for its own statistics

    def __init__(self, plan: BatchPlan, rank: int, start: int) -> None:
        self.plan = plan
        self.rank = rank
        self.start = start

    def __len__(self) -> int:
        return self.plan.micro_batches

    def __iter__(self) -> Iterator[Row]:
        for step in range(self.start, self.plan.optimizer_steps):
            for micro_batch in self.plan.cut(step):
                yield micro_batch[self.rank]
