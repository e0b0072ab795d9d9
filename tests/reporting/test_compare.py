import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mprm.reporting.compare import (
    Comparison,
    as_csv,
    as_markdown,
    compare,
    comparison_table,
    left_out_lines,
    mean_over_seeds,
    run_folders,
)
from mprm.reporting.compare_page import headline, write_comparison
from mprm.reporting.verdicts import questions
from mprm.runs.sweep_state import SweepJob

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


def test_two_seeds_are_shown_as_they_are() -> None:
    number = mean_over_seeds([0.81, 0.83])
    assert (number.low, number.high) == (None, None)
    assert (number.points(), number.fraction()) == ("82.0 (81.0, 83.0)", "0.820 (0.810, 0.830)")


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


def test_rows_know_their_folders_in_the_order_of_the_seeds(tmp_path: Path, make_run: MakeRun) -> None:
    for name, seed in (("a", 5), ("b", 0), ("c", 3)):
        make_run(tmp_path / name, seed=seed, n=100)
    (row,) = compare(run_folders(tmp_path)).rows
    assert (row.seeds, row.folders) == ((0, 3, 5), (tmp_path / "b", tmp_path / "c", tmp_path / "a"))


def test_what_the_multirun_knows_to_be_unfinished_is_not_left_out_as_well(runs: Path) -> None:
    for name in ("bis-0", "bis-1", "bis-2", "full-0"):
        (runs / name / "results.json").unlink()
    states = ("waiting", "failed", "interrupted", "done")
    points = tuple(
        SweepJob(overrides=f"x={state}", label=state, name=name, state=state)
        for name, state in zip(("bis-0", "bis-1", "bis-2", "full-0"), states, strict=True)
    )
    comparison = compare(run_folders(runs), (*points, SweepJob(overrides="y=1", label="y", name=None, state="failed")))
    assert comparison.left_out == {"full-0": "not finished: no results.json yet"}
    assert len(comparison.points) == 5


def test_what_was_left_out_is_a_line_per_reason() -> None:
    unfinished = "not finished: no results.json yet"
    left_out = {"e": "same setting and seed as f"} | dict.fromkeys("abcdg", unfinished)
    assert left_out_lines(Comparison((), left_out)) == [
        "e (same setting and seed as f)",
        f"a, b, c and 2 more ({unfinished})",
    ]
    assert left_out_lines(Comparison((), dict.fromkeys("abc", unfinished))) == [f"a, b, c ({unfinished})"]
    assert left_out_lines(Comparison((), {})) == []


def test_what_differs_in_benchmark_or_annotations_is_not_compared(tmp_path: Path, make_run: MakeRun) -> None:
    for number, (benchmark, annotations) in enumerate(((1, 1), (1, 1), (2, 1), (1, 2))):
        run = make_run(tmp_path / f"r{number}", seed=number % 2, auc=0.9 - number / 100, n=100)
        (run / "metrics.jsonl").unlink()
        for name, key, value in (
            ("results.json", "benchmark_hash", benchmark),
            ("subset/manifest.json", "data_hash", annotations),
        ):
            (run / name).write_text(json.dumps(json.loads((run / name).read_text()) | {key: f"{value}" * 9}))
    comparison = compare(run_folders(tmp_path))
    assert [(group.words, [row.seeds for row in group.rows]) for group in comparison.groups] == [
        ("benchmark 11111111, annotations 11111111", [(0, 1)]),
        ("benchmark 22222222, annotations 11111111", [(0,)]),
        ("benchmark 11111111, annotations 22222222", [(1,)]),
    ]
    assert questions(comparison) == []
    assert headline(comparison).count("The highest mean AUC is") == 3
    assert headline(comparison).count("; the highest overall macro-F1 at 0.5 is 80.0") == 3
    page = write_comparison(tmp_path, comparison).read_text()
    assert page.count('<h2 class="group">') == 3
    links = re.findall(r'<a href="#[^"]*">([^<]*)', page)
    assert len(links) == len(set(links)) > 3, "no two sections are called the same"
    assert {name: page.count(f'<section id="{name}">') for name in ("settings", "settings-2", "settings-3")} == {
        "settings": 1,
        "settings-2": 1,
        "settings-3": 1,
    }
    assert [line["benchmark"] for line in csv.DictReader(io.StringIO(as_csv(comparison)))].count("11111111") == 2


