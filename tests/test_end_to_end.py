"""`python run.py` as a user runs it, on a small world: whole, killed and restarted, and refused."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from program import RUN, run_program, start_program
from safetensors.torch import load_file

REPOSITORY = Path(__file__).resolve().parents[1]
SMALL = (
    "dataset.rollouts=320",
    "selector.ratio=0.2",
    "held_out=40",
    "benchmark.size=40",
    "recipe.epochs=2",
    "recipe.global_batch_size=16",
    "trainer.checkpoint_every=2",
    "trainer.validate_every=4",
)

Command = Callable[..., list[str]]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """command("runs", "key=value"): the command line of a small run whose folders are in the test's temporary one."""

    def command(runs: str, *overrides: str) -> list[str]:
        folders = [
            f"runs={tmp_path / runs}",
            f"cache={tmp_path / 'cache'}",
            f"dataset.root={tmp_path / 'world'}",
            f"benchmark.path={tmp_path / 'benchmark' / 'test.jsonl'}",
        ]
        return [RUN, *SMALL, *folders, *overrides]

    return command


def execute(command: list[str]) -> subprocess.CompletedProcess[str]:
    return run_program(*command)


def one_run(runs: Path) -> Path:
    (folder,) = [path for path in runs.iterdir() if path.is_dir()]
    return folder


def kill_when(command: list[str], moment: Callable[[], Any]) -> None:
    """Start the command and SIGKILL it, with its children, at the moment."""
    process = start_program(*command)
    deadline = time.monotonic() + 240
    while not moment():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    process.kill()


@pytest.mark.slow
def test_whole_job_killed_and_restarted_ends_with_the_same_numbers(command: Command, tmp_path: Path) -> None:
    whole = execute(command("whole"))
    assert whole.returncode == 0, whole.stderr
    uninterrupted = one_run(tmp_path / "whole")
    assert {path.name for path in uninterrupted.iterdir()} >= {
        *("config.yaml", "versions.json", "stages.json", "metrics.jsonl", "weights.safetensors"),
        *("predictions.jsonl", "validation_predictions.jsonl", "results.json", "report.html", "subset"),
    }
    assert "AUC" in whole.stdout
    before, _, tables = whole.stdout.partition(uninterrupted.name + " ")
    assert "" not in before.splitlines(), "no bar leaves a blank line in a file"
    assert "Loading weights" not in whole.stderr
    assert tables.splitlines()[-1].endswith(f"task=export run={uninterrupted} output=exported/{uninterrupted.name}")

    def checkpointing(step: int) -> bool:
        """A checkpoint after `step` is being written."""
        folders = list((tmp_path / "killed").glob("*/checkpoints"))
        return any(
            name.startswith(".tmp-") and int(name.split("step-")[1].split(".")[0]) > step
            for folder in folders
            for name in os.listdir(folder)
        )

    kill_when(command("killed"), lambda: list((tmp_path / "killed").glob("*/subset/manifest.json")))
    kill_when(command("killed"), lambda: checkpointing(0))
    kill_when(command("killed"), lambda: checkpointing(2))
    again = execute(command("killed"))
    assert again.returncode == 0, again.stderr
    resumed = one_run(tmp_path / "killed")
    assert not list(resumed.rglob(".tmp-*")), "nothing half-written is left"
    assert json.loads((resumed / "results.json").read_text()) == json.loads(
        (uninterrupted / "results.json").read_text()
    )
    assert (resumed / "predictions.jsonl").read_bytes() == (uninterrupted / "predictions.jsonl").read_bytes()
    assert json.loads((resumed / "stages.json").read_text())["stages"]["train"]["resumed_from"] > 0

    before = (resumed / "stages.json").stat().st_mtime_ns
    skipped = execute(command("killed"))
    assert skipped.returncode == 0, skipped.stderr
    assert (resumed / "stages.json").stat().st_mtime_ns == before, "a finished run is reported, not run again"


@pytest.mark.slow
def test_adapters_of_all_parts_and_a_kappa_head_go_from_rollouts_to_a_report(command: Command, tmp_path: Path) -> None:
    parts = ("backbone=chartworld_qwen2_5_vl", "backbone.language_model=lora", "backbone.vision=lora")
    other = ("objective=beta_binomial", "order=shuffled", "trainer.max_tokens=600", "recipe.epochs=1")
    whole = execute(command("adapters", *parts, *other))
    assert whole.returncode == 0, whole.stderr
    folder = one_run(tmp_path / "adapters")
    names = set(load_file(folder / "weights.safetensors"))
    trained = {"mark_D", "head.weight", *(name for name in names if "lora_" in name or "merger" in name)}
    trained |= {f"kappa.{name}" for name in ("scale", "shift", "weight", "bias")}
    assert names == trained
    assert json.loads((folder / "results.json").read_text())["auc"]["value"] > 0.5


@pytest.mark.slow
def test_auto_gives_what_the_familys_own_component_gives(command: Command, tmp_path: Path) -> None:
    """Trained, evaluated, exported and used; one solution after the other it differs by rounding."""
    tiny = ("benchmark.size=12", "recipe.epochs=1")
    named = ("backbone=chartworld_qwen2_5_vl", "recipe.learning_rate=1.0e-4", "backbone.checkpoint_layers=1")
    auto = ("backbone=auto", "backbone.path=mprm/chartworld/weights/qwen2_5_vl", "recipe.learning_rate=1.0e-4")
    auto += ("backbone.system=", "backbone.max_length=512", "backbone.dtype=float32")
    predictions = {}
    for runs, options in {"named": named, "auto": auto, "one_by_one": (*auto, "backbone.exact=false")}.items():
        done = execute(command(runs, *tiny, *options))
        assert done.returncode == 0, done.stderr
        lines = (one_run(tmp_path / runs) / "predictions.jsonl").read_text().splitlines()
        predictions[runs] = [json.loads(line) for line in lines]
    assert predictions["auto"] == predictions["named"]
    for ours, slow in zip(predictions["auto"], predictions["one_by_one"], strict=True):
        assert slow["scores"] == pytest.approx(ours["scores"], abs=1e-4)
    exported = tmp_path / "exported"
    done = execute([RUN, "task=export", f"run={one_run(tmp_path / 'auto')}", f"output={exported}"])
    assert done.returncode == 0, done.stderr
    prompt = {"system": "", "no": "No", "yes": "Yes", "min_pixels": 784, "max_pixels": 200_704}
    assert json.loads((exported / "mprm.json").read_text()) == prompt
    scored = []
    for model in (f"run={exported}", "backbone=auto"):
        file = tmp_path / f"{len(scored)}.jsonl"
        path = [] if model.startswith("run=") else [f"backbone.path={exported}"]
        source = tmp_path / "benchmark" / "test.jsonl"
        done = execute([RUN, "task=score", model, *path, f"input={source}", f"output={file}"])
        assert done.returncode == 0, done.stderr
        scored.append(file.read_bytes())
    assert scored[0] == scored[1], "the prompt is the one that it was trained with"
