"""check=true tells what a training will need and take, and stops; a benchmark is read before a training starts."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mprm import stages
from mprm.config import Config
from mprm.runs.artifacts import read_json

Load = Callable[..., Config]


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
    stages.experiment(config)
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    run = Path(config.runs) / str(config.name)
    left_out = [json.loads(line) for line in (run / "left_out.jsonl").read_text().splitlines()]
    assert {line["reason"] for line in left_out} == {"unreadable_image", "too_long"}
    [usable] = re.findall(
        r"rollouts: (\d+) to train on, of 64 kept \(\d+ are held out by question and image, left", said
    )
    assert re.search(r"steps: \d+; tokens: [\d,]+, [\d.]+ a rollout, \d+ the longest", said)
    assert f"training: {-(-2 * int(usable) // 16)} optimizer steps of 16 rollouts (recipe.epochs=2), each 1 " in said
    assert "memory per device: parameters " in said
    assert re.search(r"disk: 2 checkpoints of \d+ MiB and weights of \d+ MiB, in all \d+ MiB; .* free", said)
    assert re.search(r"time: \d+\.\d seconds, told from the largest row: [\d,]+ tokens forward and backward took", said)
    assert re.search(r"benchmark: 12 solutions with \d+ steps, \d+ labelled 1, \d+ labelled -1, \d+ labelled 0", said)
    assert "train" not in read_json(run / "stages.json")["stages"]
    assert not (run / "weights.safetensors").exists()
    same = small("backbone.max_length=100")
    assert same.name == config.name, "the training goes on from the selection"


@pytest.mark.parametrize("task", [stages.experiment, stages.train])
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
        stages.experiment(config)
    assert not (tmp_path / "runs").exists()


def test_a_multirun_is_not_looked_at(execute: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, _, complained = execute(tmp_path, "check=true", "seed=0,1")
    assert code == 2
    assert all("check=true looks at one run; give it to the command of one" in line for line in complained.splitlines())
    assert not list(tmp_path.glob("runs/*/config.yaml"))
