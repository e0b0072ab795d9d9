"""The loaders of one rank."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from mprm.batching.collate import Batch, collate
from mprm.batching.examples import Examples
from mprm.training.batches import BatchPlan, RankBatches
from mprm.training.saving import TOLD


class Rows(pl.LightningDataModule):
    """Training examples in the rows of their plan, from optimizer step `start` on.

    train: asked for lists of (position, weight), the examples of a row, which `collate` makes a batch of: one that has
    to(device, non_blocking), and pin_memory().
    """

    def __init__(
        self, train: Any, plan: BatchPlan, start: int, num_workers: int, collate: Callable[[Any], Any] = collate
    ) -> None:
        super().__init__()
        self.train = train
        self.plan = plan
        self.start = start
        self.num_workers = num_workers
        self.collate = collate

    def _loader(self, examples: Any, plan: BatchPlan, start: int) -> DataLoader[Any]:
        assert self.trainer is not None
        plan = replace(plan, world_size=self.trainer.world_size)
        return DataLoader(
            examples,
            batch_sampler=RankBatches(plan, self.trainer.global_rank, start),
            collate_fn=self.collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
            # Of its own, so that building a loader draws nothing from the global generator.
            generator=torch.Generator().manual_seed(0),
            worker_init_fn=heed_no_signal,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.train, self.plan, self.start)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device, non_blocking=True)  # beside the device's work: the loader has pinned the pixels


def heed_no_signal(worker: int) -> None:
    """SLURM tells all processes of a job to end: a loader's must outlive the checkpoint that its training writes."""
    for number in TOLD:
        signal.signal(number, signal.SIG_IGN)


class Rollouts(Rows):
    """Training rollouts, and validation in the rows of a plan of its own."""

    def __init__(
        self,
        train: Examples,
        validation: Examples,
        plan: BatchPlan,
        validation_plan: BatchPlan,
        start: int,
        num_workers: int,
    ) -> None:
        super().__init__(train, plan, start, num_workers)
        self.validation = validation
        self.validation_plan = validation_plan

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.validation, self.validation_plan, 0)
