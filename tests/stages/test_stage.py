"""A training is done once for all runs that have the same subset, and only for those."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from program import Program, start_program

from mprm.config import Config
from mprm.data.records import VisualProcessBench, usable_records
from mprm.runs.artifacts import file_states, read_json
from mprm.runs.run_folder import open_run
from mprm.scorer import StepScorer
from mprm.stages import judges, reward_model, step_scorer
from mprm.stages.scoring import content_hash
from mprm.stages.stage import Stage, Work, opened
from mprm.stages.step_scorer import StepWork
from mprm.tasks import JUDGE_STAGES, STEP_STAGES, TASKS

Load = Callable[..., Config]


@pytest.fixture
def small(load: Load, tmp_path: Path) -> Load:
    """small("selector=full"): a config of a few seconds."""

    def small(*overrides: str) -> Config:
        return load(
            *(f"dataset.root={tmp_path / 'world'}", f"benchmark.path={tmp_path / 'benchmark' / 'test.jsonl'}"),
            *("dataset.rollouts=64", "held_out=8", "benchmark.size=12", "recipe.epochs=1"),
            *("recipe.global_batch_size=16", "logger=local"),
            *overrides,
        )

    return small


def summaries(config: Config) -> dict[str, dict[str, object]]:
    return read_json(Path(config.runs) / str(config.name) / "stages.json")["stages"]


@pytest.mark.slow
def test_the_same_subset_is_trained_and_evaluated_once(small: Load, tmp_path: Path) -> None:
    full, everything = small("selector=full"), small("selector=random", "selector.ratio=1.0")
    for config in (full, everything):
        step_scorer.experiment(config)
    first, second = summaries(full), summaries(everything)
    assert "shared_with" not in first["train"]
    assert second["train"]["shared_with"] == second["evaluate"]["shared_with"] == full.name
    assert second["train"]["optimizer_steps"] == first["train"]["optimizer_steps"]
    assert second["evaluate"]["auc"] == first["evaluate"]["auc"]
    folders = [Path(config.runs) / str(config.name) for config in (full, everything)]
    for name in ("metrics.jsonl", "weights.safetensors", "predictions.jsonl", "results.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    assert (folders[1] / "report.html").exists()

    elsewhere = small("selector=full", f"benchmark.path={tmp_path / 'other' / 'test.jsonl'}", "benchmark.size=10")
    step_scorer.experiment(elsewhere)
    third = summaries(elsewhere)
    assert third["train"]["shared_with"] == full.name
    assert "shared_with" not in third["evaluate"]  # another benchmark: evaluated for itself


def test_a_killed_evaluation_goes_on_where_it_stopped(small: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small("selector=full", "recipe.epochs=0")
    step_scorer.train(config)
    benchmark = {solution.id for solution in usable_records(config.benchmark, "benchmark")[0]}
    scored, seen, limit = StepScorer.scored, [], 6

    def stopped(self: StepScorer, *given: Any) -> Any:
        for name, found in scored(self, *given):
            if name in benchmark:
                seen.append(name)
                if len(seen) == limit:
                    raise KeyboardInterrupt
            yield name, found

    monkeypatch.setattr(StepScorer, "scored", stopped)
    monkeypatch.setattr("mprm.inference.score_file.AT_ONCE", 4)
    with pytest.raises(KeyboardInterrupt):
        step_scorer.evaluate(small("selector=full", "recipe.epochs=0", "task=evaluate"))
    step_scorer.evaluate(small("selector=full", "recipe.epochs=0", "task=evaluate"))
    assert len(seen) == 6 + 12 - 4
    assert set(seen) == benchmark


def test_the_key_is_the_subset_and_the_settings(small: Load) -> None:
    def key(*overrides: str) -> str:
        config = small(*overrides)
        step_scorer.select(config)
        with open_run(config.raw) as run:
            return StepWork(config, run).training_key

    full = key("selector=full")
    assert key("selector=random", "selector.ratio=1.0") == full
    assert key("selector=bis", "selector.ratio=1.0", "benchmark.size=13") == full
    assert key("selector=random", "selector.ratio=0.5") != full
    assert key("selector=full", "seed=1") != full
    assert key("selector=full", "recipe.learning_rate=0.001") != full
    assert key("selector=full", "held_out=9") != full


def test_trainings_of_one_key_wait_for_each_other_and_others_do_not(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from mprm.stages.stage import one_at_a_time\n"
        "with one_at_a_time(Path(sys.argv[1]), 'train', {'the subset': sys.argv[2]}):\n"
        "    print('in', flush=True); time.sleep(float(sys.argv[3]))\n"
    )

    def start(key: str, seconds: str) -> Program:
        return start_program("-c", program, str(tmp_path), key, seconds, output=tmp_path / f"{key}{seconds}")

    def wait_for(process: Program, file: str, said: str) -> None:
        while said not in (tmp_path / file).read_text():
            assert process.poll() is None

    holder = start("aaaaaaaa", "60")
    wait_for(holder, "aaaaaaaa60", "in\n")
    assert start("bbbbbbbb", "0").wait(timeout=60) == 0
    waiting = start("aaaaaaaa", "0")
    wait_for(waiting, "aaaaaaaa0", "another run is at the same stage, train; waiting for it\n")
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(timeout=0.5)
    holder.kill()  # however it ends
    assert waiting.wait(timeout=60) == 0


def test_a_run_that_was_begun_goes_on_with_its_own_training(small: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Further ranks that find its files do not wait for the first one's decision."""
    full, everything = small("selector=full"), small("selector=random", "selector.ratio=1.0")
    step_scorer.train(full)
    fitted: list[str] = []

    def fit(work: StepWork) -> dict[str, int]:
        fitted.append(str(work.cfg.name))
        return {"optimizer_steps": 1, "too_long": 0}

    monkeypatch.setattr(step_scorer, "TRAIN", replace(step_scorer.TRAIN, do=fit))
    step_scorer.select(everything)
    with open_run(everything.raw) as run:
        run.finish("train/ready", {})
    step_scorer.train(everything)
    assert fitted == [everything.name]


