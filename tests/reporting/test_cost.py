import json
import shutil
from pathlib import Path

from mprm.reporting.compare import Comparison, compare, run_folders
from mprm.reporting.cost import cost_table, unfinished_lines, unfinished_table
from mprm.runs.sweep_state import SweepJob


def test_every_run_has_its_cost_and_says_whose_training_it_took(many_runs: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(many_runs, tmp_path / "runs"))
    path = runs / "mixed-0.5-1" / "stages.json"
    record = json.loads(path.read_text())
    record["stages"]["train"] |= {"seconds": 0.5, "shared_with": "random-0.5-1"}
    path.write_text(json.dumps(record))
    (runs / "mixed-0.5-0" / "stages.json").unlink()
    table = cost_table(compare(run_folders(runs)).rows)
    rows = {row[0]: row[1:] for row in table.rows}
    assert len(rows) == 18
    assert rows["Full, seed 1"] == ("960", "120", "0.2", "60.5", "1,030.0", "-")
    assert rows["Mixed, 50 %, seed 1"] == ("960", "120", "0.2", "0.5", "1,030.0", "Random, 50 %, seed 1")
    assert rows["Mixed, 50 %, seed 0"] == ("-", "-", "-", "-", "-", "-")
    # 16 runs of 0.25 + 60.5 + 1030 seconds and one of 0.25 + 0.5 + 1030
    assert "18,483 in all" in table.note


def point(number: int, state: str, reason: str = "") -> SweepJob:
    return SweepJob(overrides=f"x={number}", label=f"label {number}", name=None, state=state, reason=reason)


def test_what_is_not_in_the_comparison_stands_with_its_reason() -> None:
    points = (point(0, "waiting"), point(1, "done"), point(2, "failed", "the loss is nan"), point(3, "interrupted"))
    comparison = Comparison((), {"old": "same setting and seed as new"}, points)
    table = unfinished_table(comparison)
    assert table is not None
    assert table.rows == (
        ("label 2", "failed", "the loss is nan"),
        ("label 3", "interrupted", "-"),
        ("label 0", "waiting", "-"),
        ("old", "left out", "same setting and seed as new"),
    )
    assert unfinished_table(Comparison((), {}, (point(1, "done"),))) is None


def test_in_the_terminal_failures_have_their_lines_and_what_waits_shares_one() -> None:
    points = (
        *(point(n, "waiting") for n in range(20)),
        point(20, "failed", "a"),
        point(21, "failed", "b"),
        point(22, "running"),
    )
    assert unfinished_lines(Comparison((), {"x": "why"}, points)) == [
        "Failed: label 20: a",
        "Failed: label 21: b",
        "Left out: x (why)",
        "Not finished: 20 waiting, 1 running",
    ]
    assert unfinished_lines(Comparison((), {})) == []
