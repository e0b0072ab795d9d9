"""How often a 95 % interval holds the truth, in a simulated world of trainings, benchmarks and held-out solutions.

    python tests/benchmarks/coverage.py                              # minutes
    python tests/benchmarks/coverage.py --repeats 1000 --seeds 1 3 5 10 --solutions 60 --apart 3

The truth of one or two trainings is that of these very ones on endless solutions, benchmark and held-out; that of more
is the mean over many trainings. Beside it: Student's t over seeds alone.
"""

import argparse
import math
from collections import Counter
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from mprm.metrics.estimate import FEWEST, Resampled, difference, half_width, over_seeds
from mprm.metrics.evaluate import step_measures
from mprm.metrics.predictions import Prediction

KEYS = ("auc", "average_precision", "f1", "f1_fixed", "first_error_accuracy")
STEPS = 5
ERRORS = 0.3  # share of wrong steps in the benchmark
OF_SOLUTIONS, OF_STEPS, OF_TRAININGS = 0.6, 0.4, 0.7  # standard deviations of log odds: what is hard for all, for one
SPREAD = math.sqrt(OF_SOLUTIONS**2 + OF_STEPS**2 + OF_TRAININGS**2)


class Items(NamedTuple):
    labels_SJ: np.ndarray
    hard_SJ: np.ndarray  # what every training finds hard


class Training(NamedTuple):
    distance: float  # of the mean log odds of right and of wrong steps
    offset: float  # of all log odds


def items(rng: np.random.Generator, n: int, error_rate: float) -> Items:
    """Solutions of 5 steps, of which some solutions have more wrong ones than others."""
    rate_S1 = rng.beta(error_rate, 1 - error_rate, (n, 1)) / 2 + error_rate / 2
    labels_SJ = np.where(rng.random((n, STEPS)) < rate_S1, -1, 1)
    return Items(labels_SJ, rng.normal(0, OF_SOLUTIONS, (n, 1)) + rng.normal(0, OF_STEPS, (n, STEPS)))


def train(rng: np.random.Generator, distance: float, apart: float = 1) -> Training:
    return Training(distance + apart * rng.normal(0, 0.2), 2.0 + apart * rng.normal(0, 0.4))


def predictions(rng: np.random.Generator, some: Items, training: Training) -> list[Prediction]:
    noise_SJ = rng.normal(0, OF_TRAININGS, some.labels_SJ.shape)
    log_odds_SJ = training.distance / 2 * some.labels_SJ + training.offset + some.hard_SJ + noise_SJ
    scores_SJ = 1 / (1 + np.exp(-log_odds_SJ))
    rows = zip(some.labels_SJ.tolist(), scores_SJ.tolist(), strict=True)
    return [Prediction(f"{k:05}", "xy"[k % 2], tuple(labels), tuple(scores)) for k, (labels, scores) in enumerate(rows)]


def measures(
    rng: np.random.Generator, training: Training, benchmark: Items, held_out: Items, resamples: int
) -> dict[str, Resampled]:
    return step_measures(predictions(rng, benchmark, training), predictions(rng, held_out, training), None, resamples)


@cache
def first_errors_found() -> tuple[np.ndarray, np.ndarray]:
    """Distances, and the share of solutions of which the first step below the middle is the first wrong one."""
    rng = np.random.default_rng(3)
    some, distances, shares = items(rng, 20_000, ERRORS), np.linspace(0, 5, 26), []
    rest_SJ = some.hard_SJ + rng.normal(0, OF_TRAININGS, some.labels_SJ.shape)
    for distance in distances:
        wrong_SJ, rejected_SJ = some.labels_SJ < 0, distance / 2 * some.labels_SJ + rest_SJ < 0
        first, found = (np.where(of.any(axis=1), of.argmax(axis=1), STEPS) for of in (wrong_SJ, rejected_SJ))
        shares.append((first == found).mean())
    return distances, np.array(shares)


def truth(training: Training) -> dict[str, float]:
    """On endless solutions: log odds of right and of wrong steps are normal, and P = 0.5 in the middle of their means
    however few are wrong."""
    distance, offset = np.array(training) / SPREAD
    at_K = np.linspace(-10, 10, 4001)  # of the middle, in standard deviations
    low_wrong_K, low_right_K = ERRORS * ndtr(at_K + distance / 2), (1 - ERRORS) * ndtr(at_K - distance / 2)
    precision_K = low_wrong_K / (low_wrong_K + low_right_K)
    f1_K = low_wrong_K / (low_wrong_K + low_right_K + ERRORS)
    f1_K += (1 - ERRORS - low_right_K) / (2 - ERRORS - low_wrong_K - low_right_K)
    return {
        "auc": float(ndtr(distance / math.sqrt(2))),
        "average_precision": float((precision_K[1:] * np.diff(low_wrong_K)).sum() / ERRORS),
        "f1": float(np.interp(0, at_K, f1_K)),
        "f1_fixed": float(np.interp(-offset, at_K, f1_K)),
        "first_error_accuracy": float(np.interp(training.distance, *first_errors_found())),
    }


def mean_truth(trainings: list[Training]) -> dict[str, float]:
    values = [truth(training) for training in trainings]
    return {key: float(np.mean([one[key] for one in values])) for key in KEYS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 5])
    parser.add_argument("--solutions", type=int, default=300, help="of the benchmark; 30 %% of their steps are wrong")
    parser.add_argument("--held-out", type=int, default=300, help="held-out solutions, 4 %% of their steps wrong")
    parser.add_argument("--apart", type=float, default=1, help="how far trainings differ, AUC by .025 where it is 1")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    arms = (1.8, 1.5)  # mean distance
    any_training = [mean_truth([train(rng, distance, args.apart) for _ in range(5_000)]) for distance in arms]
    for n_seeds in args.seeds:
        held, t_alone = Counter(), Counter()
        for _ in range(args.repeats):
            benchmark, held_out = items(rng, args.solutions, ERRORS), items(rng, args.held_out, 0.04)
            trained = [[train(rng, distance, args.apart) for _ in range(n_seeds)] for distance in arms]
            runs = [
                {seed: measures(rng, one, benchmark, held_out, 300) for seed, one in enumerate(of_arm)}
                for of_arm in trained
            ]
            true = any_training if n_seeds >= FEWEST else [mean_truth(of_arm) for of_arm in trained]
            for key in KEYS:
                a, b = ({seed: run[key] for seed, run in of_arm.items()} for of_arm in runs)
                for name, found, value in (
                    ("one arm", over_seeds(a), true[0][key]),
                    ("difference", difference(a, b), true[0][key] - true[1][key]),
                ):
                    held[name, key] += found.low <= value <= found.high
                    if n_seeds >= FEWEST:
                        t_alone[name, key] += abs(found.value - value) <= half_width([*found.by_seed.values()])
        for (name, key), times in held.items():
            beside = f", Student's t alone {t_alone[name, key] / args.repeats:6.1%}" if n_seeds >= FEWEST else ""
            print(f"{n_seeds} seeds, {name:10} {key:20} {times / args.repeats:6.1%}{beside}", flush=True)


if __name__ == "__main__":
    main()
