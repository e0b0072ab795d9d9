"""What a step's Monte-Carlo score becomes as a training target, and the loss of a step.

Shape suffixes: M marks, 2 logits (no, yes).
"""

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import nn

Score = TypeVar("Score", float, torch.Tensor)  # one MC score, as the export asks for it, or those of M marks


class Objective(Protocol):
    """A component of the config group `objective`.

    normalise: global_batch, a mean over all steps of a global batch; micro_batch, the published mean of the means over
    micro-batches, which are micro_batch_size rollouts that follow each other in the order of the training.
    """

    @property
    def normalise(self) -> str: ...

    @property
    def micro_batch_size(self) -> int: ...

    def target(self, mc_M: Score) -> Score: ...


@dataclass(frozen=True, kw_only=True)
class Hard:
    """Label 1 where the MC score is above tau (arXiv 2602.04145: tau 0; variants tau = 1/N, 2/N)."""

    tau: float = 0.0
    normalise: str = "global_batch"
    micro_batch_size: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.tau < 1:
            raise ValueError(f"objective.tau={self.tau} is not in [0, 1); a score above it is a correct step, try 0")
        check_normalise(self)

    def target(self, mc_M: Score) -> Score:
        return (mc_M > self.tau) * 1.0


@dataclass(frozen=True, kw_only=True)
class Soft:
    """The MC score itself is the target probability of Yes."""

    normalise: str = "global_batch"
    micro_batch_size: int = 4

    def __post_init__(self) -> None:
        check_normalise(self)

    def target(self, mc_M: Score) -> Score:
        return mc_M


def check_normalise(objective: Objective) -> None:
    if objective.normalise not in ("global_batch", "micro_batch"):
        raise ValueError(
            f"objective.normalise={objective.normalise} is unknown; choose global_batch or micro_batch (published)"
        )
    if objective.micro_batch_size < 1:
        raise ValueError(f"objective.micro_batch_size={objective.micro_batch_size} is not positive; try 4")


def step_losses(logits_M2: torch.Tensor, target_M: torch.Tensor) -> torch.Tensor:
    """Two-way cross-entropy per step: -(t log p + (1 - t) log(1 - p)), p = softmax(no, yes)[yes].

    Example: logits (0, ln 3) give p = 0.75; target 1 costs ln 4/3 = 0.2877, target 0.5 costs 0.8370.
    """
    logp_M2 = nn.functional.log_softmax(logits_M2, dim=-1)
    return -(target_M * logp_M2[:, 1] + (1 - target_M) * logp_M2[:, 0])
