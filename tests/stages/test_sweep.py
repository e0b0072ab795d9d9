"""A sweep as a whole: what it refuses, and that it goes on where it was stopped."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from program import RUN, Program, start_program
from waiting import HERE, WAIT

from mprm.config import Config
from mprm.runs.artifacts import read_json
from mprm.stages.sweep import check_launcher

Started = Callable[..., contextlib.AbstractContextManager[Program]]
Execute = Callable[..., tuple[int, str, str]]

REPOSITORY = Path(__file__).resolve().parents[2]
ANNOTATIONS = REPOSITORY / "tests" / "oracle_data" / "selection" / "annotations"
SELECT = ("task=select", "dataset=visualprm400k", f"dataset.annotations={ANNOTATIONS}", "held_out=0")
PREDICTION = '{"id": "1", "source": "s", "labels": [1, -1], "scores": [0.9, 0.45]}\n'
SMALL = (
    *("dataset.root=world", "dataset.rollouts=32", "held_out=8", "benchmark.size=6", "benchmark.path=b/test.jsonl"),
    *("recipe.epochs=1", "recipe.global_batch_size=8", "trainer.checkpoint_every=1", "selector=full"),
    f"backbone.path={REPOSITORY / 'mprm' / 'chartworld' / 'weights' / 'internvl'}",
)


def wait_for(condition: Callable[[], object], process: Program) -> None:
    while not condition() and process.poll() is None:
        time.sleep(0.02)


@pytest.fixture
def waiting(started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    """A sweep of three jobs that waits in the second one, for what is written into a pipe."""
    monkeypatch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{REPOSITORY}")
    os.mkfifo(tmp_path / "pipe")
    for name in "ab":
        (tmp_path / name).touch()
    with started(tmp_path, *SELECT, *WAIT, "+selector.pipe=a,pipe,b") as process:
        second = tmp_path / "runs" / "sweep" / "001.json"
        wait_for(lambda: second.exists() and read_json(second)["state"] == "running", process)
        yield process


def test_ctrl_c_interrupts_the_job_and_the_sweep(execute: Execute, tmp_path: Path, waiting: Program) -> None:
    waiting.send_signal(signal.SIGINT)
    said, complained = waiting.communicate(timeout=30)
    assert (waiting.returncode, complained) == (130, "mprm: interrupted; the same command resumes\n")
    assert said.splitlines()[-1] == "2 of 3: +selector.pipe=pipe"
    (tmp_path / "pipe").unlink()
    (tmp_path / "pipe").touch()
    code, said, _ = execute(tmp_path, *SELECT, *WAIT, "+selector.pipe=a,pipe,b")
    assert code == 0
    assert said.endswith("3 jobs: 3 done -> runs\n")


def test_a_second_sweep_waits_for_the_first_and_not_for_a_dead_one(
    execute: Execute, tmp_path: Path, waiting: Program
) -> None:
    refused = f"mprm: runs/sweep is in use by process {waiting.pid}; wait until it ends, or give another runs=\n"
    assert execute(tmp_path, *SELECT, "seed=0,1") == (2, "", refused)
    waiting.kill()
    waiting.wait()
    code, said, _ = execute(tmp_path, *SELECT, "seed=0,1")
    assert code == 0
    assert said.endswith("2 jobs: 2 done -> runs\n")


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_jobs_without_a_run_folder(execute: Execute, tmp_path: Path, forking: None, launcher: str) -> None:
    (tmp_path / "a.jsonl").write_text(PREDICTION)
    arguments = ("threshold=0.4,0.5", "output='${predictions}-${threshold}.json'", f"hydra/launcher={launcher}")
    code, said, _ = execute(tmp_path, "task=measure", "predictions=a.jsonl,absent.jsonl", *arguments)
    assert code == 1
    assert said.endswith("4 jobs: 2 done, 2 failed -> runs\n")
    assert "absent.jsonl is no file that can be read to its end" in said
    measured = [read_json(tmp_path / f"a.jsonl-{threshold}.json")["thresholds"]["fixed"] for threshold in (0.4, 0.5)]
    assert [one["pooled_macro_f1"]["value"] for one in measured] == pytest.approx(
        [1 / 3, 1.0]
    )  # 0.45 is a wrong step: found at 0.5 only


def test_torchrun_does_not_start_a_sweep(execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, said, complained = execute(tmp_path, *SELECT, "seed=0,1")
    assert (code, said) == (2, "")
    assert complained.startswith("mprm: a sweep is one process; leave torchrun out")
    assert len(complained.splitlines()) == 1


LOCAL = {"tasks_per_node": 1, "gpus_per_node": None, "nodes": 1}


@pytest.mark.parametrize(
    ("overrides", "launcher", "settings", "remedy"),
    [
        (["trainer=gpu", "trainer.devices=4"], "basic", {}, "tasks_per_node=4 hydra.launcher.gpus_per_node=4"),
        (["trainer=deepspeed_zero3"], "joblib", {}, "hydra/launcher=submitit_local hydra.launcher.tasks_per_node="),
        (["trainer=gpu"], "submitit_local", LOCAL, "hydra.launcher.gpus_per_node=1"),
        (["trainer=ddp_cpu"], "submitit_local", LOCAL, "add hydra.launcher.tasks_per_node=2"),
        (["trainer=gpu", "trainer.devices=8"], "submitit_slurm", LOCAL, "add hydra.launcher.tasks_per_node=8"),
        (["trainer=gpu", "trainer.num_nodes=2"], "submitit_slurm", LOCAL, "hydra.launcher.nodes=1"),
    ],
)
def test_processes_that_do_not_fit_the_trainer_are_refused(
    load: Callable[..., Config], overrides: list[str], launcher: str, settings: dict[str, int | None], remedy: str
) -> None:
    with pytest.raises(ValueError, match=r"trainer\.(devices|num_nodes)=") as refused:
        check_launcher(load(*overrides), launcher, OmegaConf.create(settings))
    assert remedy in str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "launcher", "settings"),
    [
        (["trainer=gpu"], "joblib", {}),
        (["trainer=ddp_cpu"], "basic", {}),  # spawns
        (["trainer=gpu", "trainer.devices=8", "task=select"], "basic", {}),
        (["trainer=gpu", "trainer.devices=2"], "submitit_local", LOCAL | {"tasks_per_node": 2, "gpus_per_node": 2}),
        (["trainer=gpu", "trainer.devices=8"], "submitit_slurm", LOCAL | {"tasks_per_node": 8}),  # gres=, or by default
    ],
)
def test_processes_that_fit_are_not(
    load: Callable[..., Config], overrides: list[str], launcher: str, settings: dict[str, int | None]
) -> None:
    check_launcher(load(*overrides), launcher, OmegaConf.create(settings))


@pytest.mark.slow
def test_killed_anywhere_it_ends_like_an_undisturbed_one(execute: Execute, tmp_path: Path) -> None:
    """Killed at the plan, in both trainings, after one, at the comparison. What has finished is not run again."""
    arguments = (*SMALL, "seed=0,1")
    runs = tmp_path / "runs"
    finished: dict[Path, int] = {}

    def files(pattern: str, wanted: int = 1) -> Callable[[], bool]:
        return lambda: len(list(runs.glob(pattern))) >= wanted

    moments = [files("sweep"), files("*/checkpoints/step-*"), files("*/weights.safetensors")]
    moments += [files("*/metrics.jsonl", 2), files("*/report.html", 2)]
    for moment in moments:
        sweep = start_program(RUN, "-m", *arguments, cwd=tmp_path)
        wait_for(moment, sweep)
        assert sweep.poll() is None
        sweep.kill()
        finished |= {path.parent / "stages.json": 0 for path in runs.glob("*/report.html")}
        finished = {path: seen or path.stat().st_mtime_ns for path, seen in finished.items()}
    assert len(finished) == 2
    code, said, _ = execute(tmp_path, *arguments)
    assert code == 0
    assert said.endswith("2 jobs: 2 done -> runs\n")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    execute(tmp_path, *arguments, "runs=undisturbed")
    for path in runs.glob("*/results.json"):
        assert read_json(path) == read_json(tmp_path / "undisturbed" / path.parent.name / path.name)
    shutil.rmtree(tmp_path / "undisturbed")
