import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from mprm.reporting.compare import (
    Comparison,
    as_csv,
    as_markdown,
    compare,
    comparison_table,
    mean_over_seeds,
    run_folders,
)
from mprm.reporting.compare_page import comparison_figure, print_comparison, write_comparison

MakeRun = Callable[..., Path]
FULL = {"_target_": "mprm.selection.baselines.Full", "ratio": 1.0, "count": None}
RANDOM = {"_target_": "mprm.selection.baselines.Random", "ratio": 0.1, "count": None}
BIS = {"_target_": "mprm.selection.bis.BIS", "alpha": 0.2, "ratio": 0.1, "count": None}


@pytest.fixture
def runs(tmp_path: Path, make_run: MakeRun) -> Path:
    """BIS at two ratios and full, three seeds each; random with one seed."""
    folder = tmp_path / "runs"
    for seed, f1 in enumerate((0.78, 0.80, 0.82)):
        make_run(folder / f"bis-{seed}", seed=seed, f1=f1, auc=f1 + 0.1, n=100)
        make_run(folder / f"bis25-{seed}", seed=seed, selector=BIS | {"ratio": 0.25}, f1=f1 + 0.01, auc=f1, n=100)
        make_run(folder / f"full-{seed}", seed=seed, selector=FULL, f1=0.85, auc=0.95, n=100)
    make_run(folder / "random-0", selector=RANDOM | {"seed": 0}, f1=0.7, auc=0.81, n=100)
    return folder


def test_mean_and_t_interval_by_hand() -> None:
    # sd of 78, 80, 82 is 2; t(2 degrees of freedom) = 4.3027; half width 4.3027 * 2 / sqrt(3) = 4.9683
    number = mean_over_seeds([78.0, 80.0, 82.0])
    assert (number.value, number.low, number.high) == pytest.approx((80, 75.0317, 84.9683), abs=1e-4)


def test_one_seed_has_no_interval() -> None:
    number = mean_over_seeds([0.7])
    assert (number.value, number.low, number.high) == (0.7, None, None)


def test_runs_are_grouped_by_everything_but_the_seed(runs: Path) -> None:
    comparison = compare(run_folders(runs))
    assert [(row.label, row.seeds) for row in comparison.rows] == [
        ("Full", (0, 1, 2)),
        ("BIS, alpha 0.2, 25 %", (0, 1, 2)),
        ("BIS, alpha 0.2, 10 %", (0, 1, 2)),
        ("Random, 10 %", (0,)),
    ]
    bis = comparison.rows[2]
    assert bis.f1_fixed is not None
    assert bis.f1_calibrated is not None
    assert bis.auc is not None
    assert bis.f1_fixed.value == pytest.approx(0.80)
    assert bis.f1_fixed.low == pytest.approx(0.750317, abs=1e-6)
    assert bis.f1_calibrated.value == pytest.approx(0.81)
    assert bis.auc.value == pytest.approx(0.90)
    assert bis.kept == 9
    assert comparison.baselines == pytest.approx({"majority class": 0.4123, "position only": 0.5512})
    assert comparison.left_out == {}


def test_the_seed_of_a_selector_follows_the_run_and_that_of_a_dataset_does_not(
    tmp_path: Path, make_run: MakeRun
) -> None:
    for seed in (0, 1):
        make_run(tmp_path / f"r{seed}", seed=seed, selector=RANDOM | {"seed": seed}, n=100)
    assert len(compare(run_folders(tmp_path)).rows) == 1
    for seed in (0, 1):
        path = tmp_path / f"r{seed}" / "config.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"dataset": {"seed": seed}}))
    assert [row.other for row in compare(run_folders(tmp_path)).rows] == ["dataset.seed=0", "dataset.seed=1"]


