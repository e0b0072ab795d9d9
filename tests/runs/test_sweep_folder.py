"""What a multirun leaves behind, whoever reads it and whenever."""

from pathlib import Path

import pytest

from mprm.runs.run_folder import in_use, lock
from mprm.runs.sweep_folder import FOLDER, Point, lock_sweep, log_file, read_points, record, write_points


def points(*states: str) -> list[Point]:
    return [
        Point(overrides=f"seed={i} a=b", label=f"seed={i}", name=f"run-{i}", state=state)
        for i, state in enumerate(states)
    ]


def states(runs: Path) -> list[str]:
    return [point.state for point in read_points(runs)]


def test_states_are_read_back_in_the_order_of_the_plan(tmp_path: Path) -> None:
    with lock_sweep(tmp_path):
        write_points(tmp_path, points("waiting", "done", "waiting"))
        record(tmp_path, "seed=2 a=b", "failed", "no image", 3.5)
        record(tmp_path, "seed=0 a=b", "running")
        first, second, third = read_points(tmp_path)
    assert (first.state, second.state) == ("running", "done")
    assert third == Point(
        overrides="seed=2 a=b", label="seed=2", name="run-2", state="failed", reason="no image", seconds=3.5
    )
    assert log_file(tmp_path, "seed=2 a=b").name == "002.log"


def test_a_folder_without_a_multirun_has_no_points(tmp_path: Path) -> None:
    assert read_points(tmp_path) == ()


def test_a_new_plan_forgets_the_states_of_the_old_one(tmp_path: Path) -> None:
    write_points(tmp_path, points("waiting"))
    record(tmp_path, "seed=0 a=b", "failed", "no image")
    write_points(tmp_path, points("done", "waiting"))
    assert read_points(tmp_path)[0].state == "done"


def test_what_no_living_process_runs_is_interrupted(tmp_path: Path) -> None:
    with lock_sweep(tmp_path):
        write_points(tmp_path, points("waiting", "waiting", "done", "failed"))
        record(tmp_path, "seed=0 a=b", "running")
        assert states(tmp_path) == ["running", "waiting", "done", "failed"]
    assert states(tmp_path) == ["interrupted", "interrupted", "done", "failed"]
    (tmp_path / "run-0").mkdir()
    with lock(tmp_path / "run-0", "wait"):  # a job of a cluster outlives the process that asked for it
        assert states(tmp_path) == ["running", "interrupted", "done", "failed"]


def test_one_multirun_at_a_time(tmp_path: Path) -> None:
    with lock_sweep(tmp_path):
        assert in_use(tmp_path / FOLDER)
        with pytest.raises(ValueError, match=r"sweep is in use by process \d+; .*give another runs="):
            lock_sweep(tmp_path)
    assert not in_use(tmp_path / FOLDER)
    lock_sweep(tmp_path).close()
