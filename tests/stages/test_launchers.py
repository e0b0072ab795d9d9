"""Jobs of a sweep in processes of joblib's and of submitit's: what is said, and what becomes of a killed one."""

import contextlib
import os
import re
import select
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from program import Program
from safetensors.numpy import load_file
from waiting import HERE, WAIT, meet

from mprm.stages.sweep_job import DIED

Started = Callable[..., contextlib.AbstractContextManager[Program]]
Execute = Callable[..., tuple[int, str, str]]

REPOSITORY = Path(__file__).resolve().parents[2]
ANNOTATIONS = REPOSITORY / "tests" / "oracle_data" / "selection" / "annotations"
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
SUBMITIT = ("hydra/launcher=submitit_local",)
IMPATIENT = "from submitit.core.core import Job; Job._results_timeout_s = 1"  # of a process that died: else 15 s
RANKS = (*SUBMITIT, "hydra.launcher.tasks_per_node=2", "trainer=ddp_cpu")
SLURM = ("partition=gpu", "nodes=2", "tasks_per_node=4", "gpus_per_node=4", "timeout_min=600", "max_num_timeout=5")
SELECT = ("task=select", "dataset=visualprm400k", "held_out=0")
TRAIN = (
    *("task=train", f"backbone.path={REPOSITORY / 'mprm' / 'chartworld' / 'weights' / 'internvl'}"),
    *("dataset.root=world", "dataset.rollouts=64", "selector=full", "held_out=8", "benchmark.size=12"),
    *("recipe.epochs=1", "recipe.global_batch_size=16"),
)


