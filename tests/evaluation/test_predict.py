"""Scores of a tiny untrained backbone over a few benchmark solutions."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mprm.backbones.internvl import InternVL
from mprm.chartworld import tiny
from mprm.chartworld.corpus import ChartWorldBenchmark
from mprm.data.collate import Batch
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
    max_tokens: int,
    max_length: int = 512,
    seen: list[Batch] | None = None,
) -> tuple[dict[str, list[float]], dict[str, int]]:
    processor, model = backbone.load()
    step_logits = model.step_logits

    def watched(batch: Batch) -> torch.Tensor:
        if seen is not None:
            seen.append(batch)
        return step_logits(batch)

    model.step_logits = watched  # type: ignore[method-assign]
    return score(model, processor, solutions, benchmark.image_path, max_length, max_tokens, "cpu", "test")


def assert_same(found: dict[str, list[float]], expected: dict[str, list[float]], solutions: list[Scorable]) -> None:
    assert found.keys() == expected.keys() == {solution.id for solution in solutions}
    for solution in solutions:
        assert len(found[solution.id]) == len(solution.steps)
        assert found[solution.id] == pytest.approx(expected[solution.id], abs=1e-6)


def test_scores_do_not_depend_on_the_tokens_of_a_forward_pass_or_company(
    backbone: InternVL, benchmark: ChartWorldBenchmark
) -> None:
    solutions = scorables(benchmark)
    alone: dict[str, list[float]] = {}
    for solution in solutions:
        scores, skipped = scores_of(backbone, benchmark, [solution], 4096)
        assert skipped == {}
        alone |= scores
    for max_tokens, order in ((512, 1), (1024, -1), (4096, 1)):
        assert_same(scores_of(backbone, benchmark, solutions[::order], max_tokens)[0], alone, solutions)


def test_solutions_of_a_question_share_a_forward_pass(backbone: InternVL, benchmark: ChartWorldBenchmark) -> None:
    """Each solution a second time without its last step, and far from the first in the file."""
    solutions = scorables(benchmark)
    shorter = [replace(s, id=f"{s.id} shorter", steps=s.steps[:-1]) for s in solutions]
    seen: list[Batch] = []
    scores, _ = scores_of(backbone, benchmark, [*solutions, *shorter], 512, seen=seen)
    for batch in seen:
        assert len(batch.input_ids_T) <= 512
        assert {name for name in batch.ids if "shorter" not in name} == {
            name.removesuffix(" shorter") for name in batch.ids if "shorter" in name
        }
        assert len(batch.vision["pixel_values"]) == len(batch.ids) // 2
    assert sum(len(batch.ids) for batch in seen) == 2 * len(solutions)
    assert len(seen) > 1
    for solution in solutions:
        assert scores[f"{solution.id} shorter"] == pytest.approx(scores[solution.id][:-1], abs=1e-6)


def test_what_is_held_in_memory_is_bounded(backbone: InternVL, benchmark: ChartWorldBenchmark) -> None:
    """Scored whenever eight forward passes are full; a question is never torn apart for it."""
    solutions = scorables(benchmark)
    many = [replace(s, id=f"{s.id} {copy}", steps=[*s.steps, str(copy)]) for s in solutions for copy in range(20)]
    seen: list[Batch] = []
    scores, skipped = scores_of(backbone, benchmark, many, 150, max_length=150, seen=seen)
    assert skipped == {}
    assert_same(scores, scores_of(backbone, benchmark, many, 4096)[0], many)
    assert all(len(batch.input_ids_T) <= 150 for batch in seen)


def test_nothing_to_score(backbone: InternVL, benchmark: ChartWorldBenchmark) -> None:
    assert scores_of(backbone, benchmark, [], 512) == ({}, {})


def test_what_can_not_be_scored_is_counted(backbone: InternVL, benchmark: ChartWorldBenchmark) -> None:
    solutions = scorables(benchmark)
    broken = Path(benchmark.image_path(solutions[0].images[0])).with_name("broken.png")
    broken.write_bytes(b"no picture")
    bad = [
        replace(solutions[0], id="no file", images=["images/none.png"]),
        replace(solutions[0], id="broken", images=["images/broken.png"]),
        replace(solutions[0], id="long", steps=["word " * 500]),
    ]
    scores, skipped = scores_of(backbone, benchmark, [*bad, *solutions[1:3]], max_tokens=512)
    assert skipped == {"image": 2, "too_long": 1}
    assert scores.keys() == {solution.id for solution in solutions[1:3]}