def test_the_same_content_elsewhere_is_the_same_benchmark(tmp_path: Path, make_run: MakeRun) -> None:
    for name in ("ours", "theirs"):
        run = make_run(tmp_path / name, n=100)
        config = yaml.safe_load((run / "config.yaml").read_text()) | {"benchmark": {"path": name}}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        results = json.loads((run / "results.json").read_text()) | {"benchmark_hash": "one"}
        (run / "results.json").write_text(json.dumps(results))
    (group,) = compare(run_folders(tmp_path)).groups
    assert [row.other for row in group.rows] == ["benchmark.path=ours", "benchmark.path=theirs"]


def test_published_values_are_shown_where_there_are_any(runs: Path) -> None:
    comparison = compare(run_folders(runs))
    assert len(comparison_table(comparison).columns) == 6
    assert "published_f1" not in as_csv(comparison)
    for path in runs.glob("full-*/config.yaml"):
        groups = {
            "dataset": {"_target_": "mprm.data.visualprm400k.VisualPRM400K"},
            "benchmark": {"_target_": "mprm.data.visualprocessbench.VisualProcessBench"},
            "backbone": {"_target_": "mprm.backbones.internvl.InternVL"},
        }
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | groups))
    comparison = compare(run_folders(runs))
    table = comparison_table(comparison)
    assert table.columns[-2:] == ("F1 oracle", "published F1")
    assert "compare it with our F1 oracle" in table.note
    assert {len(row) for row in table.rows} == {8}
    assert {row[0].split(",")[0]: row[6:] for row in table.rows} == {
        "Full": ("87.0 [87.0, 87.0]", "65.12"),
        "BIS": ("82.0 [77.0, 87.0]", "-"),
        "Random": ("72.0", "-"),
        "baseline: majority class": ("-", "-"),
        "baseline: position only": ("-", "-"),
    }
    assert "| published F1 |" in as_markdown(table).splitlines()[0]
    by_selector = {line["selector"]: line for line in csv.DictReader(io.StringIO(as_csv(comparison)))}
    assert float(by_selector["Full"]["published_f1"]) == pytest.approx(0.6512)
    assert float(by_selector["Full"]["f1_oracle_mean"]) == pytest.approx(0.87)
    assert by_selector["BIS"]["published_f1"] == ""


def test_no_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run folder; give"):
        run_folders(tmp_path)


def test_markdown_and_csv_hold_the_rows(runs: Path) -> None:
    comparison = compare(run_folders(runs))
    markdown = as_markdown(comparison_table(comparison)).splitlines()
    assert markdown[0] == "| selector | rollouts | seeds | AUC | F1 at 0.5 | F1 calibrated |"
    assert "| BIS, alpha 0.2, 10 % | 9 | 3 | 0.900 [0.850, 0.950] | 80.0 [75.0, 85.0] | 81.0 [76.0, 86.0] |" in markdown
    assert "| Random, 10 % | 9 | 1 | 0.810 | 70.0 | 71.0 |" in markdown
    assert "| baseline: majority class | - | - | - | 41.2 | - |" in markdown
    rows = list(csv.DictReader(io.StringIO(as_csv(comparison))))
    assert len(rows) == 4
    assert float(rows[2]["f1_fixed_low"]) == pytest.approx(0.750317, abs=1e-6)
    assert (rows[2]["seeds"], rows[2]["n_seeds"], rows[2]["alpha"]) == ("0 1 2", "3", "0.2")
    assert (rows[3]["auc_mean"], rows[3]["auc_low"]) == ("0.81", "")
