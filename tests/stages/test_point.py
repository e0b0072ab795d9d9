"""A point of a multirun, whatever process runs it: its state, its log, its rank."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mprm.runs.sweep_folder import Point, lock_sweep, read_points, record, write_points
from mprm.stages import point
from mprm.training.disk import announce_disk
from mprm.training.recipe import Machine

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Path]:
    """A multirun of two points, which holds its lock."""
    with lock_sweep(tmp_path):
        write_points(tmp_path, [Point(overrides=f"seed={i}", label=f"seed={i}", name=None) for i in (0, 1)])
        yield tmp_path


def test_in_a_process_of_its_own_it_speaks_into_its_log(runs: Path) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from mprm.stages.point import run_point\n"
        "def speak():\n"
        "    print('through Python')\n"
        "    os.system('echo through a descriptor; echo and an error >&2')\n"
        "    return 0, ''\n"
        "run_point(Path(sys.argv[1]), 'seed=1', speak)\n"
        "print('afterwards')\n"
    )
    spoken = subprocess.run([sys.executable, "-c", program, str(runs)], capture_output=True, text=True)
    assert (spoken.stdout, spoken.stderr) == ("afterwards\n", "")
    logged = (runs / "sweep" / "001.log").read_text().splitlines()
    assert sorted(logged) == ["and an error", "through Python", "through a descriptor"]
    assert [one.state for one in read_points(runs)] == ["waiting", "done"]
    assert read_points(runs)[1].seconds is not None


def test_in_the_sweeper_it_says_one_line_before_and_one_after(
    runs: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def attempt() -> tuple[int, str]:
        announce_disk(torch.nn.Linear(1, 1), Machine(), runs)
        return 2, "seed=1 is no good"

    monkeypatch.setattr(point, "in_sweeper", True)
    point.run_point(runs, "seed=1", attempt)
    said = capfd.readouterr().out.splitlines()
    assert said == ["2 of 2: seed=1", "failed in 0 s: seed=1 is no good [2 points: 1 failed, 1 waiting]"]
    assert not list(runs.glob("sweep/*.log"))
    assert read_points(runs)[1].reason == "seed=1 is no good"


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
        record(runs, "seed=0", before, "first" if before == "failed" else "")
        return attempt

    point.run_point(runs, "seed=0", fail_after_another)
    found = read_points(runs)[0]
    assert (found.state, found.reason) == after


def test_a_rank_ends_when_another_one_has_failed(runs: Path) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from mprm.stages.point import run_point\n"
        "run_point(Path(sys.argv[1]), 'seed=0', lambda: time.sleep(60))\n"
    )
    waiting = subprocess.Popen([sys.executable, "-c", program, str(runs)])
    try:
        while read_points(runs)[0].state != "running":
            assert waiting.poll() is None
        record(runs, "seed=0", "failed", "of another rank")
        assert waiting.wait(timeout=30) == 1
    finally:
        waiting.kill()
        waiting.wait()
    assert read_points(runs)[0].reason == "of another rank"


def test_submitits_processes_on_one_machine_know_their_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"EXECUTOR": "local", "LOCAL_JOB_ID": "7", "LOCAL_NTASKS": "2", "LOCAL_GLOBALID": "1", "LOCAL_LOCALID": "1"}
    environment = {f"SUBMITIT_{key}": value for key, value in given.items()}
    monkeypatch.setattr(point.os, "environ", environment)
    point.join_process_group()
    assert {key: environment.get(key) for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE")} == {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
    }
    assert {"MASTER_ADDR", "MASTER_PORT"} <= environment.keys()


def test_slurm_tells_the_rank_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1"}
    monkeypatch.setattr(point.os, "environ", environment)
    point.join_process_group()
    assert not environment.keys() & set(RANK_VARIABLES)
