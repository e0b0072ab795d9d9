"""A job of a sweep, whatever process runs it: its state, its log, its rank; and how far the sweep is, in words."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from program import run_program, start_program

from mprm.runs.artifacts import write_json
from mprm.runs.journal import SweepJob, begin_sweep, lock_sweep, read_jobs, record
from mprm.stages import sweep_job
from mprm.stages.sweep_job import counts, result, time_left
from mprm.training.cost import announce_disk
from mprm.training.recipe import Machine

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Path]:
    """A sweep of two jobs, which holds its lock."""
    with lock_sweep(tmp_path):
        begin_sweep(tmp_path, [SweepJob(overrides=(f"seed={i}",), label=f"seed={i}", name=None) for i in (0, 1)])
        yield tmp_path


def test_in_a_process_of_its_own_it_speaks_into_its_log(runs: Path) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from mprm.stages.sweep_job import run_in_launcher\n"
        "def speak():\n"
        "    print('through Python')\n"
        "    os.system('echo through a descriptor; echo and an error >&2')\n"
        "    return 0, ''\n"
        "run_in_launcher(Path(sys.argv[1]), ('seed=1',), speak)\n"
        "print('afterwards')\n"
    )
    spoken = run_program("-c", program, str(runs))
    assert (spoken.stdout, spoken.stderr) == ("afterwards\n", "")
    logged = (runs / "sweep" / "001.log").read_text().splitlines()
    assert sorted(logged) == ["and an error", "through Python", "through a descriptor"]
    assert [one.state for one in read_jobs(runs)] == ["waiting", "done"]
    assert read_jobs(runs)[1].seconds is not None


def test_in_the_sweeper_it_says_one_line_before_and_one_after(
    runs: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def attempt() -> tuple[int, str]:
        announce_disk(torch.nn.Linear(1, 1), Machine(), runs)
        return 2, "seed=1 is no good"

    sweep_job.run_here(runs, ("seed=1",), attempt)
    said = capfd.readouterr().out.splitlines()
    assert said == ["2 of 2: seed=1", "failed in 0 s: seed=1 is no good [2 jobs: 1 failed, 1 waiting]"]
    assert not list(runs.glob("sweep/*.log"))
    assert read_jobs(runs)[1].reason == "seed=1 is no good"


@pytest.mark.parametrize(
    ("before", "attempt", "after"),
    [
        ("running", (0, ""), ("running", "")),  # the first rank says when the point is done
        ("running", (2, "mine"), ("failed", "mine")),
        ("failed", (1, "a connection was closed"), ("failed", "first")),
    ],
)
def test_a_further_rank_records_that_it_failed_first(
    runs: Path, monkeypatch: pytest.MonkeyPatch, before: str, attempt: tuple[int, str], after: tuple[str, str]
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")

    def fail_after_another() -> tuple[int, str]:
        record(runs, ("seed=0",), before, "first" if before == "failed" else "")
        return attempt

    sweep_job.run_in_launcher(runs, ("seed=0",), fail_after_another)
    found = read_jobs(runs)[0]
    assert (found.state, found.reason) == after


def test_a_rank_ends_when_another_one_has_failed(runs: Path) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from mprm.stages.sweep_job import run_in_launcher\n"
        "run_in_launcher(Path(sys.argv[1]), ('seed=0',), lambda: time.sleep(60))\n"
    )
    waiting = start_program("-c", program, str(runs))
    try:
        while read_jobs(runs)[0].state != "running":
            assert waiting.poll() is None
        record(runs, ("seed=0",), "failed", "of another rank")
        assert waiting.wait(timeout=30) == 1
    finally:
        waiting.kill()
    assert read_jobs(runs)[0].reason == "of another rank"


def test_submitits_processes_on_one_machine_know_their_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"EXECUTOR": "local", "LOCAL_JOB_ID": "7", "LOCAL_NTASKS": "2", "LOCAL_GLOBALID": "1", "LOCAL_LOCALID": "1"}
    environment = {f"SUBMITIT_{key}": value for key, value in given.items()}
    monkeypatch.setattr(sweep_job.os, "environ", environment)
    sweep_job.join_process_group()
    assert {key: environment.get(key) for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE")} == {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
    }
    assert {"MASTER_ADDR", "MASTER_PORT"} <= environment.keys()


def test_slurm_tells_the_rank_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1"}
    monkeypatch.setattr(sweep_job.os, "environ", environment)
    sweep_job.join_process_group()
    assert not environment.keys() & set(RANK_VARIABLES)


def job(state: str, seconds: float | None = None, work: float = 1.0) -> SweepJob:
    return SweepJob(overrides=("",), label="", name="n", work=work, state=state, seconds=seconds)


def test_states_are_counted_and_absent_ones_left_out() -> None:
    assert counts([job("done"), job("done"), job("failed")]) == "3 jobs: 2 done, 1 failed"
    assert counts([job("waiting"), job("running"), job("interrupted")]) == (
        "3 jobs: 1 running, 1 waiting, 1 interrupted"
    )


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([job("waiting")], ""),  # nothing is known yet
        ([job("done", None), job("waiting")], ""),  # done by an earlier sweep
        ([job("done", 60)], ""),  # nothing is left
        ([job("done", 60), job("done", 180), *[job("waiting")] * 3], "about 6 min left"),  # 3 x 120 s
        ([job("done", 20), job("waiting")], "less than a minute left"),
        # 60 s + 600 s x work: 660 s for all rollouts
        ([job("done", 120, 0.1), job("done", 360, 0.5), job("waiting", work=1.0)], "about 11 min left"),
        # two at a time: (300 + 2 x 300 / 2) / 2
        ([job("done", 300), job("waiting"), *[job("running")] * 2], "about 5 min left"),
    ],
)
def test_the_time_left_by_hand(jobs: list[SweepJob], expected: str) -> None:
    assert time_left(jobs) == expected


def test_a_run_in_a_few_words(tmp_path: Path) -> None:
    stages: dict[str, object] = {"select": {"kept": 1600}}
    write_json(tmp_path / "stages.json", {"stages": stages})
    assert result(tmp_path) == "1,600 rollouts kept"
    stages["train"] = {"optimizer_steps": 98}
    write_json(tmp_path / "stages.json", {"stages": stages})
    assert result(tmp_path) == "trained in 98 steps"
    stages["evaluate"] = {"auc": 0.8612, "f1": 0.7514}
    write_json(tmp_path / "stages.json", {"stages": stages})
    assert result(tmp_path) == "AUC 0.861, F1 75.1"
