"""How a backbone is optimised, on which machine, and in which order its examples come."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

from mprm.batching.order import Order
from mprm.runs.artifacts import is_rank_zero, remove


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Component `recipe`; the defaults are the published ones. AdamW, linear warm-up, then `schedule`."""

    GROUP: ClassVar[str] = "recipe"  # of the configuration, for messages

    learning_rate: float = 1e-5
    weight_decay: float = 0.05
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    # Share of the optimizer steps.
    warmup: float = 0.05
    # Of the learning rate behind the warm-up: cosine, to 0, or constant.
    schedule: str = "cosine"
    # 0 leaves the backbone untrained; null where `steps` says how long.
    epochs: int | None = 1
    # Optimizer steps, instead of epochs: one epoch follows another until so many are done.
    steps: int | None = None
    # Examples per optimizer step, over all devices and accumulated micro-batches.
    global_batch_size: int = 512
    gradient_clip: float = 1.0

    def __post_init__(self) -> None:
        betas_are_right = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        checks = {
            "learning_rate": (self.learning_rate > 0, "is not positive; try 1e-05"),
            "eps": (self.eps > 0, "is not positive; try 1e-08"),
            "warmup": (0 <= self.warmup < 1, "is not in [0, 1): a share of the steps, try 0.05"),
            "schedule": (self.schedule in ("cosine", "constant"), "is not one of cosine, constant"),
            "epochs": (self.epochs is None or self.epochs >= 0, "is negative; give 0 for the untrained backbone"),
            "steps": (self.steps is None or self.steps >= 1, "is not positive; epochs=0 trains nothing"),
            "global_batch_size": (self.global_batch_size >= 1, "is not positive; try 512"),
            "betas": (betas_are_right, "are not two numbers in [0, 1); the published ones are [0.9,0.999]"),
        }
        self.check(checks)
        if (self.epochs is None) == (self.steps is None):
            given = "both say" if self.steps else "neither says"
            raise ValueError(
                f"{self.GROUP}.epochs and {self.GROUP}.steps: {given} how long to train; give one of them and null to "
                f"the other, e.g. {self.GROUP}.steps={self.steps or 100} {self.GROUP}.epochs=null"
            )

    def check(self, checks: Mapping[str, tuple[bool, str]]) -> None:
        """Raises ValueError for the first field that is not right, with what is said of it."""
        for name, (right, words) in checks.items():
            if not right:
                raise ValueError(f"{self.GROUP}.{name}={getattr(self, name)} {words}")

    def seen(self, n: int) -> int:
        """Examples that the training sees, of n different ones."""
        return self.global_batch_size * self.steps if self.steps is not None else n * (self.epochs or 0)

    def factor(self, step: int, total: int) -> float:
        """Learning-rate factor of optimizer step `step`, counted from 0, out of `total`."""
        warmup = math.ceil(self.warmup * total)
        if step < warmup:
            return (step + 1) / warmup
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


STRATEGIES = ("auto", "ddp", "ddp_cpu", "deepspeed_stage_2", "deepspeed_stage_3")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Component `trainer`: devices, and how the global batch is cut for them. None of it changes the gradient."""

    accelerator: str = "cpu"
    devices: int = 1
    num_nodes: int = 1
    # One of STRATEGIES.
    strategy: str = "auto"
    offload_optimizer: bool = False
    # 32-true, bf16-mixed, or with DeepSpeed bf16-true.
    precision: str = "32-true"
    # Decoder layers and vision blocks by torch.compile.
    compile: bool = False
    # Text and image tokens of one forward pass on one device.
    max_tokens: int = 4096
    num_workers: int = 0
    # Optimizer steps between two validations, and between two checkpoints.
    validate_every: int = 50
    checkpoint_every: int = 50
    checkpoint_minutes: float = 15.0
    # Keep the checkpoints of a finished training.
    keep_optimizer: bool = False
    # At a gradient that is not finite: stop, or skip its step.
    non_finite: str = "stop"
    # Of a device in bfloat16, for the MFU; None: the card's, where it is known.
    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        choices = {
            "accelerator": ("cpu", "gpu"),
            "strategy": STRATEGIES,
            "non_finite": ("stop", "skip"),
            # Without DeepSpeed's float32 copies small updates of bfloat16 weights would be rounded away.
            "precision": ("32-true", "bf16-mixed", *(["bf16-true"] if self.is_deepspeed else [])),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"trainer.{name}={getattr(self, name)} is not one of {', '.join(known)}")
        for name in ("devices", "num_nodes", "max_tokens", "validate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name}={getattr(self, name)} is not positive; give 1 or more")
        if not self.checkpoint_minutes > 0:
            raise ValueError(f"trainer.checkpoint_minutes={self.checkpoint_minutes} is not positive; try 15")

    @property
    def world_size(self) -> int:
        return self.devices * self.num_nodes

    @property
    def is_deepspeed(self) -> bool:
        return self.strategy.startswith("deepspeed")

    @property
    def is_fused(self) -> bool:
        """Does one kernel update all weights? CPUs keep torch's loop, which rounds otherwise, DeepSpeed its own way."""
        return self.accelerator == "gpu" and not self.is_deepspeed

    @property
    def bytes(self) -> int:
        """Of a number in the precision."""
        return 2 if self.precision.startswith("bf16") else 4

    def check(self, recipe: Recipe, longest: int) -> None:
        """Raises ValueError if a device would have nothing to do, or `longest` tokens do not fit a forward pass."""
        if recipe.global_batch_size < self.world_size:
            raise ValueError(
                f"{recipe.GROUP}.global_batch_size={recipe.global_batch_size} is less than trainer.devices x num_nodes "
                f"= {self.devices} x {self.num_nodes}; every device needs a rollout in every optimizer step"
            )
        if longest > self.max_tokens:
            raise ValueError(
                f"trainer.max_tokens={self.max_tokens} is less than the {longest} tokens of the longest rollout; "
                "raise it, or lower backbone.max_length to leave such rollouts out"
            )

    def forget(self, checkpoints: Path) -> None:
        """Remove the checkpoints of a finished training: an optimizer state is several times the weights."""
        if not self.keep_optimizer and is_rank_zero():
            remove(checkpoints)


class Schedule(NamedTuple):
    """How a training goes, whatever it learns from which examples."""

    recipe: Recipe
    machine: Machine
    order: Order
    seed: int
