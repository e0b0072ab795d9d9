"""Tiny random models in the folders that existing PRMs are loaded from, and how their scores come about."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mprm.inference.scoring import ScoreRequest
from mprm.metrics.predictions import StepScores
from mprm.prms.prm import PRM
from tests.backbones.conftest import build

Solution = tuple[list[tuple[int, int]], str, list[str]]  # sizes of the images, question, steps


def picture(size: tuple[int, int]) -> Image.Image:
    """Noise, the same for the same size."""
    rng = np.random.default_rng(size)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """folder("internvl"): a tiny random model of the family."""
    return functools.cache(lambda family: build(family, tmp_path_factory.mktemp(family)))


@pytest.fixture(scope="session")
def scores() -> Callable[[PRM, Sequence[Solution]], list[list[float]]]:
    """scores(prm, solutions): as task=score finds them, all solutions in one forward pass."""

    def scores(prm: PRM, solutions: Sequence[Solution]) -> list[list[float]]:
        requests = [
            ScoreRequest(str(number), [f"{width} {height}" for width, height in sizes], question, steps)
            for number, (sizes, question, steps) in enumerate(solutions)
        ]
        score = prm.scorer(65_536, "cpu")
        found = dict(score(requests, lambda names: [picture(tuple(map(int, name.split()))) for name in names]))
        scored = [found[str(number)] for number in range(len(solutions))]
        assert all(isinstance(one, StepScores) for one in scored), scored
        return [one.scores for one in scored if isinstance(one, StepScores)]

    return scores
