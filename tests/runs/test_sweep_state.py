"""What a sweep leaves behind, whoever reads it and whenever."""

from pathlib import Path

import pytest

from mprm.runs.artifacts import in_use, lock, write_json
from mprm.runs.sweep_state import FOLDER, SweepJob, begin_sweep, lock_sweep, log_file, read_jobs, record


def jobs(*states: str) -> list[SweepJob]:
    return [
        SweepJob(overrides=(f"seed={i} a=b",), label=f"seed={i}", name=f"run-{i}", state=state)
        for i, state in enumerate(states)
    ]


def states(runs: Path) -> list[str]:
    return [job.state for job in read_jobs(runs)]


def test_states_are_read_back_in_the_order_of_the_plan(tmp_path: Path) -> None:
    with lock_sweep(tmp_path):
        begin_sweep(tmp_path, jobs("waiting", "done", "waiting"))
        record(tmp_path, ("seed=2 a=b",), "failed", "no image", 3.5)
        record(tmp_path, ("seed=0 a=b",), "running")
        first, second, third = read_jobs(tmp_path)
    assert (first.state, second.state) == ("running", "done")
    assert third == SweepJob(
        overrides=("seed=2 a=b",), label="seed=2", name="run-2", state="failed", reason="no image", seconds=3.5
    )
    assert log_file(tmp_path, ("seed=2 a=b",)).name == "002.log"


def test_a_folder_without_a_sweep_has_no_points(tmp_path: Path) -> None:
    assert read_jobs(tmp_path) == ()


def test_a_new_plan_forgets_the_states_of_the_old_one(tmp_path: Path) -> None:
    begin_sweep(tmp_path, jobs("waiting"))
    record(tmp_path, ("seed=0 a=b",), "failed", "no image")
    begin_sweep(tmp_path, jobs("done", "waiting"))
    assert read_jobs(tmp_path)[0].state == "done"


def test_what_no_living_process_runs_is_interrupted(tmp_path: Path) -> None:
    with lock_sweep(tmp_path):
        begin_sweep(tmp_path, jobs("waiting", "waiting", "done", "failed"))
        record(tmp_path, ("seed=0 a=b",), "running")
        assert states(tmp_path) == ["running", "waiting", "done", "failed"]
    assert states(tmp_path) == ["interrupted", "interrupted", "done", "failed"]
    (tmp_path / "run-0").mkdir()
    with lock(tmp_path / "run-0", "wait"):  # a job of a cluster outlives the process that asked for it
        assert states(tmp_path) == ["running", "interrupted", "done", "failed"]


def test_one_sweep_at_a_time(tmp_path: Path) -> None:
    with lock_sweep(tmp_path):
        assert in_use(tmp_path / FOLDER)
        with pytest.raises(ValueError, match=r"sweep is in use by process \d+; .*give another runs="):
            lock_sweep(tmp_path)
    assert not in_use(tmp_path / FOLDER)
    lock_sweep(tmp_path).close()


def test_another_versions_sweep_is_named_not_misread(tmp_path: Path) -> None:
    for name, content in (("points.json", []), ("jobs.json", {"version": 0, "jobs": []})):
        write_json(tmp_path / FOLDER / name, content)
        with pytest.raises(ValueError, match=r"sweep is another version's; remove that folder"):
            read_jobs(tmp_path)
        begin_sweep(tmp_path, jobs("waiting"))
        assert states(tmp_path) == ["interrupted"]
