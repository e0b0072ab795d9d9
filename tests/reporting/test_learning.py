import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mprm.reporting.compare import Row, compare, run_folders
from mprm.reporting.learning import chosen, learning_exhibit, mean_curve

MakeRow = Callable[..., Row]


def write(folder: Path, **values: list[float]) -> Path:
    """A run whose validations gave these values of val/auc by step: step_10=[auc, seconds]."""
    folder.mkdir(parents=True)
    lines = []
    for name, (auc, seconds) in values.items():
        step = int(name.removeprefix("step_"))
        lines.append({"step": step, "rollouts": 32 * step, "seconds": seconds, "train/loss": 0.5})
        lines.append({"step": step, "rollouts": 32 * step, "seconds": seconds, "val/auc": auc})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_curve_is_the_mean_over_seeds_at_common_steps(tmp_path: Path) -> None:
    a = write(tmp_path / "a", step_10=[0.6, 1.0], step_20=[0.8, 2.0], step_25=[0.9, 3.0])
    b = write(tmp_path / "b", step_10=[0.7, 3.0], step_20=[0.6, 4.0], step_30=[0.9, 5.0])
    curve = mean_curve((a, b), "val/auc")
    assert curve is not None
    assert curve.y.tolist() == pytest.approx([0.65, 0.7])
    assert {axis: values.tolist() for axis, values in curve.x.items()} == {
        "step": [10, 20],
        "rollouts": [320, 640],
        "seconds": [2, 3],
    }
    assert mean_curve((a, b), "val/loss") is None


def test_values_that_are_not_finite_are_no_points(tmp_path: Path) -> None:
    curve = mean_curve((write(tmp_path / "a", step_1=[float("nan"), 1.0], step_2=[0.7, 2.0]),), "val/auc")
    assert curve is not None
    assert curve.y.tolist() == [0.7]


def test_few_settings_are_all_drawn(make_row: MakeRow) -> None:
    rows = tuple(make_row("BIS", ratio / 100, alpha=0.2) for ratio in range(1, 9))
    assert chosen(rows) == list(rows)


def test_of_many_settings_the_ones_that_can_be_compared_are_drawn(make_row: MakeRow) -> None:
    grid = [
        make_row("BIS", ratio, 0.8 + alpha / 10 + ratio / 10 - 0.3 * (ratio > 0.3), alpha=alpha)
        for ratio in (0.5, 0.25, 0.1)
        for alpha in (0.02, 0.2)
    ]
    random = [make_row("Random", ratio, 0.7) for ratio in (0.5, 0.25, 0.1)]
    rows = (make_row("Full", 1.0, 0.9), *grid, *random, make_row("Mixed", 0.25, 0.6), make_row("LowMC", 0.1, None))
    # BIS at 25 % is the best; beside it Random and Mixed at 25 %, Full, and the best BIS at the other ratios
    assert [row.label for row in chosen(rows)] == [
        "Full",
        "BIS, alpha 0.2, 50 %",
        "BIS, alpha 0.2, 25 %",
        "BIS, alpha 0.2, 10 %",
        "Random, 25 %",
        "Mixed, 25 %",
    ]


def test_two_measures_on_three_axes(many_runs: Path) -> None:
    exhibit = learning_exhibit(compare(run_folders(many_runs)).rows)
    assert exhibit is not None
    assert [axes.get_xlabel() for axes in exhibit.figure.axes] == 2 * [
        "optimizer steps",
        "rollouts seen",
        "seconds of training",
    ]
    assert {axes.get_ylabel() for axes in exhibit.figure.axes} == {"AUC of held-out steps", "loss per step (nats)"}
    seconds = next(line for line in exhibit.figure.axes[2].lines if line.get_label() == "Full")
    assert np.asarray(seconds.get_xdata()).tolist() == [10, 20, 30, 40, 50, 60]
    assert "Of 9 settings these are drawn" in exhibit.caption
    assert "Full 0.871 after 120 steps" in exhibit.says
    assert exhibit.data is not None
    assert len(exhibit.data.rows) == 9 * 2 * 6


def test_runs_without_validation_have_no_curves(make_row: MakeRow, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert learning_exhibit((make_row("BIS", 0.1, folders=(tmp_path / "a",)),)) is None