LINES: tuple[tuple[tuple[Stage[Any], ...], tuple[str, ...]], ...] = (
    (step_scorer.LINE, STEP_STAGES),
    (judges.LINE, JUDGE_STAGES),
    (reward_model.LINE, TASKS["reward_model"].stages),
)


@pytest.mark.parametrize(("line", "names"), LINES)
def test_redo_forgets_the_stage_and_all_that_follow_it(
    line: tuple[Stage[Any], ...], names: tuple[str, ...], small: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tuple(stage.name for stage in line) == names
    config = small("name=one")
    for number, redo in enumerate(names):
        with opened(Work, config, line) as work:
            folder = work.run.path
            for stage in line:
                for name in (*stage.files, *(pattern.replace("*", "x") for pattern in stage.remains)):
                    path = folder / name if "." in name else folder / name / "file"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
                work.run.finish(stage.name, {}, file_states(folder, stage.files))
                work.run.finish(f"{stage.name}/part", {})
        task = next(name for name in ("reward_model", "egt", "experiment") if {*names} <= {*TASKS[name].stages})
        again = replace(config, task=task, redo=redo)
        with monkeypatch.context() as launched:
            launched.setenv("WORLD_SIZE", "2")
            with pytest.raises(ValueError, match="task=select with it first"), opened(Work, again, line):
                pass
        with opened(Work, again, line):
            pass
        left = read_json(folder / "stages.json")
        assert list(left["stages"]) == [name for stage in names[:number] for name in (stage, f"{stage}/part")]
        for stage in line:
            kept = [path for name in (*stage.files, *stage.remains) for path in folder.glob(name)]
            assert bool(kept) == (stage.name in names[:number]), stage.name


def of_benchmark(folder: Path, name: str, labels: list[list[Any]], colour: str = "red") -> Any:
    """The part of a config that says which benchmark; its solutions have one step per label."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (4, 4), colour).save(folder / "a.png")
    records = [
        {
            "image": ["a.png"],
            "question": "how many?",
            "data_source": "x",
            "response": {"steps": [f"step {i}" for i in range(len(of_one))], "process_correctness": of_one},
        }
        for of_one in labels
    ]
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return SimpleNamespace(benchmark=VisualProcessBench(path=str(folder / name)))


def test_the_hash_is_of_the_content_alone(tmp_path: Path) -> None:
    def hash_of(folder: str, name: str, labels: list[list[Any]], colour: str = "red") -> str:
        cfg = of_benchmark(tmp_path / folder, name, labels, colour)
        return content_hash(cfg, usable_records(cfg.benchmark, "benchmark")[0])

    first = hash_of("a", "test.jsonl", [[1, -1], [1]])
    assert hash_of("b", "other.jsonl", [[1], [1, -1]]) == first
    assert hash_of("c", "test.jsonl", [[1, -1], [-1]]) != first
    assert hash_of("d", "test.jsonl", [[1, -1], [1]], colour="blue") != first
    shutil.move(tmp_path / "a", tmp_path / "moved")
    moved: Any = SimpleNamespace(benchmark=VisualProcessBench(path=str(tmp_path / "moved" / "test.jsonl")))
    assert content_hash(moved, usable_records(moved.benchmark, "benchmark")[0]) == first
