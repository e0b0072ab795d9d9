"""A reward model through its task, on a few pairs: trained, measured, exported."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from mprm.batching.examples import open_images
from mprm.config import Config
from mprm.data.questions import Pair
from mprm.inference.scoring import Scoring, conversation
from mprm.metrics.predictions import NotScored, StepScores
from mprm.reporting.run_record import read_json_lines
from mprm.runs.artifacts import read_json
from mprm.runs.run_folder import open_run
from mprm.scorer import StepScorer
from mprm.stages import reward_model, standalone
from mprm.stages.responses import JudgeWork, responses
from tests.encoding import normalised

Load = Callable[..., Config]


@pytest.fixture
def rating(load: Load, tmp_path: Path) -> Load:
    """rating("seed=1"): the configuration of task=reward_model on a small world in the test's folder."""

    def rating(*overrides: str) -> Config:
        paths = [f"{group}.path={tmp_path / group / 'pairs.jsonl'}" for group in ("preferences", "reward_benchmark")]
        sizes = ("preferences.size=24", "reward_benchmark.size=6")
        return load("task=reward_model", *sizes, *paths, *overrides)

    return rating


def folder_of(config: Config) -> Path:
    return Path(config.runs) / str(config.name)


def all_alike(
    scoring: Scoring, requests: Any, open_images: Any, whole: bool
) -> Iterator[tuple[str, StepScores | NotScored]]:
    """All answers have the same score, but for the last pair, of which one is too long."""
    for one in requests:
        yield one.id, NotScored("too_long", "too long") if one.id == "5\x000" else StepScores((1.5,), None)


def test_trained_measured_and_exported(
    rating: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, asked = rating(), []
    scores = Scoring.scores

    def watched(scoring: Scoring, requests: Any, open_images: Any, whole: bool) -> Any:
        asked.append([request.id for request in requests])
        for number, scored in enumerate(scores(scoring, requests, open_images, whole)):
            if len(asked) == 1 and number == 3:
                raise RuntimeError("the power is cut")
            yield scored

    monkeypatch.setattr(Scoring, "scores", watched)
    monkeypatch.setattr("mprm.inference.score_file.AT_ONCE", 1)
    with pytest.raises(RuntimeError, match="the power is cut"):
        reward_model.reward_model(config)
    reward_model.reward_model(config)
    assert (len(asked[0]), len(asked[1])) == (12, 9), "three scores were kept"
    assert "reward model: already trained on 24 pairs" in capsys.readouterr().out
    run = folder_of(config)
    assert run.name.startswith("reward_model-chartworld_internvl-seed0-")
    assert rating("judge.temperature=2", "objective=soft", "selector=random").name == run.name, "it uses none of them"
    assert rating("recipe.epochs=2").name != run.name
    results = read_json(run / "results.json")
    assert list(results["judges"]) == ["reward_model"]
    assert results["training"]["reward_model"]["examples"] == 24, "with and without a trace"
    lines = read_json_lines(run / "judged_reward_model.jsonl") or []
    right = [(one["scores"][0] > one["scores"][1]) == (one["better"] == "A") for one in lines]
    judge = results["judges"]["reward_model"]
    assert judge["accuracy"]["value"] == sum(right) / len(right)
    assert (len(lines), judge["first"], judge["bins"], judge["tells"]) == (12, None, [], None)
    page = (run / "report.html").read_text()
    assert "Without reasoning the judge is right in" in page
    assert "entropy" not in page.lower().partition("<h1")[2]

    exported = tmp_path / "exported"
    standalone.export(rating("task=export", f"run={run}", f"output={exported}"))
    assert "how good an answer is, in one number" in (exported / "README.md").read_text()
    for folder in (run, exported):
        with pytest.raises(ValueError, match=r"is a reward model, which scores answers and no steps; "):
            StepScorer.from_pretrained(folder)
    with open_run(config.raw) as opened:
        work = JudgeWork(config, opened)
        processor, model = work.judge_after("reward_model")
        monkeypatch.setattr(Scoring, "scores", all_alike)
        alike, unusable = responses(work, "judge/judged_alike", "reward_model", {}, work.benchmark.usable)
    assert unusable == {"5": "too_long"}
    right = [one["responses"][0]["verdict"] == one["better"] for one in alike]
    assert (len(right), sum(right)) == (10, 5), "of two answers with the same score half is right"
    (pair, *_) = [one for one in config.reward_benchmark.records() if isinstance(one, Pair)]
    images = open_images([config.reward_benchmark.image_folder.path(name) for name in pair.images])
    ids = conversation(processor, [image.size for image in images], pair.prompt, pair.answer_a).input_ids
    hf = AutoModelForImageTextToText.from_pretrained(exported, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = hf(input_ids=ids[None], **normalised(processor, processor.vision(images))).logits[0, -1]
    assert float(logits[model.verdict_ids].diff()) == pytest.approx(lines[0]["scores"][0], abs=1e-5)


def test_what_is_not_used_is_one_line(rating: Load) -> None:
    with pytest.raises(
        ValueError, match=r"^redo=sft is no stage of task=reward_model; choose one of reward_model, judge$"
    ):
        rating("redo=sft")
