"""Results are read as they were written, or refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from mprm.metrics.best_of_n_results import AdaptiveResults, BestOfNBenchmark, BestOfNResults, Between, Draws, Method
from mprm.metrics.evaluate import measure
from mprm.metrics.predictions import Prediction
from mprm.metrics.results import Estimate, JudgeResults, StepResults, read_results, write_results
from mprm.runs.artifacts import write_json

NUMBER = Estimate(0.5, 0.4, 0.6)
DRAWS = Draws(accuracy=NUMBER, candidates=NUMBER, tokens=None)
METHOD = Method(accuracy=(Estimate(0.1), NUMBER), minus={"pass@1": NUMBER})
BEST_OF_N = BestOfNResults(
    aggregate="mean",
    n_max=2,
    questions=3,
    seed=0,
    benchmarks={
        "all": BestOfNBenchmark(
            questions=3,
            policy={"pass@1": METHOD},
            models={"a": {"mean": METHOD}},
            ties={"a": 1},
            between=(Between(a="a", b="b", difference=NUMBER),),
        )
    },
    adaptive={
        "a": AdaptiveResults(
            orders=4,
            limit=16,
            adaptive=DRAWS,
            all=DRAWS,
            all_mean=DRAWS,
            saved={"candidates": NUMBER},
            minus_all=NUMBER,
            minus_all_mean=NUMBER,
            fixed={4: DRAWS},
        )
    },
)


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    path = tmp_path / "steps.json"
    write_results(path, measure([Prediction("a", "s", (1, -1), (0.9, 0.1))], 0.5, resamples=5))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", BEST_OF_N)
    assert read_results(tmp_path / "results.json") == BEST_OF_N
    written = json.loads((tmp_path / "results.json").read_text())
    assert list(written)[:2] == ["version", "kind"]
    assert written["benchmarks"]["all"]["between"][0]["difference"] == {"value": 0.5, "low": 0.4, "high": 0.6}


def test_another_kind_is_told_from_the_one_that_is_wanted(steps: Path) -> None:
    assert read_results(steps, StepResults).kind == "steps"
    with pytest.raises(ValueError, match=r"steps\.json .* are of kind steps, not judge") as caught:
        read_results(steps, JudgeResults)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: {"n_solutions": 3, "thresholds": {}},  # before there were versions
        lambda content: content | {"version": 1},
        lambda content: content | {"kind": "novel"},
        lambda content: content | {"thresholds": {"fixed": {"threshold": "half"}}},
        lambda content: {key: value for key, value in content.items() if key != "auc"},
        lambda content: [content],
    ],
)
def test_an_older_or_damaged_file_is_one_line_with_the_way_on(steps: Path, change: Any) -> None:
    write_json(steps, change(json.loads(steps.read_text())))
    with pytest.raises(ValueError, match=r"steps\.json .*; run the command that wrote it again") as caught:
        read_results(steps)
    assert "\n" not in str(caught.value)


def test_a_file_of_a_run_is_made_again_by_its_stage(steps: Path) -> None:
    write_json(steps.with_name("stages.json"), {"files": {"evaluate": {"steps.json": [1, ""]}}})
    with pytest.raises(ValueError, match=r"add task=evaluate redo=evaluate to the run's command"):
        read_results(steps)


def test_no_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json cannot be read \(No such file"):
        read_results(tmp_path / "none.json")