@pytest.fixture
def pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Annotations, and the selector that waits at the pipes b and c; where it is given the file a, it goes on."""
    shutil.copytree(ANNOTATIONS, tmp_path / "annotations")
    monkeypatch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{REPOSITORY}")
    (tmp_path / "a").touch()
    for name in "bc":
        os.mkfifo(tmp_path / name)
    return tmp_path


def kill_reader(pipe: Path) -> None:
    end = meet(pipe)
    named = f"pipe: {pipe.name}\n"
    run = next(path.parent for path in pipe.parent.glob("runs/*/config.yaml") if named in path.read_text())
    os.kill(int((run / ".lock").read_text()), signal.SIGKILL)
    gone = select.poll()
    gone.register(end, 0)  # an error, which is always told: nobody reads any more
    assert gone.poll(10_000)
    os.close(end)


def let_read(pipe: Path) -> None:
    """The job that waits at the pipe, or will, finds an empty file."""
    end = meet(pipe)
    pipe.unlink()
    pipe.touch()
    os.close(end)


def wait_for(path: Path, text: str) -> None:
    for _ in range(600):
        if path.exists() and text in path.read_text():
            return
        time.sleep(0.1)
    raise TimeoutError(path)


@pytest.mark.parametrize("launcher", [JOBLIB, SUBMITIT])
def test_every_job_runs_and_a_failure_is_its_own(
    execute: Execute, tmp_path: Path, forking: None, launcher: tuple[str, ...]
) -> None:
    shutil.copytree(ANNOTATIONS, tmp_path / "a")
    code, said, complained = execute(
        tmp_path, *SELECT, "dataset.annotations=a,absent", "selector.ratio=0.1,0.2", *launcher
    )
    assert (code, complained) == (1, "")
    assert said.endswith("4 jobs: 2 done, 2 failed -> runs\n")
    ended = re.findall(
        r"^dataset\.annotations=(\w+) selector\.ratio=(0\.\d): (done|failed) in \d s: (.*) \[", said, re.M
    )
    missing = "dataset.annotations: absent is not a folder; give the one that holds the annotations as *.jsonl"
    assert sorted(ended) == [
        ("a", "0.1", "done", "43 rollouts kept"),
        ("a", "0.2", "done", "86 rollouts kept"),
        ("absent", "0.1", "failed", missing),
        ("absent", "0.2", "failed", missing),
    ]
    logs = [(tmp_path / "runs" / "sweep" / f"{number:03}.log").read_text() for number in range(4)]
    assert [log.split()[0] for log in logs] == ["selected", "selected", "mprm:", "mprm:"]


def test_jobs_that_joblib_stopped_together_are_tried_alone(
    started: Started, execute: Execute, pipes: Path, forking: None
) -> None:
    arguments = (*SELECT, "dataset.annotations=annotations", *WAIT, "+selector.pipe=b,c,a", *JOBLIB)
    with started(pipes, *arguments) as sweep:
        wait_for(pipes / "runs" / "sweep" / "001.json", "running")
        kill_reader(pipes / "b")
        kill_reader(pipes / "b")  # alone now
        let_read(pipes / "c")
        said, complained = sweep.communicate(timeout=60)
    assert (sweep.returncode, complained) == (1, "")
    assert_only_the_first_failed_and_can_be_run_again(execute, pipes, arguments, said)


def test_a_killed_job_of_submitits_does_not_stop_the_others(
    started: Started, execute: Execute, pipes: Path, forking: None
) -> None:
    arguments = (*SELECT, "dataset.annotations=annotations", *WAIT, "+selector.pipe=b,c,a", *SUBMITIT)
    with started(pipes, *arguments, before=IMPATIENT) as sweep:
        kill_reader(pipes / "b")
        wait_for(pipes / "runs" / "sweep" / "000.json", "failed")
        let_read(pipes / "c")
        said, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 1
    assert_only_the_first_failed_and_can_be_run_again(
        execute, pipes, (*arguments, "hydra.sweeper.max_batch_size=1"), said
    )


def assert_only_the_first_failed_and_can_be_run_again(
    execute: Execute, folder: Path, arguments: tuple[str, ...], said: str
) -> None:
    assert f"+selector.pipe=b: failed: {DIED}; its log: runs/sweep/000.log [" in said
    assert said.endswith("3 jobs: 2 done, 1 failed -> runs\n")
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/subset/manifest.json")}
    assert len(finished) == 2
    (folder / "b").unlink()
    (folder / "b").touch()
    code, said, complained = execute(folder, *arguments)
    assert (code, complained) == (0, "")
    assert said.endswith("3 jobs: 3 done -> runs\n")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


@pytest.mark.slow
def test_two_ranks_of_submitits_train_what_joblibs_one_process_does(
    started: Started, execute: Execute, tmp_path: Path, forking: None
) -> None:
    """And where rank 0 refuses the data, rank 1, which waits for it, ends: or the job would go on for hours."""
    code, said, _ = execute(tmp_path, *TRAIN, "runs=one", *JOBLIB)
    assert code == 0, said
    assert "trained on 56" in (tmp_path / "one" / "sweep" / "000.log").read_text()
    assert "trained on" not in said
    with started(tmp_path, *TRAIN, "runs=two", "held_out=8,5000", *RANKS, before=IMPATIENT) as sweep:
        said, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 1
    assert "held_out=5000: failed" in said
    assert "no rollout is left to train on beside the 64 of held_out=5000" in said
    assert said.endswith("2 jobs: 1 done, 1 failed -> two\n")
    log = (tmp_path / "two" / "sweep" / "000.log").read_text()
    assert "GLOBAL_RANK: 1, MEMBER: 2/2" in log
    (two,) = (tmp_path / "two").glob("*/weights.safetensors")
    expected = load_file(tmp_path / "one" / two.parent.name / two.name)
    for name, tensor in load_file(two).items():
        # AdamW divides by the gradient's size: where it is nearly zero, rounding is a part of a step of 1.5e-4.
        difference = np.abs(tensor - expected[name])
        assert difference.mean() < 1e-6, name
        assert difference.max() < 1e-4, name


def test_slurm_is_asked_for_what_the_command_line_says() -> None:
    asked = ["hydra/launcher=submitit_slurm", *(f"hydra.launcher.{flag}" for flag in SLURM)]
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        config = compose("config", asked, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        launcher = instantiate(config.hydra.launcher)
    assert type(launcher).__name__ == "SlurmLauncher"
    assert [f"{key}={launcher.params[key]}" for key in (flag.split("=")[0] for flag in SLURM)] == list(SLURM)
    assert launcher.params["submitit_folder"] == "runs/sweep/.submitit/%j"
