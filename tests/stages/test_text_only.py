"""Rollouts of text alone, from their annotations to the report: under a language model, and mixed with pictures under a
vision-language model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mprm.config import Config
from mprm.runs.artifacts import read_json
from mprm.stages import step_scorer
from mprm.stages.scoring import score
from tools import tiny

Load = Callable[..., Config]
SMALL = ("held_out=4", "recipe.epochs=null", "recipe.steps=2", "recipe.global_batch_size=8")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def corpus(tmp_path: Path) -> Callable[..., tuple[str, ...]]:
    """corpus(pictures=8): 24 rollouts, two of a question, and 8 benchmark solutions; so many of the questions (and half
    of the benchmark, if any) have a picture. Returns what a command says of them."""

    def corpus(pictures: int) -> tuple[str, ...]:
        image: list[dict[str, Any]] = []
        for number in range(pictures):
            (tmp_path / "pictures").mkdir(exist_ok=True)
            Image.new("RGB", (56, 56), (20 * number, 90, 200)).save(tmp_path / "pictures" / f"{number}.png")
            image.append({"image": f"pictures/{number}.png"})
        image += [{}, {"image": None}, {"image": []}] * 12
        rollouts, solutions = [], []
        for number in range(12):
            for wrong in (0, 1):
                steps = [f"red is {number}.", f"The answer is {number + 1 + wrong}."]
                scores = zip(steps, (1.0, 1.0 - wrong), strict=True)
                raw = [{"step": step, "score": score} for step, score in scores]
                question = f"What is red {number} plus 1?"
                rollouts.append(image[number] | {"question": question, "steps_with_score": raw})
                if number < 8 and wrong == number % 2:
                    response = {"steps": steps, "process_correctness": [1, -1 if wrong else 1]}
                    shown = image[number] if number < 4 else {}
                    question += " Look again."
                    solutions.append(shown | {"question": question, "data_source": "s", "response": response})
        write(tmp_path / "annotations" / "sums.jsonl", rollouts)
        write(tmp_path / "test.jsonl", solutions)
        data = ("dataset=visualprm400k", f"dataset.annotations={tmp_path / 'annotations'}")
        data += ("benchmark=visualprocessbench", f"benchmark.path={tmp_path / 'test.jsonl'}", *SMALL)
        return (*data, f"dataset.images={tmp_path}") if pictures else data

    return corpus


@pytest.fixture
def language_model(tmp_path: Path) -> tuple[str, str]:
    torch.manual_seed(0)
    tiny.build("qwen2", tmp_path / "qwen2")
    return "backbone=qwen3_4b", f"backbone.path={tmp_path / 'qwen2'}"


@pytest.mark.slow
def test_a_language_model_goes_from_rollouts_to_a_report(
    load: Load, corpus: Any, language_model: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No folder of images is named anywhere."""
    config = load(*corpus(pictures=0), *language_model, "selector=entropy", "selector.ratio=0.5")
    run = Path(config.runs) / str(config.name)
    step_scorer.experiment(config)
    assert "24 rollouts name no image" in capsys.readouterr().out
    assert read_json(run / "stages.json")["stages"]["train"]["optimizer_steps"] == 2
    assert lines(run / "left_out.jsonl") == []
    results = read_json(run / "results.json")
    assert results["n_solutions"] == 8
    assert results["skipped"] == results["skipped_held_out"] == {}
    assert len(lines(run / "validation_predictions.jsonl")) >= 4
    page = (run / "report.html").read_text()
    assert "What is red" in page
    assert "<img" not in page

    write(tmp_path / "in.jsonl", [{"question": "What is red 1 plus 1?", "steps": ["red is 1.", "The answer is 2."]}])
    files = (f"input={tmp_path / 'in.jsonl'}", f"output={tmp_path / 'out.jsonl'}")
    assert score(load("task=score", f"run={run}", *files)) == 0
    ((first, second),) = [record["step_scores"] for record in lines(tmp_path / "out.jsonl")]
    assert 0 < first != second


@pytest.mark.slow
def test_a_mixed_corpus_trains_a_vision_language_model(load: Load, corpus: Any) -> None:
    config = load(*corpus(pictures=6), "backbone=chartworld_internvl", "selector=full", "recipe.steps=3")
    run = Path(config.runs) / str(config.name)
    step_scorer.experiment(config)
    train = read_json(run / "stages.json")["stages"]["train"]
    assert (train["optimizer_steps"], train["held_out_rollouts"], train["left_out"]) == (3, 4, {})
    assert lines(run / "left_out.jsonl") == []
    results = read_json(run / "results.json")
    assert results["n_solutions"] == 8
    assert results["skipped"] == results["skipped_held_out"] == {}
    shown = [len(example["pictures"]) for example in read_json(run / "examples.json")]
    assert set(shown) == {0, 1}
    assert (run / "report.html").read_text().count("<img") == sum(shown)


@pytest.mark.slow
def test_a_language_model_leaves_pictures_out_and_says_so(
    load: Load, corpus: Any, language_model: tuple[str, str]
) -> None:
    config = load(*corpus(pictures=6), *language_model, "selector=full", "held_out=0")
    run = Path(config.runs) / str(config.name)
    step_scorer.experiment(config)
    left_out = lines(run / "left_out.jsonl")
    assert [one["reason"] for one in left_out] == ["refused_image"] * 12
    assert "a language model sees no images; choose a vision-language backbone=" in left_out[0]["message"]
    assert read_json(run / "results.json")["skipped"] == {"refused_image": 4}

    config = load(*corpus(pictures=12), *language_model, "selector=full", "held_out=0", "seed=1")
    with pytest.raises(ValueError, match=r"^none of 24 rollouts can be trained on \(24 refused_image\)"):
        step_scorer.experiment(config)
