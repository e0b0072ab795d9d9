"""How far a multirun is, in words."""

from pathlib import Path

import pytest

from mprm.runs.artifacts import write_json
from mprm.runs.sweep_folder import Point
from mprm.stages.progress import counts, result, time_left


def point(state: str, seconds: float | None = None, work: float = 1.0) -> Point:
    return Point(overrides="", label="", name="n", work=work, state=state, seconds=seconds)


def test_states_are_counted_and_absent_ones_left_out() -> None:
    assert counts([point("done"), point("done"), point("failed")]) == "3 points: 2 done, 1 failed"
    assert counts([point("waiting"), point("running"), point("interrupted")]) == (
        "3 points: 1 running, 1 waiting, 1 interrupted"
    )


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([point("waiting")], ""),  # nothing is known yet
        ([point("done", None), point("waiting")], ""),  # done by an earlier multirun
        ([point("done", 60)], ""),  # nothing is left
        ([point("done", 60), point("done", 180), *[point("waiting")] * 3], "about 6 min left"),  # 3 x 120 s
        ([point("done", 20), point("waiting")], "less than a minute left"),
        # 60 s + 600 s x work: 660 s for all rollouts
        ([point("done", 120, 0.1), point("done", 360, 0.5), point("waiting", work=1.0)], "about 11 min left"),
        # two at a time: (300 + 2 x 300 / 2) / 2
        ([point("done", 300), point("waiting"), *[point("running")] * 2], "about 5 min left"),
    ],
)
def test_the_time_left_by_hand(points: list[Point], expected: str) -> None:
    assert time_left(points) == expected


def test_a_run_in_a_few_words(tmp_path: Path) -> None:
    stages: dict[str, object] = {"select": {"kept": 1600}}
    write_json(tmp_path / "stages.json", {"stages": stages})
    assert result(tmp_path) == "1,600 rollouts kept"
    stages["train"] = {"optimizer_steps": 98}
    write_json(tmp_path / "stages.json", {"stages": stages})
    assert result(tmp_path) == "trained in 98 steps"
    stages["evaluate"] = {"auc": 0.8612, "overall_at_0.5": 0.7514}
    write_json(tmp_path / "stages.json", {"stages": stages})
    assert result(tmp_path) == "AUC 0.861, macro-F1 at 0.5 75.1"
