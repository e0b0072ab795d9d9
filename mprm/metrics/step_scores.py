"""What a step model says of the steps of one solution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class StepScores:
    """Per step: log_odds, logit(yes) - logit(no), float; kappa, how many continuations P(yes) is worth, None without a
    kappa head (arXiv 2605.15529)."""

    log_odds: tuple[float, ...]
    kappa: tuple[float, ...] | None = None

    @property
    def scores(self) -> list[float]:
        """P(yes) in [0, 1], one per step."""
        x = np.asarray(self.log_odds)
        return [float(p) for p in np.where(x >= 0, 1.0, np.exp(-abs(x))) / (1 + np.exp(-abs(x)))]

    @property
    def sigmas(self) -> list[float] | None:
        """Standard deviation of the success rate: sqrt(mu (1 - mu) / (kappa + 1)), mu = P(yes); None without kappa.

        Example: log odds 0 and kappa 3 give sqrt(.25 / 4) = .25.
        """
        if self.kappa is None:
            return None
        mu = np.array(self.scores)
        return [float(s) for s in np.sqrt(mu * (1 - mu) / (np.array(self.kappa) + 1))]


@dataclass(frozen=True)
class NotScored:
    """Why a solution has no scores: no_image, missing_image_file, unreadable_image, refused_image (the processor can
    not take its shape) or too_long; and in words."""

    reason: str
    message: str
