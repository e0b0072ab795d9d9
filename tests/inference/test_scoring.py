"""Scores of a tiny untrained backbone over a few benchmark solutions, and entropies under the tiny pretrained ones.

Shape suffixes: B solutions, L tokens of a padded row, N places, V vocabulary.
"""

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from program import RUN, run_program
from torch.nn.utils.rnn import pad_sequence

from mprm.backbones.internvl import InternVL
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL
from mprm.batching import loading
from mprm.batching.collate import Batch
from mprm.batching.examples import open_images
from mprm.chartworld.corpus import ChartWorldBenchmark
from mprm.data.records import Solution
from mprm.inference import scoring
from mprm.inference.score_file import AT_ONCE, path_beside, score_file
from mprm.inference.scoring import Scored, ScoreRequest, Scoring
from mprm.metrics.predictions import NotScored, StepScores
from tests.encoding import normalised
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


def test_loader_workers_change_neither_values_nor_order(
    backbone: InternVL, benchmark: ChartWorldBenchmark, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Exactly: the rows are the same, several of them, beside solutions that cannot be scored."""
    monkeypatch.setattr(scoring, "HELD", 1)
    processor, model = backbone.load()
    solutions = scorables(benchmark)
    solutions += [
        replace(solutions[3], id="long", steps=["word " * 200]),
        replace(solutions[0], id="no", images=["no"]),
    ]

    def opened(names: Sequence[str]) -> list[Image.Image]:
        (tmp_path / str(os.getpid())).touch()
        return open_images([benchmark.image_folder.path(name) for name in names])

    def found(num_workers: int) -> list[Any]:
        by_model = Scoring(model, processor, 150, 150, "cpu", num_workers)
        return [list(by_model.scores(solutions, opened)), list(by_model.entropies(solutions[:4], opened))]

    alone = found(0)
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())], "no processes"
    assert len(alone[0]) == len(solutions)
    assert {one.reason for _, one in alone[0] if isinstance(one, NotScored)} == {"too_long", "missing_image_file"}
    assert found(2) == found(1) == alone
    assert len(list(tmp_path.iterdir())) > 3


def test_shared_memory_that_is_too_small_is_told_before(
    backbone: InternVL, benchmark: ChartWorldBenchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tile of 56 x 56 bytes in three channels, two for each of eight workers and one beside them: 160 kB."""
    monkeypatch.setattr(loading.shutil, "disk_usage", lambda _: SimpleNamespace(free=9408 * 8))
    processor, model = backbone.load()

    def opened(names: Sequence[str]) -> list[Image.Image]:
        return open_images([benchmark.image_folder.path(name) for name in names])

    def scores(num_workers: int) -> None:
        list(Scoring(model, processor, 512, 512, "cpu", num_workers).scores(scorables(benchmark)[:2], opened))

    with pytest.raises(ValueError, match=r"^trainer\.num_workers=8: [^\n]*give trainer\.num_workers=3, or more shared"):
        scores(8)
    scores(0)


WEIGHTS = Path(scoring.__file__).parents[1] / "chartworld" / "weights"
BACKBONES = {"internvl": InternVL(path=str(WEIGHTS / "internvl"), max_tiles=1)}
BACKBONES["qwen2_5_vl"] = Qwen2_5_VL(path=str(WEIGHTS / "qwen2_5_vl"))
PICTURES = {
    name: Image.fromarray(np.random.default_rng(len(name)).integers(0, 256, (size, 56, 3), dtype=np.uint8))
    for name, size in (("a", 56), ("bb", 84))
}
BEGUN = ("red is 4.", "blue is 7.")
SOLUTIONS = [
    ScoreRequest("right", ["a"], "What is red plus blue?", [*BEGUN, "red 4 + blue 7 = 11.", "The answer is 11."]),
    ScoreRequest("other", ["bb"], "What is red plus blue?", [*BEGUN, "The answer is 11."]),
    ScoreRequest("wrong", ["a"], "What is red plus blue?", [*BEGUN, "red 4 + blue 7 = 12."]),
    ScoreRequest("odd", ["bb"], "Which <image1>?", ["<|im_end|> <image>"]),
    ScoreRequest("again", ["a"], "What is red plus blue?", [*BEGUN, "red 4 + blue 7 = 12."]),
]


@pytest.fixture(scope="module", params=["internvl", "qwen2_5_vl"])
def loaded(request: pytest.FixtureRequest) -> Any:
    return BACKBONES[request.param].load()


def open_pictures(names: Sequence[str]) -> list[Image.Image]:
    if "missing" in names:
        raise ValueError("image missing is not there")
    return [PICTURES[name] for name in names]


def entropies(
    loaded: Any, solutions: Sequence[ScoreRequest], max_tokens: int = 4096, max_length: int = 512
) -> dict[str, float | NotScored]:
    processor, model = loaded
    found = list(Scoring(model, processor, max_length, max_tokens, "cpu").entropies(solutions, open_pictures))
    assert len(dict(found)) == len(found) == len(solutions), "each solution comes once"
    return dict(found)


def padded(loaded: Any, solutions: Sequence[ScoreRequest]) -> dict[str, float]:
    """By stock transformers, in one padded batch."""
    processor, model = loaded
    ids, starts, images = [], [], []
    for one in solutions:
        pictures = open_pictures(one.images)
        asked = processor.ask([picture.size for picture in pictures], one.question).input_ids.tolist()
        steps = [step.replace("<image>", "[image]") + "\n\n" for step in one.steps]
        pieces = processor.tokenizer(steps, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        starts.append(len(asked))
        ids.append(torch.tensor([*asked, *(token for piece in pieces for token in piece)]))
        images.append(normalised(processor, processor.vision(pictures)))
    hf = type(model.hf).from_pretrained(model.hf.name_or_path).eval()
    ids_BL = pad_sequence(ids, batch_first=True)
    vision = {name: torch.cat([tensors[name] for tensors in images]) for name in images[0]}
    if "image_grid_thw" in vision:
        vision["mm_token_type_ids"] = (ids_BL == hf.config.image_token_id).int()
    mask_BL = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    with torch.inference_mode():
        logits_BLV = hf(input_ids=ids_BL, attention_mask=mask_BL, **vision).logits
    entropy_BL = torch.distributions.Categorical(logits=logits_BLV).entropy()
    return {
        one.id: float(entropy_BL[row, start - 1 : len(ids[row]) - 1].mean())
        for row, (one, start) in enumerate(zip(solutions, starts, strict=True))
    }


def test_it_is_that_of_stock_transformers_in_a_padded_batch(loaded: Any) -> None:
    found = entropies(loaded, SOLUTIONS)
    assert found == pytest.approx(padded(loaded, SOLUTIONS), abs=1e-5)
    assert len({round(value, 3) for value in found.values()}) == 4
    assert found["again"] == found["wrong"]


def test_it_does_not_depend_on_the_company(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = {one.id: entropies(loaded, [one])[one.id] for one in SOLUTIONS}
    for max_tokens, solutions in ((1, SOLUTIONS), (512, SOLUTIONS[::-1]), (4096, SOLUTIONS)):
        assert entropies(loaded, solutions, max_tokens) == pytest.approx(alone, abs=1e-6)
    monkeypatch.setattr(scoring, "CHUNK", 3)
    monkeypatch.setattr(scoring, "HELD", 0)
    assert entropies(loaded, SOLUTIONS) == pytest.approx(alone, abs=1e-6)


def test_only_step_tokens_count_and_shared_ones_are_computed_once() -> None:
    """Logits that are all alike have the entropy ln V; how many rows of them are asked for."""
    processor, model = BACKBONES["internvl"].load()
    rows = []

    class Alike(torch.nn.Module):
        def forward(self, h_ND: torch.Tensor) -> torch.Tensor:
            rows.append(len(h_ND))
            return torch.zeros(len(h_ND), 8)

    model.hf.lm_head = Alike()
    found = entropies((processor, model), SOLUTIONS[2:3])
    n_tokens = [len(processor.tokenizer.encode(step + "\n\n")) for step in SOLUTIONS[0].steps]
    assert found == {"wrong": pytest.approx(math.log(8))}
    assert rows == [sum(n_tokens[:3])]  # its steps are as long as the first three of SOLUTIONS[0]
    rows.clear()
    entropies((processor, model), [SOLUTIONS[0], SOLUTIONS[2], SOLUTIONS[4]])
    behind = len(processor.tokenizer.encode("12.\n\n")) - 1  # the place before 12 or 11 is shared
    assert rows == [sum(n_tokens) + behind]


def test_what_can_not_be_measured_is_told(loaded: Any) -> None:
    missing = ScoreRequest("missing", ["missing"], "Which?", ["red is 4."])
    thread = ScoreRequest("long", ["a"], "What is red plus blue?", ["red is 4."] * 300)
    found = entropies(loaded, [thread, missing, *SOLUTIONS], max_length=400)
    told = {name: one.reason for name, one in found.items() if isinstance(one, NotScored)}
    assert told == {"missing": "missing_image_file", "long": "too_long"}
    assert found["long"].message.endswith("more than max_length=400")  # type: ignore[union-attr]
    assert {name: found[name] for name in ("odd", "right")} == pytest.approx(
        {one.id: entropies(loaded, [one])[one.id] for one in SOLUTIONS if one.id in ("odd", "right")}, abs=1e-6
    )
    assert dict(entropies(loaded, [])) == {}


REPOSITORY = Path(__file__).resolve().parents[2]
ORACLE = REPOSITORY / "tests" / "oracle_data" / "internvl"


SETTINGS = {"backbone": "by length"}


def by_length(solutions: Sequence[ScoreRequest]) -> Scored:
    """A judge that looks at the number of letters, from the last solution to the first, and has no picture of b.png."""
    for solution in reversed(solutions):
        if "b.png" in solution.images:
            yield solution.id, NotScored("missing_image_file", "image b.png is not there")
        else:
            yield solution.id, StepScores(tuple(float(len(step)) for step in solution.steps))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, records: Sequence[object]) -> None:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records) + "\n", encoding="utf-8")


