"""Scores of a tiny untrained backbone over a few benchmark solutions."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mprm.backbones.internvl import InternVL
from mprm.chartworld import tiny
from mprm.chartworld.corpus import ChartWorldBenchmark
from mprm.data.rollouts import Solution
from mprm.evaluation.predict import Scorable, score


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> ChartWorldBenchmark:
    return ChartWorldBenchmark(path=str(tmp_path_factory.mktemp("benchmark") / "world" / "test.jsonl"), size=12)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> InternVL:
    folder = tmp_path_factory.mktemp("internvl")
    torch.manual_seed(0)
    tiny.build("internvl", folder)
    return InternVL(path=str(folder), max_tiles=1)


def scorables(benchmark: ChartWorldBenchmark) -> list[Scorable]:
    solutions = [solution for solution in benchmark.solutions() if isinstance(solution, Solution)]
    return [Scorable(s.id, s.images, s.question, s.steps) for s in solutions]


def scores_of(
    backbone: InternVL,
    benchmark: ChartWorldBenchmark,
    solutions: list[Scorable],
    batch_size: int,
    max_length: int = 512,
) -> tuple[dict[str, list[float]], dict[str, int]]:
    processor, model = backbone.load()
    return score(model, processor, solutions, benchmark.image_path, max_length, batch_size, "cpu", "test")


def test_scores_do_not_depend_on_batch_size_or_company(backbone: InternVL, benchmark: ChartWorldBenchmark) -> None:
    solutions = scorables(benchmark)
    one, skipped = scores_of(backbone, benchmark, solutions, batch_size=1)
    many, _ = scores_of(backbone, benchmark, solutions[::-1], batch_size=5)
    assert skipped == {}
    assert one.keys() == many.keys() == {solution.id for solution in solutions}
    for solution in solutions:
        assert len(one[solution.id]) == len(solution.steps)
        assert many[solution.id] == pytest.approx(one[solution.id], abs=1e-6)


def test_what_can_not_be_scored_is_counted(backbone: InternVL, benchmark: ChartWorldBenchmark) -> None:
    solutions = scorables(benchmark)
    broken = Path(benchmark.image_path(solutions[0].images[0])).with_name("broken.png")
    broken.write_bytes(b"no picture")
    bad = [
        replace(solutions[0], id="no file", images=["images/none.png"]),
        replace(solutions[0], id="broken", images=["images/broken.png"]),
        replace(solutions[0], id="long", steps=["word " * 500]),
    ]
    scores, skipped = scores_of(backbone, benchmark, [*bad, *solutions[1:3]], batch_size=2)
    assert skipped == {"image": 2, "too_long": 1}
    assert scores.keys() == {solution.id for solution in solutions[1:3]}
