"""Scores of a tiny untrained backbone over a few benchmark solutions."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from mprm.backbones.internvl import InternVL
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL
from mprm.batching.collate import Batch
from mprm.batching.examples import open_images
from mprm.chartworld.corpus import ChartWorldBenchmark
from mprm.data.visualprocessbench import Solution
from mprm.inference.scoring import ScoreRequest, Scoring
from mprm.metrics.predictions import NotScored, StepScores
from tools import tiny


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> ChartWorldBenchmark:
    return ChartWorldBenchmark(path=str(tmp_path_factory.mktemp("benchmark") / "world" / "test.jsonl"), size=12)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> InternVL:
    folder = tmp_path_factory.mktemp("internvl")
    torch.manual_seed(0)
    tiny.build("internvl", folder)
    return InternVL(path=str(folder), max_tiles=1)


def scorables(benchmark: ChartWorldBenchmark) -> list[ScoreRequest]:
    solutions = [solution for solution in benchmark.records() if isinstance(solution, Solution)]
    return [ScoreRequest(s.id, s.images, s.question, s.steps) for s in solutions]


def scores_of(
    backbone: InternVL,
    benchmark: ChartWorldBenchmark,
    solutions: list[ScoreRequest],
    max_tokens: int,
    max_length: int = 512,
    seen: list[Batch] | None = None,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Scores by id, and the reasons of those that have none."""
    processor, model = backbone.load()
    if seen is not None:
        model.register_forward_pre_hook(lambda _, batch: seen.append(batch[0]))

    def open_pictures(names: Sequence[str]) -> list[Image.Image]:
        return open_images([benchmark.image_folder.path(name) for name in names])

    found = list(Scoring(model, processor, max_length, max_tokens, "cpu").scores(solutions, open_pictures))
    assert len(dict(found)) == len(found), "each solution comes once"
    scores = {name: one.scores for name, one in found if isinstance(one, StepScores)}
    return scores, {name: one.reason for name, one in found if isinstance(one, NotScored)}


def assert_same(found: dict[str, list[float]], expected: dict[str, list[float]], solutions: list[ScoreRequest]) -> None:
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


def test_what_can_not_be_scored_is_told(backbone: InternVL, benchmark: ChartWorldBenchmark) -> None:
    solutions = scorables(benchmark)
    broken = Path(benchmark.image_folder.path(solutions[0].images[0])).with_name("broken.png")
    broken.write_bytes(b"no picture")
    benchmark = replace(benchmark)  # which has not listed its images yet
    bad = [
        replace(solutions[0], id="no file", images=["images/none.png"]),
        replace(solutions[0], id="broken", images=["images/broken.png"]),
        replace(solutions[0], id="broken, too", images=["images/broken.png"]),
        replace(solutions[0], id="long", steps=["word " * 500]),
    ]
    scores, reasons = scores_of(backbone, benchmark, [*bad, *solutions[1:3]], max_tokens=512)
    assert reasons == {
        "no file": "missing_image_file",
        "broken": "unreadable_image",
        "broken, too": "unreadable_image",
        "long": "too_long",
    }
    assert scores.keys() == {solution.id for solution in solutions[1:3]}


def test_an_image_that_the_processor_refuses(
    backbone: InternVL, benchmark: ChartWorldBenchmark, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("qwen")
    tiny.build("qwen2_5_vl", folder)
    processor, model = Qwen2_5_VL(path=str(folder)).load()
    thread = Image.new("RGB", (4000, 10))
    (found,) = Scoring(model, processor, 512, 512, "cpu").scores(scorables(benchmark)[:1], lambda _: [thread])
    assert isinstance(found[1], NotScored)
    assert found[1].reason == "refused_image"
    assert "aspect ratio" in found[1].message
