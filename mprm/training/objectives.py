"""What a step's Monte-Carlo score becomes as a training target, and the loss of a step.

Shape suffixes: M marks, 2 logits (no, yes).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

if TYPE_CHECKING:  # a selection that exports targets loads no torch
    import torch

    from mprm.backbones.base import StepOutput

Score = TypeVar("Score", float, "torch.Tensor")  # one MC score, as the export asks for it, or those of M marks


class Objective(Protocol):
    """A component of the config group `objective`."""

    # It trains a kappa head, from the continuations of every scored step; steps without any are left out.
    kappa: ClassVar[bool]

    @property
    def label(self) -> str:
        """What reports call it: its name, and the settings that are not the usual ones."""
        ...

    @property
    def normalise(self) -> str:
        """global_batch: a mean over all steps of a global batch. micro_batch: the published mean of the means over
        micro-batches, which are micro_batch_size rollouts that follow each other in the order of the training."""
        ...

    @property
    def micro_batch_size(self) -> int: ...

    @property
    def balance(self) -> str:
        """none: every step weighs the same. classes: as step_weights() says."""
        ...

    def ignored(self, mc_M: Score) -> Any:
        """Is the score taken for none? A bool, or (M,) bool."""
        ...

    def target(self, mc_M: Score) -> Score:
        """What P(yes) is trained towards, in [0, 1]."""
        ...

    def losses(self, output: StepOutput, mc_M: torch.Tensor, n_M: torch.Tensor) -> torch.Tensor:
        """Loss (M,) of every step. output: logits_M2 and, with kappa, kappa_M; mc_M: MC scores without NaN; n_M:
        continuations, 0 where they were not counted."""
        ...


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """Base of objectives: all that the Protocol asks for but target()."""

    kappa: ClassVar[bool] = False

    normalise: str = "global_batch"
    micro_batch_size: int = 4
    balance: str = "none"
    # Two scores: those strictly between them are taken for unmeasured.
    ignore: list[float] | None = None

    def __post_init__(self) -> None:
        if self.balance not in ("none", "classes"):
            raise ValueError(f"objective.balance={self.balance} is unknown; choose none (published) or classes")
        if self.ignore is not None and not (len(self.ignore) == 2 and 0 <= self.ignore[0] < self.ignore[1] <= 1):
            raise ValueError(
                f"objective.ignore={self.ignore} is not two rising scores from 0 to 1; give [0.125,0.75] or null"
            )
        if self.normalise not in ("global_batch", "micro_batch"):
            raise ValueError(
                f"objective.normalise={self.normalise} is unknown; choose global_batch or micro_batch (published)"
            )
        if self.micro_batch_size < 1:
            raise ValueError(f"objective.micro_batch_size={self.micro_batch_size} is not positive; try 4")

    @property
    def label(self) -> str:
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(self).__name__)
        settings = [(field.name, getattr(self, field.name), field.default) for field in fields(self)]
        unusual = [f"{name} {value}" for name, value, usual in settings if value != usual]
        return f"{words} ({', '.join(unusual)})" if unusual else words

    def ignored(self, mc_M: Score) -> Any:
        low, high = self.ignore or (1.0, 1.0)
        return (mc_M > low) & (mc_M < high)

    def target(self, mc_M: Score) -> Score:
        raise AssertionError("an objective has a target")

    def losses(self, output: StepOutput, mc_M: torch.Tensor, n_M: torch.Tensor) -> torch.Tensor:
        """Two-way cross-entropy with the target."""
        return step_losses(output.logits_M2, self.target(mc_M))


@dataclass(frozen=True, kw_only=True)
class Hard(Averaging):
    """Label 1 where the MC score is above tau (arXiv 2602.04145: tau 0; variants tau = 1/N, 2/N). Beside ignore=[low,
    high], scores up to low must be negative and those from high positive: low <= tau < high."""

    tau: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.tau < 1:
            raise ValueError(f"objective.tau={self.tau} is not in [0, 1); a score above it is a correct step, try 0")
        if self.ignore is not None and not self.ignore[0] <= self.tau < self.ignore[1]:
            low, high = self.ignore
            raise ValueError(
                f"objective.tau={self.tau} does not part the scores up to {low}, which are wrong steps by "
                f"objective.ignore=[{low},{high}], from those of {high} and more; give objective.tau={low}"
            )

    def target(self, mc_M: Score) -> Score:
        return (mc_M > self.tau) * 1.0


@dataclass(frozen=True, kw_only=True)
class Soft(Averaging):
    """The MC score itself is the target probability of Yes."""

    def target(self, mc_M: Score) -> Score:
        return mc_M


@dataclass(frozen=True, kw_only=True)
class BetaBinomial(Averaging):
    """How many of a step's N continuations are right, and how sure that is (arXiv 2605.15529).

    Per step -log BetaBinomial(K; N, a, b) + penalty |mu - K / N| kappa, mu = P(yes). The second term keeps kappa from
    growing where mu is wrong, and mu is a constant there. A step of 0 of 0 continuations is left out, also an implied
    negative (dataset.unsampled): its likelihood is 1 whatever a and b are.
    """

    kappa: ClassVar[bool] = True

    penalty: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.penalty < math.inf:
            raise ValueError(f"objective.penalty={self.penalty} is not a number from 0; the published one is 0.05")

    def target(self, mc_M: Score) -> Score:
        return mc_M

    def losses(self, output: StepOutput, mc_M: torch.Tensor, n_M: torch.Tensor) -> torch.Tensor:
        assert output.kappa_M is not None
        log_odds_M = output.logits_M2[:, 1] - output.logits_M2[:, 0]
        k_M = (mc_M * n_M).round()
        off_M = (log_odds_M.detach().sigmoid() - k_M / n_M.clamp(min=1)).abs()
        nll_M = beta_binomial_losses(log_odds_M, output.kappa_M, k_M, n_M)
        return (nll_M + self.penalty * off_M * output.kappa_M).float()


def step_weights(positive: Any, positive_share: float, n: Any = 1.0) -> Any:
    """Weight of a step with target `positive`, or of n steps whose targets sum to it, under balance=classes:

        w = t .5 / pi + (1 - t) .5 / (1 - pi),  t the target, pi = positive_share, the mean target of the training

    A step weighs by the classes that its target, whose positive part is t, belongs to. With hard labels both classes
    weigh half of all; with soft targets and with t = K / N of the beta-binomial a step counts the more the less of it
    is positive, and its own loss, which P(yes) = t minimises, stays. The mean weight is 1. The loss of a global batch
    is sum(w loss) / sum(w) over all of its steps.

    Example: pi = .8: a positive step weighs .625, a negative one 2.5, one with target .5 1.5625.
    """
    return positive * (0.5 / positive_share) + (n - positive) * (0.5 / (1 - positive_share))


def step_losses(logits_M2: torch.Tensor, target_M: torch.Tensor) -> torch.Tensor:
    """Two-way cross-entropy per step: -(t log p + (1 - t) log(1 - p)), p = softmax(no, yes)[yes].

    Example: logits (0, ln 3) give p = 0.75; target 1 costs ln 4/3 = 0.2877, target 0.5 costs 0.8370.
    """
    logp_M2 = logits_M2.log_softmax(-1)
    return -(target_M * logp_M2[:, 1] + (1 - target_M) * logp_M2[:, 0])


def beta_binomial_losses(
    log_odds_M: torch.Tensor, kappa_M: torch.Tensor, k_M: torch.Tensor, n_M: torch.Tensor
) -> torch.Tensor:
    """-log BetaBinomial(k; n, a, b) per step: a = mu kappa + 1e-6, b = (1 - mu) kappa + 1e-6, mu = sigmoid(log odds).

    Example: mu = 0.5 and kappa = 2 make all of 0..4 equally likely, up to the 1e-6: k of 4 costs ln 5 = 1.6094.
    """
    # In float64: where kappa is large the differences of lgammas are small.
    log_odds_M, kappa_M, k_M, n_M = (x_M.double() for x_M in (log_odds_M, kappa_M, k_M, n_M))
    a_M = log_odds_M.sigmoid() * kappa_M + 1e-6
    b_M = (-log_odds_M).sigmoid() * kappa_M + 1e-6
    # n choose k = 1 / ((n + 1) Beta(k + 1, n - k + 1))
    log_choices_M = -(n_M + 1).log() - _log_beta(k_M + 1, n_M - k_M + 1)
    return _log_beta(a_M, b_M) - _log_beta(a_M + k_M, b_M + n_M - k_M) - log_choices_M


def _log_beta(a_M: torch.Tensor, b_M: torch.Tensor) -> torch.Tensor:
    return a_M.lgamma() + b_M.lgamma() - (a_M + b_M).lgamma()