def test_what_tells_two_settings_apart_is_in_their_names(tmp_path: Path, make_run: MakeRun) -> None:
    hard, soft, strict = (
        {"_target_": "mprm.x.Hard", "tau": 0.0},
        {"_target_": "mprm.x.Soft"},
        {"_target_": "mprm.x.Hard", "tau": 0.1},
    )
    for objectives, expected in (
        ((hard, soft), {"BIS, alpha 0.2, objective Hard, 10 %", "BIS, alpha 0.2, objective Soft, 10 %"}),
        ((hard, strict), {"BIS, alpha 0.2, objective.tau=0.0, 10 %", "BIS, alpha 0.2, objective.tau=0.1, 10 %"}),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for i, objective in enumerate(objectives):
            path = make_run(folder / f"r{i}", n=100) / "config.yaml"
            path.write_text(
                yaml.safe_dump(yaml.safe_load(path.read_text()) | {"objective": objective, "logger": {"a": i}})
            )
        assert {row.label for row in compare(run_folders(folder)).rows} == expected


def test_unfinished_and_repeated_runs_are_left_out_and_named(runs: Path, make_run: MakeRun) -> None:
    (runs / "bis-1" / "results.json").unlink()
    make_run(runs / "bis-again", seed=2, n=100)
    comparison = compare(run_folders(runs))
    assert comparison.left_out == {
        "bis-1": "not finished: no results.json yet",
        "bis-again": "same setting and seed as bis-2",
    }
    assert comparison.rows[2].seeds == (0, 2)


def test_no_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run folder; give"):
        run_folders(tmp_path)


def test_markdown_and_csv_hold_the_rows(runs: Path) -> None:
    comparison = compare(run_folders(runs))
    markdown = as_markdown(comparison_table(comparison)).splitlines()
    assert markdown[0] == "| selector | rollouts | seeds | AUC | F1 at 0.5 | F1 calibrated |"
    assert "| BIS, alpha 0.2, 10 % | 9 | 3 | 0.900 [0.850, 0.950] | 80.0 [75.0, 85.0] | 81.0 [76.0, 86.0] |" in markdown
    assert "| Random, 10 % | 9 | 1 | 0.810 | 70.0 | 71.0 |" in markdown
    assert "| baseline: majority class | - | - | - | - | 41.2 |" in markdown
    rows = list(csv.DictReader(io.StringIO(as_csv(comparison))))
    assert len(rows) == 4
    assert float(rows[2]["f1_fixed_low"]) == pytest.approx(0.750317, abs=1e-6)
    assert (rows[2]["seeds"], rows[2]["n_seeds"], rows[2]["alpha"]) == ("0 1 2", "3", "0.2")
    assert (rows[3]["auc_mean"], rows[3]["auc_low"]) == ("0.81", "")


def test_all_files_are_written(runs: Path) -> None:
    page = write_comparison(runs, compare(run_folders(runs)))
    assert page == runs / "report.html"
    assert page.read_text().count("<svg ") == 1
    assert (runs / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (runs / "comparison.svg").read_text()
    assert "Full" in (runs / "comparison.md").read_text()
    assert (runs / "comparison.csv").read_text().startswith("selector,alpha,ratio")


def test_curves_are_drawn_only_where_the_ratio_varies(runs: Path) -> None:
    comparison = compare(run_folders(runs))
    both = comparison_figure(comparison)
    assert len(both.axes) == 6
    assert all(axes.get_title(loc="left") and axes.get_xlabel() for axes in both.axes)
    assert [line.get_label() for line in both.axes[3].lines] == ["Full", "BIS, alpha 0.2"]
    assert len(comparison_figure(Comparison(comparison.rows[2:], {}, {})).axes) == 3


def test_without_calibrated_thresholds_the_fixed_one_is_drawn(runs: Path) -> None:
    comparison = compare(run_folders(runs))
    shown = [axes.get_xlabel() for axes in comparison_figure(comparison).axes[:3]]
    assert "threshold 0.5" in shown[1]
    assert "calibrated threshold" in shown[2]
    rows = tuple(replace(row, f1_calibrated=None) for row in comparison.rows)
    labels = [axes.get_xlabel() for axes in comparison_figure(replace(comparison, rows=rows)).axes]
    assert not any("calibrated" in label for label in labels)


def test_nothing_finished_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("seed: 0\n")
    comparison = compare(run_folders(tmp_path))
    buffer = io.StringIO()
    print_comparison(comparison, Console(file=buffer, width=100))
    assert "Left out: a (not finished" in buffer.getvalue()
    assert "No run has results yet." in write_comparison(tmp_path, comparison).read_text()
