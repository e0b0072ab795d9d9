"""The Lightning modules: how a model is optimised, and what it learns.

Shape suffixes: M marks of a micro-batch, 2 logits (no, yes).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import BinaryAUROC

from mprm.backbones.base import StepModel
from mprm.batching.collate import Batch, collate
from mprm.runs.artifacts import is_rank_zero
from mprm.terminal import say
from mprm.training.checkpoint import recount
from mprm.training.compiling import compile_layers, restore_layers
from mprm.training.lengths import Measured
from mprm.training.objectives import Objective, step_weights
from mprm.training.recipe import Schedule
from mprm.training.strategies import Sharded, build_optimizer

if TYPE_CHECKING:
    from mprm.training.planner import BatchPlan


class Mean(MeanMetric):
    """torchmetrics', but for its search for NaN at every update, which waits for the device: one shows in the mean."""

    def update(self, value: torch.Tensor, weight: torch.Tensor) -> None:  # type: ignore[override]
        """What has no weight does not count, whatever it is."""
        self.mean_value += torch.where(weight > 0, value * weight, 0.0).sum()
        self.weight += weight.sum()


class TrainingModule(pl.LightningModule):
    """Base of all trainings. A subclass gives prepare() and loss(), and updates the metrics of `curve`, which
    are logged as train/NAME once per optimizer step, over the whole global batch; `loss` is one of them."""

    rows_are_planned = True  # whether they have the tokens of the plan, not those of responses that are still to draw
    micro_batch_size: int | None = None  # examples whose terms are averaged first; None: all of a global batch
    updates = 1  # optimizer steps on every global batch

    def __init__(self, model: StepModel, schedule: Schedule, curve: dict[str, Metric]) -> None:
        super().__init__()
        self.model = model
        self.schedule = schedule
        self.curve: Any = nn.ModuleDict(curve)
        self.plan: BatchPlan | None = None  # told by fit()
        self.reference: list[torch.Tensor] = []  # copies of the trained weights before the training, if it needs them
        self.strict_loading = False  # checkpoints hold what is trained; the rest lies in the backbone's folder
        self.random_state = torch.get_rng_state()  # as the last optimizer step ended
        self.gradient_norm = 0.0  # of the last optimizer step, before it was clipped

    def setup(self, stage: str) -> None:
        if self.schedule.machine.compile:
            compile_layers(self.model, self.schedule.machine)

    def teardown(self, stage: str) -> None:
        restore_layers(self.model)

    @staticmethod
    def collate(examples: list[Any]) -> Any:
        """A batch of the examples of a row; it has to(device, non_blocking) and pin_memory()."""
        return collate(examples)

    def prepare(self) -> None:
        """Make ready what of the model is trained; new weights are drawn from torch's generator."""
        raise AssertionError("a training says what it trains")

    def terms(self, part: Measured) -> np.ndarray:
        """Terms of the loss of every example, by position: one, where an example weighs as much as any other, however
        long it is. Raises ValueError if one cannot be learnt."""
        return np.ones(len(part.lengths), dtype=np.int64)

    def loss(self, batch: Any) -> torch.Tensor:
        """The sum of all terms of the batch, each times its weight."""
        raise AssertionError("a training has a loss")

    def look(self, logged: dict[str, float]) -> None:
        """At what an optimizer step has logged. Raises ValueError if the training gets nowhere."""

    def validate(self) -> dict[str, float]:
        """What is logged, over all ranks, before the first step, every trainer.validate_every and after the last."""
        return {}

    def rehearse(self, batch: Any) -> torch.Tensor:
        """Something as costly as loss(), before there is a trainer."""
        return self.loss(batch)

    def training_step(self, batch: Any, batch_index: int) -> torch.Tensor:
        # Lightning divides by the accumulated micro-batches and DDP by the ranks: undo both.
        return self.loss(batch) * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def configure_optimizers(self) -> Any:
        """AdamW with weight decay on matrices only, as published."""
        recipe = self.schedule.recipe
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": recipe.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = build_optimizer(groups, recipe, self.schedule.machine)
        assert self.plan is not None
        total = self.plan.optimizer_steps
        factor = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: recipe.factor(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factor, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Look at the whole gradient of an optimizer step, then clip it as Lightning would, which does not for a fused
        optimizer. DeepSpeed does both (ShardedPrecision)."""
        if isinstance(self.trainer.strategy, Sharded):
            return
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in trained])
        self.note_gradient(float(norm))
        if not math.isfinite(self.gradient_norm):
            for parameter in trained:
                parameter.grad = None  # AdamW then leaves all as it is, its moments too
        elif gradient_clip_val:
            nn.utils.clip_grads_with_norm_(trained, gradient_clip_val, norm)

    def note_gradient(self, norm: float) -> None:
        """Note the norm. Raises ValueError if it is not finite, unless such steps are to be skipped."""
        self.gradient_norm = norm
        if math.isfinite(norm) or self.schedule.machine.non_finite == "skip":
            return
        gradients = ((name, p.grad) for name, p in self.model.named_parameters() if p.grad is not None)
        where = next((name for name, gradient in gradients if not gradient.isfinite().all()), "a sharded parameter")
        raise ValueError(
            f"the gradient of step {self.trainer.global_step + 1} is not finite (in {where}) and was not applied; "
            f"lower {self.schedule.recipe.GROUP}.learning_rate, or skip such steps with trainer.non_finite=skip"
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["random_state"] = self.random_state
        frozen = {f"model.{name}" for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k not in frozen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        torch.set_rng_state(checkpoint["random_state"].cpu())
        recount(checkpoint, self.trainer.accumulate_grad_batches)
        for group in (group for state in checkpoint.get("optimizer_states", []) for group in state["param_groups"]):
            group["fused"] = self.schedule.machine.is_fused or None  # of this machine, whichever wrote it


def targets(objective: Objective, part: Measured) -> tuple[np.ndarray, np.ndarray]:
    """Of every rollout, by position: the steps that the objective learns, and the sum of their targets.

    They have an MC score that is not ignored; for a kappa head also continuations (the score 0 of 0 of 0 is implied).
    Raises ValueError if such continuations were not counted, or do not make the score.
    """
    columns = (part.examples.records[name] for name in ("id", "scores", "n_correct", "n_total"))
    n_N, positive_N = [], []
    for rollout, *steps in zip(*columns, strict=True):
        found = []
        for number, (score, correct, total) in enumerate(zip(*steps, strict=True)):
            implied = score == 0 and total == 0
            if score is None or objective.ignored(score) or (objective.kappa and implied):
                continue
            found.append(objective.target(score))
            if objective.kappa and (not total or round(score * total) != correct):
                raise ValueError(
                    f"rollout {rollout} has score {score} at step {number} (from 0), but {correct} of {total} "
                    "continuations; this objective trains on these counts: correct them, or use objective=soft"
                )
        n_N.append(len(found))
        positive_N.append(sum(found))
    return np.array(n_N, dtype=np.int64), np.array(positive_N, dtype=np.float64)


def learnt(objective: Objective, train: Measured) -> tuple[Measured, float | None]:
    """The part without the rollouts of which the objective learns no step, no_evidence; and the share of positive label
    mass, the mean target of the steps that are left, where the objective balances by it; it is printed.

    Raises ValueError if nothing is left, or there is nothing to balance.
    """
    n_N, positive_N = targets(objective, train)
    usable = train.usable[n_N[train.usable] > 0]
    if not len(usable):
        raise ValueError(
            f"none of {len(train.usable)} rollouts has a step that the objective learns; give objective.ignore=null, "
            "or select others"
        )
    if without := len(train.usable) - len(usable):
        train = replace(train, usable=usable, left_out=train.left_out | {"no_evidence": without})
    if objective.balance == "none":
        return train, None
    share = float(positive_N[usable].sum() / n_N[usable].sum())
    if share in (0.0, 1.0):
        kind = "positive" if share else "negative"
        raise ValueError(
            f"objective.balance={objective.balance} has nothing to balance: all steps of the {len(usable):,} rollouts "
            f"to train on are {kind}; select others, or give objective.balance=none"
        )
    if is_rank_zero():
        weights = f"a positive step weighs {0.5 / share:.3f}, a negative one {0.5 / (1 - share):.3f}"
        say(f"objective.balance={objective.balance}: {share:.2%} of the label mass is positive, so {weights}")
    return train, share


class StepScoring(TrainingModule):
    """Trains a step model on MC scores. Logged: train/loss and train/step_accuracy; per validation val/loss,
    val/step_accuracy, and val/auc against the hard labels (MC score > 0). The losses are means over steps, weighted
    where the objective balances."""

    def __init__(
        self, model: StepModel, objective: Objective, schedule: Schedule, positive_share: float | None = None
    ) -> None:
        """positive_share: learnt()'s."""
        super().__init__(model, schedule, {"loss": Mean(), "step_accuracy": Mean()})
        self.objective = objective
        self.positive_share = positive_share
        self.micro_batch_size = objective.micro_batch_size if objective.normalise == "micro_batch" else None
        metrics = {"loss": MeanMetric(), "step_accuracy": MeanMetric(), "auc": BinaryAUROC()}
        self.validation: Any = nn.ModuleDict(metrics)

    def prepare(self) -> None:
        self.model.set_kappa(self.objective.kappa)

    def terms(self, part: Measured) -> np.ndarray:
        """Steps that the objective learns, or the sum of their weights."""
        n_N, positive_N = targets(self.objective, part)
        return n_N if self.positive_share is None else step_weights(positive_N, self.positive_share, n_N)

    def losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss (M,) of every step, its weight (M,) among them, 0 where it does not count, and P(yes) (M,)."""
        output = self.model(batch)
        scored_M = ~batch.mc_M.isnan() & (batch.weight_M > 0) & ~self.objective.ignored(batch.mc_M)
        if self.objective.kappa:
            scored_M &= batch.n_M > 0  # a negative that is implied, not counted: its likelihood is 1 for any output
        mc_M, weight_M = torch.where(scored_M, batch.mc_M, 0.0), scored_M.float()
        if self.positive_share is not None:
            weight_M = weight_M * step_weights(self.objective.target(mc_M), self.positive_share)
        return self.objective.losses(output, mc_M, batch.n_M), weight_M, output.logits_M2.softmax(-1)[:, 1]

    def loss(self, batch: Batch) -> torch.Tensor:
        loss_M, weight_M, yes_M = self.losses(batch)
        hit_M = (yes_M > 0.5) == (self.objective.target(batch.mc_M) > 0.5)
        self.curve["loss"].update(loss_M.detach(), weight_M)
        self.curve["step_accuracy"].update(hit_M.float(), (weight_M > 0).float())
        return (loss_M * weight_M * batch.weight_M).sum()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        loss_M, weight_M, yes_M = self.losses(batch)
        label_M = (batch.mc_M > 0).long()
        labelled_M = ~batch.mc_M.isnan() & (batch.weight_M > 0)  # whatever the objective trains on
        self.validation["loss"].update(loss_M, weight_M)
        self.validation["step_accuracy"].update(((yes_M > 0.5) == label_M).float(), labelled_M)
        self.validation["auc"].update(yes_M[labelled_M], label_M[labelled_M])

    def on_validation_epoch_end(self) -> None:
        for name, metric in self.validation.items():
            self.log(f"val/{name}", metric, prog_bar=name == "auc")
