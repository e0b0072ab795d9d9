"""Scores that never look at a step, to be beaten by those that do."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mprm.metrics.metrics import Floats, Ints
from mprm.metrics.predictions import Prediction
from mprm.metrics.thresholds import DECIMALS

POSITION_BINS = 10


def majority(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Score every step 1 when at least half of the labelled steps are right, else 0."""
    balance = sum(label for prediction in predictions for label in prediction.labels)
    score = 1.0 if balance >= 0 else 0.0
    return [replace(prediction, scores=(score,) * len(prediction.labels)) for prediction in predictions]


def accuracy_by_position(predictions: Sequence[Prediction]) -> Floats:
    """Fraction of right steps among the labelled ones in each tenth of the solution, (10,), to 4 decimals.

    A tenth without a labelled step has the fraction of all steps. Two solutions of labels 1, -1 and 1, 1, -1: 1 in the
    first tenth and in the middle one (tenth 4), 0 in the last, 3/5 elsewhere.
    """
    labels = np.array([label for prediction in predictions for label in prediction.labels])
    bins = np.concatenate([_position_bins(len(prediction.labels)) for prediction in predictions])[labels != 0]
    right = (labels == 1)[labels != 0]
    total = np.bincount(bins, minlength=POSITION_BINS)
    n_right = np.bincount(bins, weights=right, minlength=POSITION_BINS)
    fractions = np.divide(n_right, total, out=np.full(POSITION_BINS, right.mean()), where=total > 0)
    # Threshold candidates are rounded; a prior with more decimals could lie below its own candidate.
    return np.round(fractions, DECIMALS)


def position_only(predictions: Sequence[Prediction], prior: Floats) -> list[Prediction]:
    """Score every step by accuracy_by_position of its place in the solution."""
    return [
        replace(prediction, scores=tuple(prior[_position_bins(len(prediction.labels))].tolist()))
        for prediction in predictions
    ]


def _position_bins(n_steps: int) -> Ints:
    """The tenth that each of n steps lies in: the first step in tenth 0, the last of several in tenth 9."""
    return np.arange(n_steps) * (POSITION_BINS - 1) // max(1, n_steps - 1)
