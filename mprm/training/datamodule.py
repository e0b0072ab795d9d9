"""The loaders of one rank."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from mprm.data.collate import Batch, collate
from mprm.data.examples import Examples
from mprm.training.batches import BatchPlan, RankBatches


class Rollouts(pl.LightningDataModule):
    """Training rollouts in the plan's micro-batches, from optimizer step `start` on; validation in order."""

    def __init__(self, train: Examples, validation: Examples, plan: BatchPlan, start: int, num_workers: int) -> None:
        super().__init__()
        self.train = train
        self.validation = validation
        self.plan = plan
        self.start = start
        self.num_workers = num_workers

    def _loader(self, examples: Examples, batches: object) -> DataLoader[Batch]:
        return DataLoader(
            examples,  # type: ignore[arg-type]
            batch_sampler=batches,  # type: ignore[arg-type]
            collate_fn=partial(collate, pad_id=examples.processor.pad_id),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            # Of its own, so that building a loader draws nothing from the global generator.
            generator=torch.Generator().manual_seed(0),
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        plan = replace(self.plan, world_size=self.trainer.world_size)
        return self._loader(self.train, RankBatches(plan, self.trainer.global_rank, self.start))

    def val_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        size = 2 * self.plan.micro_batch_size
        own = range(self.trainer.global_rank, len(self.validation), self.trainer.world_size)
        batches = [[(position, 1.0) for position in own[start : start + size]] for start in range(0, len(own), size)]
        return self._loader(self.validation, batches)
