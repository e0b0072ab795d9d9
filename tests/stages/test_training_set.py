"""Pictures that cannot be used: their rollouts are left out before the training, listed, and dropped when asked to."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mprm.batching.examples import Examples
from mprm.config import Config
from mprm.runs.artifacts import read_json
from mprm.runs.run_folder import open_run
from mprm.stages import step_scorer
from mprm.stages.models import load_backbone
from mprm.stages.stage import run_stage
from mprm.stages.step_scorer import SELECT, TRAIN, StepWork
from mprm.stages.training_set import usable

Spoilt = Load = Callable[..., Config]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def spoilt(load: Callable[..., Config], tmp_path: Path) -> Spoilt:
    """spoilt("seed=1"): a world of 64 rollouts; two of its pictures are broken, one is 201 times as wide as high."""

    def spoilt(*overrides: str) -> Config:
        return load(
            *(f"dataset.root={tmp_path / 'world'}", f"benchmark.path={tmp_path / 'benchmark' / 'test.jsonl'}"),
            *("dataset.rollouts=64", "held_out=8", "benchmark.size=12", "selector=full", "recipe.epochs=1"),
            *("recipe.global_batch_size=16", "backbone=chartworld_qwen2_5_vl", "trainer.checkpoint_every=1"),
            *overrides,
        )

    config = spoilt()
    config.dataset.files()
    pictures = sorted(Path(tmp_path / "world" / "images").rglob("*.png"))
    for path in pictures[:2]:
        path.write_bytes(path.read_bytes()[:-40])
    Image.new("RGB", (402, 2)).save(pictures[2])
    return spoilt


@pytest.mark.slow
def test_they_are_left_out_counted_listed_and_excluded(spoilt: Spoilt, capsys: pytest.CaptureFixture[str]) -> None:
    config = spoilt()
    run = Path(config.runs) / str(config.name)
    step_scorer.experiment(config)
    said = "".join(capsys.readouterr().out.split())  # a long path is broken where the line ends
    listed = lines(run / "left_out.jsonl")
    assert Counter(line["reason"] for line in listed) == {"unreadable_image": 8, "refused_image": 4}
    assert f"leftoutbeforethetraining:8unreadable_image,4refused_image->{run / 'left_out.jsonl'}" in said
    assert all(
        line["id"] == f"{line['source']}:{line['line']}" and line["image"] and line["message"] for line in listed
    )
    trained = read_json(run / "stages.json")["stages"]["train"]
    rest = 64 - trained["held_out_rollouts"] - sum(trained["left_out"].values())
    assert trained["rollouts"] == rest
    assert f"trainedon{rest}ofthe64rolloutskept" in said
    not_held_out = sum(trained["left_out"].values())
    scored = len(lines(run / "validation_predictions.jsonl"))
    skipped = read_json(run / "results.json")["skipped_held_out"]
    assert scored + sum(skipped.values()) == trained["held_out_rollouts"]
    assert not_held_out + sum(skipped.values()) == 12

    without = spoilt(f"dataset.exclude={run / 'left_out.jsonl'}")
    step_scorer.train(without)
    said = "".join(capsys.readouterr().out.split())
    assert "selected52of52rollouts(droppedbefore:12excluded)" in said
    assert "leftout" not in said
    assert not lines(Path(without.runs) / str(without.name) / "left_out.jsonl")


def test_a_resumed_run_and_another_rank_leave_out_the_same(
    spoilt: Spoilt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was repaired since; and what broke since stops them with its name."""
    config = spoilt()
    processor, _ = load_backbone(config)
    with open_run(config.raw) as run:
        work = StepWork(config, run)
        run_stage(SELECT, work)
        examples = Examples(work.subset(), config.dataset.image_folder.path, processor)
        file = run.path / "left_out.jsonl"
        (first,) = usable(work, TRAIN, examples)
        assert len(first.usable) == 52
        run.finish("train/ready", {})
    pictures = sorted(Path(tmp_path / "world" / "images").rglob("*.png"))
    shutil.copy(pictures[3], pictures[0])
    written = file.read_bytes()
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with open_run(config.raw) as run:
            (again,) = usable(StepWork(config, run), TRAIN, examples)
        assert again.usable.tolist() == first.usable.tolist()
        assert again.lengths.tokens.tolist() == first.lengths.tokens.tolist()
        assert again.lengths.shared.tolist() == first.lengths.shared.tolist()
        assert again.left_out == first.left_out
        assert file.read_bytes() == written
    pictures[3].write_bytes(b"")
    with (
        open_run(config.raw) as run,
        pytest.raises(ValueError, match=rf"^image {pictures[3]} cannot be read \(.*\); "),
    ):
        usable(StepWork(config, run), TRAIN, examples)
    file.unlink()
    with open_run(config.raw) as run, pytest.raises(ValueError, match=r"left_out\.jsonl cannot be read .*redo=train"):
        usable(StepWork(config, run), TRAIN, examples)


