"""The Lightning modules: they log and optimise. The arithmetic lives in objectives.py, the batches in batches.py.

Shape suffixes: M marks of a micro-batch, 2 logits (no, yes).
"""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import BinaryAUROC

from mprm.backbones.base import StepModel
from mprm.batching.collate import Batch
from mprm.training.checkpoint import recount
from mprm.training.objectives import Objective
from mprm.training.recipe import Recipe
from mprm.training.strategies import Sharded, build_optimizer


class Optimised(pl.LightningModule):
    """Base of the modules: how their model is optimised, and what a checkpoint holds of it."""

    skips = False  # steps whose gradient is not finite, instead of stopping at the first

    def __init__(self, model: StepModel, recipe: Recipe, optimizer_steps: int) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.optimizer_steps = optimizer_steps
        self.strict_loading = False  # checkpoints hold what is trained; the rest lies in the backbone's folder
        self.train_loss = MeanMetric(nan_strategy="disable")
        self.random_state = torch.get_rng_state()  # as the last optimizer step ended
        self.gradient_norm = 0.0  # of the last optimizer step, before it was clipped

    def curve(self) -> dict[str, Metric]:
        """What is logged of an optimizer step, over the whole global batch, by name; train/loss is among it."""
        raise AssertionError("a module names its metrics")

    def configure_optimizers(self) -> Any:
        """AdamW; weight decay on matrices only, as the published trainer does. Warm-up and cosine by optimizer step."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": self.recipe.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = build_optimizer(groups, self.recipe, self.trainer.strategy)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.recipe.factor(step, self.optimizer_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Look at the whole gradient of an optimizer step, then clip it. DeepSpeed does both itself (KeepTargets)."""
        if isinstance(self.trainer.strategy, Sharded):
            return
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in trained])
        self.see_gradient(float(norm))
        if not norm.isfinite():
            for parameter in trained:
                parameter.grad = None  # AdamW then leaves all as it is, its moments too
        elif gradient_clip_val:
            nn.utils.clip_grads_with_norm_(trained, gradient_clip_val, norm)

    def see_gradient(self, norm: float) -> None:
        """Note the norm. Raises ValueError if it is not finite, unless such steps are to be skipped."""
        self.gradient_norm = norm
        if math.isfinite(norm) or self.skips:
            return
        gradients = ((name, p.grad) for name, p in self.model.named_parameters() if p.grad is not None)
        where = next((name for name, gradient in gradients if not gradient.isfinite().all()), "a sharded parameter")
        raise ValueError(
            f"the gradient of step {self.trainer.global_step + 1} is not finite (in {where}) and was not applied; "
            f"lower {self.recipe.GROUP}.learning_rate, or skip such steps with trainer.non_finite=skip"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["random_state"] = self.random_state
        frozen = {f"model.{name}" for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k not in frozen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        torch.set_rng_state(checkpoint["random_state"].cpu())
        recount(checkpoint, self.trainer.accumulate_grad_batches)


class StepScoring(Optimised):
    """Trains a step model on MC scores.

    Logged per optimizer step: train/loss and train/step_accuracy over the whole global batch, lr, and
    train/gradient_norm before clipping, or train/skipped where it is not finite; per validation:
    val/loss, val/step_accuracy, val/auc against the hard labels (MC score > 0).
    """

    def __init__(self, model: StepModel, objective: Objective, recipe: Recipe, optimizer_steps: int) -> None:
        super().__init__(model, recipe, optimizer_steps)
        self.objective = objective
        self.train_accuracy = MeanMetric()
        self.val_loss = MeanMetric()
        self.val_accuracy = MeanMetric()
        self.val_auc = BinaryAUROC()

    def curve(self) -> dict[str, Metric]:
        return {"train/loss": self.train_loss, "train/step_accuracy": self.train_accuracy}

    def losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss (M,) of every step, mask (M,) of those that count (never an unsampled one), and P(yes) (M,)."""
        output = self.model(batch)
        scored_M = ~batch.mc_M.isnan() & (batch.weight_M > 0)
        if self.objective.kappa:
            scored_M &= batch.n_M > 0  # a negative that is implied, not counted: its likelihood is 1 for any output
        loss_M = self.objective.losses(output, torch.where(scored_M, batch.mc_M, 0.0), batch.n_M)
        return loss_M * scored_M, scored_M, output.logits_M2.softmax(-1)[:, 1]

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        loss_M, scored_M, yes_M = self.losses(batch)
        hit_M = (yes_M > 0.5) == (self.objective.target(batch.mc_M) > 0.5)
        self.train_loss.update(loss_M.detach()[scored_M])  # without a NaN strategy it has no weights
        self.train_accuracy.update(hit_M.float(), scored_M)
        # Lightning divides by the accumulated micro-batches and DDP by the ranks: undo both.
        return (loss_M * batch.weight_M).sum() * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        loss_M, scored_M, yes_M = self.losses(batch)
        label_M = (batch.mc_M > 0).long()
        labelled_M = ~batch.mc_M.isnan() & (batch.weight_M > 0)  # whatever the objective trains on
        self.val_loss.update(loss_M, scored_M)
        self.val_accuracy.update(((yes_M > 0.5) == label_M).float(), labelled_M)
        self.val_auc.update(yes_M[labelled_M], label_M[labelled_M])

    def on_validation_epoch_end(self) -> None:
        for name, metric in (("loss", self.val_loss), ("step_accuracy", self.val_accuracy), ("auc", self.val_auc)):
            self.log(f"val/{name}", metric, prog_bar=name == "auc")
