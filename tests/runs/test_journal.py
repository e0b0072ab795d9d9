"""What long work keeps is found again, whatever happened to the process that kept it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mprm.runs.artifacts import in_use, lock, write_json
from mprm.runs.journal import SWEEP, SweepJob, begin_sweep, journal, lock_sweep, log_file, read_jobs, record

SETTINGS = {"seed": 0, "path": "weights"}


def keep(target: Path, **results: object) -> None:
    with journal(target, SETTINGS) as kept:
        kept.add(results)


def test_what_was_added_is_found_again_and_written_in_the_order_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "new" / "out.jsonl"
    keep(target, b={"text": "ä\u2028\n"})
    with journal(target, SETTINGS) as kept:
        assert kept.done == {"b": {"text": "ä\u2028\n"}}
        kept.add({"a": {"text": ""}})
        assert not target.exists()
        kept.finish(kept.done[key] for key in ("a", "b"))
    assert [json.loads(line) for line in target.read_text().split("\n")[:-1]] == [{"text": ""}, {"text": "ä\u2028\n"}]
    assert [path.name for path in target.parent.iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_half_written_line_is_none(tmp_path: Path, cut: int) -> None:
    keep(tmp_path / "out", one=1)
    keep(tmp_path / "out", two="ää")
    path = tmp_path / "out.journal"
    path.write_bytes(path.read_bytes()[:-cut])
    keep(tmp_path / "out", three=3)
    with journal(tmp_path / "out", SETTINGS) as kept:
        assert kept.done == {"one": 1, "three": 3}


def test_a_process_killed_before_its_first_line_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "out.journal").write_bytes(b"3fa9")
    keep(tmp_path / "out", one=1)
    with journal(tmp_path / "out", SETTINGS) as kept:
        assert kept.done == {"one": 1}


def test_other_settings_are_refused(tmp_path: Path) -> None:
    keep(tmp_path / "out", one=1)
    with (
        pytest.raises(ValueError, match="begun with other settings"),
        journal(tmp_path / "out", SETTINGS | {"seed": 1}),
    ):
        pass


def test_other_settings_begin_anew_what_holds_no_result(tmp_path: Path) -> None:
    """A command that failed at once, by a wrong run= for one, does not bar the corrected one from its output."""
    keep(tmp_path / "out")
    with journal(tmp_path / "out", SETTINGS | {"seed": 1}) as kept:
        kept.add({"one": 1})
    with journal(tmp_path / "out", SETTINGS | {"seed": 1}) as kept:
        assert kept.done == {"one": 1}
    with pytest.raises(ValueError, match="begun with other settings"), journal(tmp_path / "out", SETTINGS):
        pass


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        journal(tmp_path / "out", SETTINGS),
        pytest.raises(ValueError, match="in use by another process"),
        journal(tmp_path / "out", SETTINGS),
    ):
        pass


def test_a_damaged_journal_is_one_line(tmp_path: Path) -> None:
    keep(tmp_path / "out", one=1)
    path = tmp_path / "out.journal"
    path.write_bytes(path.read_bytes() + b"\xff{\n")
    with (
        pytest.raises(ValueError, match=r"out.journal cannot be read .*; delete it"),
        journal(tmp_path / "out", SETTINGS),
    ):
        pass
    path.unlink()
    with journal(tmp_path / "out", SETTINGS) as kept:
        assert kept.done == {}


def test_a_cache_waits_for_another_process_and_begins_anew_where_it_is_damaged(tmp_path: Path) -> None:
    def one(cache_of: str | None = "numbers") -> dict[str, object]:
        with journal(tmp_path / "out", SETTINGS, cache_of) as kept:
            if "one" not in kept.done:
                kept.add_each([("one", 1), ("two", 2), ("three", 3)], at_once=2)
            return kept.done

    assert one() == one() == {"one": 1, "two": 2, "three": 3}
    path = tmp_path / "out.journal"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + b"\xff{\n")
    assert one() == {"one": 1, "two": 2, "three": 3}
    assert path.read_bytes() == whole
    program = (
        "import sys; from pathlib import Path; from mprm.runs.journal import journal\n"
        f"with journal(Path(sys.argv[1]), {SETTINGS}, 'numbers') as kept: print(len(kept.done), flush=True)\n"
    )
    with journal(tmp_path / "out", SETTINGS, "numbers"):
        command = [sys.executable, "-c", program, str(tmp_path / "out")]
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline() == "another run computes the same numbers; waiting for it\n"
    assert other.stdout.readline() == "3\n"
    assert other.wait() == 0


def test_what_came_before_a_kill_is_kept(tmp_path: Path) -> None:
    def killed() -> Iterator[tuple[str, int]]:
        for number in range(5):
            yield str(number), number
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), journal(tmp_path / "out", SETTINGS) as kept:
        kept.add_each(killed(), at_once=2)
    with journal(tmp_path / "out", SETTINGS) as kept:
        assert kept.done == {"0": 0, "1": 1, "2": 2, "3": 3}


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
        assert in_use(tmp_path / SWEEP)
        with pytest.raises(ValueError, match=r"sweep is in use by process \d+; .*give another runs="):
            lock_sweep(tmp_path)
    assert not in_use(tmp_path / SWEEP)
    lock_sweep(tmp_path).close()


def test_another_versions_sweep_is_named_not_misread(tmp_path: Path) -> None:
    for name, content in (("points.json", []), ("jobs.json", {"version": 0, "jobs": []})):
        write_json(tmp_path / SWEEP / name, content)
        with pytest.raises(ValueError, match=r"sweep is another version's; remove that folder"):
            read_jobs(tmp_path)
        begin_sweep(tmp_path, jobs("waiting"))
        assert states(tmp_path) == ["interrupted"]