def test_nothing_left_is_one_line_that_tells_why(spoilt: Spoilt, tmp_path: Path) -> None:
    config = spoilt("backbone.max_length=9")
    for path in Path(tmp_path / "world" / "images").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"^none of \d+ rollouts can be trained on \(64 unreadable_image\); .*restore"):
        step_scorer.train(config)


@pytest.fixture
def small(load: Load, tmp_path: Path) -> Load:
    """small("seed=1"): a config of a few seconds."""
    return lambda *overrides: load(
        *(f"dataset.root={tmp_path / 'world'}", f"benchmark.path={tmp_path / 'benchmark' / 'test.jsonl'}"),
        *("dataset.rollouts=64", "held_out=8", "benchmark.size=12", "selector=full", "recipe.epochs=2"),
        *("recipe.global_batch_size=16", *overrides),
    )


def test_everything_is_told_and_nothing_trained(
    small: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small().dataset.files()
    picture = next((tmp_path / "world" / "images").rglob("*.png"))
    picture.write_bytes(picture.read_bytes()[:-40])
    config = small("check=true", "backbone.max_length=100")
    step_scorer.experiment(config)
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    run = Path(config.runs) / str(config.name)
    left_out = [json.loads(line) for line in (run / "left_out.jsonl").read_text().splitlines()]
    assert {line["reason"] for line in left_out} == {"unreadable_image", "too_long"}
    [usable] = re.findall(
        r"rollouts: (\d+) to train on, of 64 kept \(\d+ are held out by question and image, left", said
    )
    assert re.search(r"steps: \d+; tokens: [\d,]+, [\d.]+ a rollout, \d+ the longest", said)
    assert f"training: {-(-2 * int(usable) // 16)} optimizer steps of 16 rollouts (recipe.epochs=2), each of 1 " in said
    assert "memory per device: parameters " in said
    assert re.search(r"disk: 2 checkpoints of \d+ MiB and weights of \d+ MiB, in all \d+ MiB; .* free", said)
    estimate = r"time: \d+\.\d seconds, estimated from the largest row: [\d,]+ tokens forward and backward took"
    assert re.search(estimate, said)
    assert re.search(r"benchmark: 12 solutions with \d+ steps, \d+ labelled 1, \d+ labelled -1, \d+ labelled 0", said)
    assert "train" not in read_json(run / "stages.json")["stages"]
    assert not (run / "weights.safetensors").exists()
    same = small("backbone.max_length=100")
    assert same.name == config.name, "the training goes on from the selection"


def test_a_balanced_training_of_so_many_steps_is_told_kept_and_reused(
    small: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    """check=true and the training say the same share; another selector that keeps the same rollouts takes it over."""
    words = ("recipe.steps=3", "recipe.epochs=null", "objective.balance=classes", "selector=bis", "selector.ratio=1.0")
    step_scorer.train(small(*words, "check=true"))
    foretold = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "training: 3 optimizer steps of 16 rollouts (recipe.steps=3)" in foretold
    config = small(*words)
    step_scorer.train(config)
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    trained = read_json(Path(config.runs) / str(config.name) / "stages.json")["stages"]["train"]
    assert (trained["optimizer_steps"], trained["rollouts"]) == (3, 48)
    assert trained["objective"] == "Hard (balance classes)"
    line = f"objective.balance=classes: {trained['positive_share']:.2%} of the label mass is positive"
    assert line in foretold
    assert line in said
    same = small(*words[:3], "selector=full")
    step_scorer.train(same)
    assert "trained on the same rollouts as" in re.sub(r"\s+", " ", capsys.readouterr().out)
    assert read_json(Path(same.runs) / str(same.name) / "stages.json")["stages"]["train"]["optimizer_steps"] == 3


@pytest.mark.parametrize("task", [step_scorer.experiment, step_scorer.train])
def test_no_gpu_is_needed(
    task: Callable[[Config], None], small: Load, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    task(small("check=true", "trainer=deepspeed_zero3", "trainer.num_workers=0"))
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert re.search(r"time: 0\.0 seconds on 4 devices of 400 TFLOP/s each, not measured: 0\.\d+ TFLOP", said)


def test_a_benchmark_without_labels_is_refused_before_the_selection(small: Load, tmp_path: Path) -> None:
    config = small()
    list(config.benchmark.records())
    path = tmp_path / "benchmark" / "test.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        response = record["response"]
        response["process_correctness"] = [0] * len(response["steps"])
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(
        ValueError, match=r"^benchmark\.path=\S+: no step of its 12 solutions is labelled 1 or -1; give"
    ):
        step_scorer.experiment(config)
    assert not (tmp_path / "runs").exists()


def test_a_sweep_is_not_looked_at(execute: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, _, complained = execute(tmp_path, "check=true", "seed=0,1")
    assert code == 2
    assert all("check=true looks at one run; give it to the command of one" in line for line in complained.splitlines())
    assert not list(tmp_path.glob("runs/*/config.yaml"))
