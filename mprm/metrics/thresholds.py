"""The threshold from which a score accepts its step, searched on given labels.

Shape suffixes: C candidates, and those of metrics.py.
"""

import numpy as np

from mprm.metrics.metrics import Floats, Ints, LabelledSteps, pooled_macro_f1, step_weighted_macro_f1

DECIMALS = 4
MAX_CANDIDATES = 1000


def candidates(scores_N: Floats) -> Floats:
    """Thresholds to try (C,): the sorted unique scores, rounded to 4 decimals.

    Of more than 1,000 every (number // 1,000)-th. Scores .12344, .12341, .9: .1234, .9.
    """
    rounded = np.unique(np.round(scores_N, DECIMALS))
    return rounded[:: max(1, len(rounded) // MAX_CANDIDATES)]


def confusion_at(steps: LabelledSteps, thresholds_C: Floats) -> Ints:
    """Confusion counts (C, G, 4) at every threshold, from the sorted scores of every source."""
    source_N = steps.source_S[steps.solution_N]
    counts = np.empty((len(thresholds_C), len(steps.sources), 4), dtype=np.int64)
    for source in range(len(steps.sources)):
        for right, accepted, rejected in ((True, 0, 2), (False, 1, 3)):
            scores = np.sort(steps.scores_N[(source_N == source) & (steps.right_N == right)])
            counts[:, source, rejected] = np.searchsorted(scores, thresholds_C, side="left")
            counts[:, source, accepted] = len(scores) - counts[:, source, rejected]
    return counts


def searched_threshold(steps: LabelledSteps) -> float:
    """The candidate with the largest step-weighted macro-F1 on these very steps, the smallest of equals.

    Its figures on the same steps are optimistic, and are reported under a name that says so.
    """
    thresholds = candidates(steps.scores_N)
    return float(thresholds[np.argmax(step_weighted_macro_f1(confusion_at(steps, thresholds)))])


def calibrated_threshold(held_out: LabelledSteps) -> float:
    """The candidate with the largest pooled macro-F1 on training-side steps, the smallest of equals.

    Pooled, because the sources of the training data are not those of the benchmark, and one may hold no wrong step.
    """
    thresholds = candidates(held_out.scores_N)
    return float(thresholds[np.argmax(pooled_macro_f1(confusion_at(held_out, thresholds)))])
