"""The loaders of one rank."""

from __future__ import annotations

from dataclasses import replace

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from mprm.data.collate import Batch, collate
from mprm.data.examples import Examples
from mprm.training.batches import BatchPlan, RankBatches


class Rollouts(pl.LightningDataModule):
    """Training rollouts in the rows of their plan, from optimizer step `start` on; validation in those of its own."""

    def __init__(
        self,
        train: Examples,
        validation: Examples,
        plan: BatchPlan,
        validation_plan: BatchPlan,
        start: int,
        num_workers: int,
    ) -> None:
        super().__init__()
        self.train = train
        self.validation = validation
        self.plan = plan
        self.validation_plan = validation_plan
        self.start = start
        self.num_workers = num_workers

    def _loader(self, examples: Examples, plan: BatchPlan, start: int) -> DataLoader[Batch]:
        assert self.trainer is not None
        plan = replace(plan, world_size=self.trainer.world_size)
        return DataLoader(
            examples,  # type: ignore[arg-type]
            batch_sampler=RankBatches(plan, self.trainer.global_rank, start),
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
            # Of its own, so that building a loader draws nothing from the global generator.
            generator=torch.Generator().manual_seed(0),
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.train, self.plan, self.start)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.validation, self.validation_plan, 0)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device, non_blocking=True)  # beside the device's work: the loader has pinned the pixels
