"""Which examples make up which forward pass of which rank, and what their terms weigh, for every training.

The orders of the epochs are joined and cut into global batches; the examples of a global batch are packed into rows of
at most max_tokens, as many on every rank and in every optimizer step. The weight of a term of the loss (a step, a
token) depends on its global batch alone: 1 / (all its terms), or what makes the published mean of micro-batch means. So
the gradient does not depend on packing and ranks, and a resumed run continues the same sequence.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from mprm.batching.loading import check_shared_memory, pixel_bytes
from mprm.batching.order import Lengths, pack, rows_needed
from mprm.training.lengths import Measured
from mprm.training.strategies import SIGNALS_TO_END

if TYPE_CHECKING:
    from mprm.training.module import TrainingModule
    from mprm.training.recipe import Machine

Row = list[tuple[int, float]]  # position of an example and weight of its terms


@dataclass(frozen=True)
class BatchPlan:
    """The rows of a training or of a validation."""

    order: np.ndarray  # positions over all epochs
    terms: np.ndarray  # of the loss, by position: how many, or the sum of their weights
    lengths: Lengths
    global_batch_size: int
    max_tokens: int
    world_size: int
    micro_batch_size: int | None = None  # examples whose terms are averaged first; None: all of a global batch
    updates: int = 1  # optimizer steps on every global batch

    @property
    def optimizer_steps(self) -> int:
        return -(-len(self.order) // self.global_batch_size) * self.updates

    @cached_property
    def accumulate(self) -> int:
        """Rows per rank and optimizer step: Lightning and DeepSpeed want the same number in every step."""
        batches = [self.chosen(step) for step in range(0, self.optimizer_steps, self.updates)]
        needed = [rows_needed(self.lengths, batch, self.max_tokens, self.world_size) for batch in batches]
        n_rows = max(needed, default=0)
        while any(pack(self.lengths, batch, self.max_tokens, n_rows) is None for batch in batches):
            n_rows += self.world_size
        return n_rows // self.world_size

    @property
    def micro_batches(self) -> int:
        """Rows of one rank over the whole training."""
        return self.optimizer_steps * self.accumulate

    def chosen(self, step: int) -> list[int]:
        """Examples of the global batch of optimizer step `step`."""
        start = step // self.updates * self.global_batch_size
        chosen: list[int] = self.order[start : start + self.global_batch_size].tolist()
        return chosen

    def seen(self, steps: int) -> int:
        """Examples of the first so many optimizer steps."""
        return min(-(-steps // self.updates) * self.global_batch_size, len(self.order))

    def cut(self, step: int) -> list[list[Row]]:
        """Rows of optimizer step `step`: [forward pass][rank]. A row left empty gets the shortest example, weight 0."""
        chosen = self.chosen(step)
        weights = self._weights(chosen)
        rows = pack(self.lengths, chosen, self.max_tokens, self.accumulate * self.world_size)
        assert rows is not None
        filler = [(min(chosen, key=lambda position: int(self.lengths.tokens[position])), 0.0)]
        # An example may stand in a batch twice, at the border of two epochs.
        weighted = [[(position, weights[position].pop()) for position in row] or filler for row in rows]
        return [weighted[start : start + self.world_size] for start in range(0, len(rows), self.world_size)]

    def rows(self, step: int) -> list[tuple[int, Row]]:
        """All rows of optimizer step `step`, each behind its tokens."""
        rows = (row for ranks in self.cut(step) for row in ranks)
        return [(self.lengths.cost([position for position, _ in row]), row) for row in rows]

    def _weights(self, chosen: list[int]) -> dict[int, list[float]]:
        """Weight of a term of each chosen example, as often as it was chosen."""
        size = self.micro_batch_size or len(chosen)
        means = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        weights: dict[int, list[float]] = {}
        for examples in means:
            weight = 1.0 / (len(means) * (float(self.terms[examples].sum()) or 1.0))
            for position in examples:
                weights.setdefault(position, []).append(weight)
        return weights


@dataclass(frozen=True, eq=False)
class RankBatches:
    """Batch sampler of one rank, from optimizer step `start` on. Its length is that of the whole training."""

    batch_size: ClassVar[int] = 1  # DeepSpeed asks its sampler, for its own statistics

    plan: BatchPlan
    rank: int
    start: int

    def __len__(self) -> int:
        return self.plan.micro_batches

    def __iter__(self) -> Iterator[Row]:
        for step in range(self.start, self.plan.optimizer_steps):
            for micro_batch in self.plan.cut(step):
                yield micro_batch[self.rank]


class Part(NamedTuple):
    """Examples and the rows in which they are asked for."""

    examples: Any
    plan: BatchPlan


def plan_parts(module: TrainingModule, train: Measured, validation: Measured | None) -> tuple[Part, Part | None]:
    """The rows of a training, all epochs, and of a validation, all of which is one batch.

    Raises ValueError for examples that do not fit the machine or cannot be learnt.
    """
    recipe, machine, order, seed = module.schedule
    parts = [part for part in (train, validation) if part is not None]
    machine.check(recipe, max(int(part.lengths.tokens[part.usable].max(initial=0)) for part in parts))

    def part(measured: Measured, order_N: np.ndarray, batch_size: int, max_tokens: int, micro: int | None) -> Part:
        terms, size = module.terms(measured), machine.world_size
        return Part(measured.examples, BatchPlan(order_N, terms, measured.lengths, batch_size, max_tokens, size, micro))

    usable = train.usable
    question, entropy = train.lengths.question[usable], train.examples.entropy[usable]
    seen = recipe.seen(len(usable))
    epochs = [usable[order.epoch(question, entropy, seed, epoch)] for epoch in range(-(-seen // len(usable)))]
    sequence = np.concatenate(epochs)[:seen]
    trained = part(train, sequence, recipe.global_batch_size, machine.max_tokens, module.micro_batch_size)
    trained = trained._replace(plan=replace(trained.plan, updates=module.updates))
    if validation is None:
        return trained, None
    # Without a backward pass twice the tokens fit.
    size = max(1, len(validation.usable))
    return trained, part(validation, validation.usable, size, 2 * machine.max_tokens, None)


class Loaders(pl.LightningDataModule):
    """The loaders of one rank: training from optimizer step `start` on, and validation where there is one."""

    def __init__(self, train: Part, validation: Part | None, start: int, machine: Machine) -> None:
        """Raises ValueError if what the machine's workers make ready does not fit into the memory that they share."""
        super().__init__()
        self.train = train
        self.validation = validation
        self.start = start
        self.num_workers = machine.num_workers
        if self.num_workers:
            largest = sum(row_bytes(part) for part in (train, validation) if part and part.plan.optimizer_steps)
            check_shared_memory(largest, self.num_workers, machine.devices)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.train, self.start)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        return [] if self.validation is None else self._loader(self.validation, 0)

    def _loader(self, part: Part, start: int) -> DataLoader[Any]:
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        plan = replace(part.plan, world_size=self.trainer.world_size)
        return DataLoader(
            part.examples,
            batch_sampler=RankBatches(plan, self.trainer.global_rank, start),
            collate_fn=module.collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
            # Of its own, so that building a loader draws nothing from the global generator.
            generator=torch.Generator().manual_seed(0),
            worker_init_fn=ignore_signals,
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device, non_blocking=True)  # beside the device's work: the loader has pinned the pixels


def row_bytes(part: Part) -> int:
    """Of the image tensors of a row: the one with the most tokens in the first optimizer step."""
    rows = [row for ranks in part.plan.cut(0) for row in ranks]
    largest = max(rows, key=lambda row: part.plan.lengths.cost([position for position, _ in row]))
    return pixel_bytes(example.vision for example in part.examples.__getitems__(largest))


def ignore_signals(worker: int) -> None:
    """SLURM tells all processes of a job to end: a loader's must outlive the checkpoint that its training writes."""
    for number in SIGNALS_TO_END:
        signal.signal(number, signal.SIG_IGN)