def test_records_come_back_in_order_with_scores(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    good = {"image": "a.png", "question": "Why?", "steps": ["abc", "abcde"], "kept": "图"}
    unscored = [
        {"image": "b.png", "question": "Why?", "steps": ["abc"]},
        {"image": "a.png", "question": " ", "steps": ["abc"]},
        {"image": "a.png", "question": "Why?", "steps": []},
        {"image": "a.png", "question": "Why?", "steps": ["abc", 3]},
        {"image": 3, "question": "Why?", "steps": ["abc"]},
    ]
    write(tmp_path / "in.jsonl", [good, "", "{broken", *unscored, good])
    target = tmp_path / "out.jsonl"
    scored, pictureless, skipped = score_file(tmp_path / "in.jsonl", target, by_length, SETTINGS)
    assert (scored, pictureless) == (2, 0)
    reasons = ["image b.png is not there", "no_question", "no_steps", "bad_step", "no_image"]
    assert skipped == {"missing_image_file": 1, "not_json": 1} | dict.fromkeys(reasons[1:], 1)
    expected = {**good, "step_scores": [pytest.approx(1 / (1 + math.exp(-n))) for n in (3, 5)]}
    without = [{**r, "step_scores": None, "not_scored": why} for r, why in zip(unscored, reasons, strict=True)]
    assert lines(target) == [expected, *without, expected]


@pytest.mark.parametrize("image", [{}, {"image": None}, {"image": []}], ids=["absent", "null", "empty"])
def test_a_record_without_an_image_field_is_scored(image: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", [image | {"question": "Why?", "steps": ["abc"]}])
    assert score_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", by_length, SETTINGS) == (1, 1, {})


def test_a_file_with_other_keys_is_one_line_that_names_them_and_those_wanted(tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", ["", {"picture": "a.png", "prompt": "Why?", "answer": "abc"}, {"image": "a.png"}])
    keys = r"has no usable record \(no_question\): line 2 of .* has the keys picture, prompt, answer; "
    with pytest.raises(ValueError, match=f"{keys}give JSON lines with image, question and steps, or records of"):
        score_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", by_length, SETTINGS)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_kappa_head_brings_sigma(tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", [{"image": "a.png", "question": "Why?", "steps": ["abc"]}])

    def surely(solutions: Sequence[ScoreRequest]) -> Scored:
        yield solutions[0].id, StepScores((0.0,), (3.0,))

    score_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", surely, SETTINGS)
    (line,) = lines(tmp_path / "out.jsonl")
    assert (line["step_scores"], line["step_sigmas"]) == ([0.5], [0.25])


def test_a_killed_scoring_goes_on_behind_what_it_has(tmp_path: Path) -> None:
    records = [{"image": "a.png", "question": "Why?", "steps": ["x" * n]} for n in range(1, 150)]
    write(tmp_path / "in.jsonl", records)
    seen: list[str] = []

    def dies(solutions: Sequence[ScoreRequest]) -> Scored:
        for name, found in by_length(solutions):
            if len(seen) == 100:
                raise KeyboardInterrupt
            seen.append(name)
            yield name, found

    with pytest.raises(KeyboardInterrupt):
        score_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", dies, SETTINGS)
    assert not (tmp_path / "out.jsonl").exists()
    with pytest.raises(ValueError, match="other settings or another input"):
        score_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", by_length, "another model")
    asked: list[str] = []

    def goes_on(solutions: Sequence[ScoreRequest]) -> Scored:
        asked.extend(solution.id for solution in solutions)
        return by_length(solutions)

    assert score_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", goes_on, SETTINGS) == (149, 0, {})
    assert len(asked) == 149 - AT_ONCE
    assert not set(asked) & set(seen[:AT_ONCE])
    score_file(tmp_path / "in.jsonl", tmp_path / "whole.jsonl", by_length, SETTINGS)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_images_lie_beside_the_file_or_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside").mkdir()
    for path in (tmp_path / "beside" / "a.png", tmp_path / "b.png"):
        Image.new("RGB", (len(path.parts), 1)).save(path)
    monkeypatch.chdir(tmp_path)
    path = path_beside(tmp_path / "beside" / "in.jsonl")
    pictures = open_images([path("a.png"), path("b.png")])
    assert pictures[0].width == pictures[1].width + 1
    with pytest.raises(ValueError, match=r"^image c.png cannot be read"):
        open_images([path("c.png")])


def test_images_of_published_records_are_found_as_annotations_find_them(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for name in ("images/Geo/0.png", "images/nlvr2/images/train-0.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    path = path_beside(tmp_path / "annotations" / "nlvr2_en.jsonl")
    assert path("VisualPRM400K-v1.1-Raw/Geo/0.png") == tmp_path / "images/Geo/0.png"
    assert path("images/train-0.png").is_file()


def test_published_records_are_read_as_they_are(tmp_path: Path) -> None:
    asked = {"image": ["a.png"], "question": "<image>\nWhy?"}
    raw = [{"step": " ab ", "score": "?"}, {"step": "abc"}]
    records = [
        asked | {"question": "Why <image1>?", "response": {"steps": ["ab", "abc"], "process_correctness": [1, -1]}},
        asked | {"question_orig": "Why?", "response": "ab\n\nabc", "steps_with_score": raw},
        asked | {"response": "ab\n\nabc", "steps_with_score": raw},
        asked | {"response": {}, "steps_with_score": raw},
        asked | {"steps_with_score": ["ab"]},
    ]
    write(tmp_path / "in.jsonl", records)
    seen: list[ScoreRequest] = []
    score_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", lambda s: seen.extend(s) or by_length(s), SETTINGS)
    assert [(s.question, list(s.steps)) for s in seen] == [
        ("Why <image1>?", ["ab", "abc"]),
        ("Why?", ["ab", "abc"]),
        ("Why?", ["ab", "abc"]),
    ]
    assert [r.get("not_scored") for r in lines(tmp_path / "out.jsonl")] == [None, None, None, "no_steps", "bad_step"]


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^input=.*nowhere is not a file; give JSON lines with image, question"):
        score_file(tmp_path / "nowhere", tmp_path / "out.jsonl", by_length, SETTINGS)


@pytest.mark.slow
def test_the_original_folder_gives_the_published_scores(tmp_path: Path) -> None:
    cases = json.loads((ORACLE / "cases.json").read_text())
    records = [
        {
            "image": case["record"]["image"],
            "question": case["record"]["question_orig"],
            "steps": [step["step"] for step in case["record"]["steps_with_score"]],
        }
        for case in cases
    ]
    (tmp_path / "images").symlink_to(ORACLE / "images")
    write(tmp_path / "rollouts.jsonl", records)
    paths = [f"backbone.path={ORACLE / 'checkpoint'}", "input=rollouts.jsonl", "output=scores.jsonl"]
    given = ("backbone=internvl2_5_8b", "backbone.max_length=2048")  # as long as its positions are known for
    done = run_program(RUN, "task=score", *given, *paths, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.match(r"scored 6 solutions in \d+\.\d s; wrote scores\.jsonl\n", done.stdout), done.stdout
    for case, line in zip(cases, lines(tmp_path / "scores.jsonl"), strict=True):
        assert line["step_scores"] == pytest.approx(case["train"]["scores"], abs=1e-5)
