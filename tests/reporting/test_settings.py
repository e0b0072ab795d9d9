"""Runs become settings, settings become groups: settings.py, named by kinds.py."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from mprm.reporting.apart import others, setting_of
from mprm.reporting.comparison import runs_table, settings_table, unlike, unrounded, write_comparison
from mprm.reporting.run_record import run_folders
from mprm.reporting.settings import Comparison, compare
from mprm.runs.journal import SweepJob

MakeRun = Callable[..., Path]
HARD = {"_target_": "mprm.x.Hard", "tau": 0.0}
STRICT = {"_target_": "mprm.x.Hard", "tau": 0.1}
SOFT = {"_target_": "mprm.x.Soft", "weight": 2}
FULL = {"_target_": "mprm.selection.selectors.Full", "ratio": 1.0, "count": None}
RANDOM = {"_target_": "mprm.selection.selectors.Random", "ratio": 0.1, "count": None}
BIS = {"_target_": "mprm.selection.selectors.BIS", "alpha": 0.2, "ratio": 0.1, "count": None}


def words(*configs: dict[str, Any], labels: tuple[str, ...] = ()) -> list[str]:
    return others([setting_of(config) for config in configs], labels or [""] * len(configs))


def test_the_seed_and_what_changes_no_result_are_no_setting() -> None:
    config = {"seed": 1, "name": "x", "selector": {"seed": 1, "ratio": 0.1}, "dataset": {"seed": 4}, "held_out": 4}
    config["trainer"] = {"devices": 8, "precision": "bf16"}
    assert setting_of(config) == {
        "selector.ratio": 0.1,
        "dataset.seed": 4,
        "held_out": 4,
        "trainer.precision": "bf16",
    }


def test_another_class_is_named_without_its_fields_and_fields_within_a_class_are_named() -> None:
    assert words({"objective": HARD}, {"objective": SOFT}) == ["objective Hard", "objective Soft"]
    assert words({"objective": HARD}, {"objective": STRICT}) == ["objective.tau=0.0", "objective.tau=0.1"]
    assert words({"objective": HARD}, {"objective": STRICT}, {"objective": SOFT}) == [
        "objective Hard, objective.tau=0.0",
        "objective Hard, objective.tau=0.1",
        "objective Soft",
    ]
    ours, other = ({"_target_": "mprm.x.Ours", "path": path} for path in ("a", "b"))
    third = {"_target_": "mprm.x.Third", "path": "c"}
    assert words({"benchmark": ours}, {"benchmark": other}) == ["benchmark.path=a", "benchmark.path=b"]
    assert words({"benchmark": ours}, {"benchmark": other}, {"benchmark": third}) == [
        "benchmark Ours, benchmark.path=a",
        "benchmark Ours, benchmark.path=b",
        "benchmark Third, benchmark.path=c",
    ]


def test_the_model_of_somebody_else_hides_nothing_that_sets_runs_apart() -> None:
    a, b = ({"backbone.exact": exact, "backbone.path": path} for exact, path in ((False, "a"), (True, "b")))
    told = ["backbone.exact=False, backbone.path=a", "backbone.exact=True, backbone.path=b"]
    assert others([a, b], ["", ""]) == told
    assert others([a, b, {"model": "theirs"}], ["", "", "theirs"]) == [*told, ""]


def test_what_the_label_of_a_selector_says_is_not_repeated() -> None:
    mild, strong = ({"selector": BIS | {"alpha": alpha}} for alpha in (0.05, 0.2))
    rest = {"selector": {"_target_": "mprm.x.Random", "ratio": 0.2, "count": None}}
    assert words(mild, strong, rest, labels=("BIS (alpha 0.05)", "BIS (alpha 0.2)", "Random")) == ["", "", ""]
    assert words(mild, strong, labels=("Mine", "Mine")) == ["selector.alpha=0.05", "selector.alpha=0.2"]
    # "BIS" alone says that nothing is unusual, so that it stands beside the baseline of its share.
    usual, drawn = ({"selector": BIS | {"fill": fill}} for fill in ("score", "random"))
    assert words(usual, drawn, rest, labels=("BIS", "BIS (fill random)", "Random")) == ["", "", ""]
    by_steps = {"selector": BIS | {"ties": "n_steps"}}
    told = words({"selector": BIS | {"ties": "file_order"}}, by_steps, labels=("BIS (alpha 0.2)", "BIS (alpha 0.2)"))
    assert told == ["selector.ties=file_order", "selector.ties=n_steps"]


@pytest.fixture
def runs(tmp_path: Path, make_run: MakeRun) -> Path:
    """BIS at two ratios and full, three seeds each; random with one seed."""
    folder = tmp_path / "runs"
    for seed, f1 in enumerate((0.78, 0.80, 0.82)):
        make_run(folder / f"bis-{seed}", seed=seed, selector=BIS, f1=f1, auc=f1 + 0.1, n=100)
        make_run(folder / f"bis25-{seed}", seed=seed, selector=BIS | {"ratio": 0.25}, f1=f1 + 0.01, auc=f1, n=100)
        make_run(folder / f"full-{seed}", seed=seed, selector=FULL, f1=0.85, auc=0.95, n=100)
    make_run(folder / "random-0", selector=RANDOM | {"seed": 0}, f1=0.7, auc=0.81, n=100)
    return folder


def labels(comparison: Comparison) -> list[str]:
    return [one.label for group in comparison.groups for one in group.settings]


def test_runs_are_grouped_by_everything_but_the_seed(runs: Path) -> None:
    comparison = compare(run_folders(runs))
    (group,) = comparison.groups
    assert [(one.label, [run.seed for run in one.runs]) for one in group.settings] == [
        ("Full", [0, 1, 2]),
        ("BIS (alpha 0.2), 25 %", [0, 1, 2]),
        ("BIS (alpha 0.2), 10 %", [0, 1, 2]),
        ("Random, 10 %", [0]),
    ]
    bis, random = group.settings[2:]
    by_seed = {run.seed: run.numbers["auc"].value for run in bis.runs}
    auc = bis.numbers["auc"]
    assert auc.value == pytest.approx(np.mean([*by_seed.values()]))
    assert auc.by_seed == by_seed
    # Student's t with 2 degrees of freedom is 4.3027; the bootstrap over the solutions comes on top.
    over_seeds = 4.3027 * np.std([*by_seed.values()], ddof=1) / 3**0.5
    assert auc.low is not None
    assert auc.high is not None
    assert 1 < (auc.high - auc.low) / 2 / over_seeds < 2
    assert (bis.numbers["ece"].value, bis.numbers["ece"].low) == (pytest.approx(0.0712), None)
    assert (bis.kept, bis.ratio) == (9, 0.1)
    one = random.numbers["auc"]
    assert (one.low, one.high) == (random.runs[0].numbers["auc"].low, random.runs[0].numbers["auc"].high)
    assert one.scope == "this training"
    assert group.references(group.measures[1]) == pytest.approx({"majority class": 0.4123, "position only": 0.5512})
    assert (group.words, comparison.left_out) == ("", {})


def test_two_seeds_are_the_two_values_and_never_an_interval(tmp_path: Path, make_run: MakeRun) -> None:
    for seed, f1 in enumerate((0.81, 0.83)):
        make_run(tmp_path / str(seed), seed=seed, f1=f1, n=100)
    (setting,) = compare(run_folders(tmp_path)).groups[0].settings
    number = setting.numbers["f1"]
    assert list(number.by_seed.values()) == [run.numbers["f1"].value for run in setting.runs]
    assert "(" in number.points()
    assert "[" not in number.points()


def evaluation(folder: Path, run: Path, name: str, **options: Any) -> None:
    """What task=evaluate model=... leaves of the predictions of a run: no training, and no fitted threshold."""
    folder.mkdir()
    shutil.copy(run / "predictions.jsonl", folder)
    results = json.loads((run / "results.json").read_text())
    del results["thresholds"]["fitted"]
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "model.json").write_text(json.dumps({"name": name, "folder": "/x", "run": None, "options": options}))


def test_the_model_of_somebody_else_stands_beside_what_was_trained(tmp_path: Path, make_run: MakeRun) -> None:
    """Whatever it was trained on itself; it has no fitted threshold, and its baselines are not those of our runs."""
    ours = make_run(tmp_path / "runs" / "bis-0", selector=BIS, n=100)
    other = make_run(tmp_path / "other", selector=BIS, n=100, seed=1, benchmark="c" * 64)
    evaluation(tmp_path / "runs" / "eval-1", ours, "VisualPRM-8B", _target_="mprm.x.VisualPRM", max_tiles=12)
    evaluation(tmp_path / "runs" / "eval-2", ours, "VisualPRM-8B", _target_="mprm.x.VisualPRM", max_tiles=6)
    evaluation(tmp_path / "runs" / "elsewhere", other, "VisualPRM-8B")
    comparison = compare(run_folders(tmp_path / "runs"))
    assert comparison.left_out == {}
    group, elsewhere = comparison.groups
    assert [one.label for one in group.settings] == [
        "BIS (alpha 0.2), 10 %",
        "VisualPRM-8B, model.max_tiles=12",
        "VisualPRM-8B, model.max_tiles=6",
    ]
    assert [one.label for one in elsewhere.settings] == ["VisualPRM-8B"]
    theirs = group.settings[1].numbers
    assert "f1" not in theirs
    assert {"auc", "f1_fixed", "f1_optimistic"} <= theirs.keys()
    assert group.references(group.measures[1]) == pytest.approx({"majority class": 0.4123, "position only": 0.5512})
    table = settings_table(group)
    assert table.note.count("A model without held-out rollouts has no fitted threshold") == 1
    row = dict(zip(table.columns, table.rows[1], strict=True))
    assert (row["rollouts"], row["F1"], row["first errors found (%)"]) == ("-", "-", "-")
    assert row["F1 at 0.5"] != "-"
    assert [row[0] for row in runs_table(group).rows][:2] == [
        "BIS (alpha 0.2), 10 %, seed 0",
        "VisualPRM-8B, model.max_tiles=12",
    ]


def test_a_run_on_another_benchmark_keeps_its_name_and_its_threshold(tmp_path: Path, make_run: MakeRun) -> None:
    made = make_run(tmp_path / "runs" / "bis-0", selector=BIS, n=100)
    evaluation(tmp_path / "runs" / "eval", make_run(tmp_path / "other", n=100, benchmark="c" * 64), "bis-0")
    about = {"name": "bis-0", "folder": str(made), "run": str(made), "options": {}}
    (tmp_path / "runs" / "eval" / "model.json").write_text(json.dumps(about))
    results = json.loads((tmp_path / "other" / "results.json").read_text())
    (tmp_path / "runs" / "eval" / "results.json").write_text(json.dumps(results))
    ours, elsewhere = compare(run_folders(tmp_path / "runs")).groups
    assert ours.settings[0].label == elsewhere.settings[0].label == "BIS (alpha 0.2), 10 %"
    assert "f1" in elsewhere.settings[0].numbers


def test_an_evaluation_is_labelled_by_its_own_benchmark(tmp_path: Path, make_run: MakeRun) -> None:
    """Not by those of the trainings, which may differ; an earlier version did not say which it was."""
    (runs := tmp_path / "runs").mkdir()
    for seed, size in enumerate((500, 1500)):
        trained = make_run(tmp_path / f"bis-{seed}", seed=seed, selector=BIS, n=100, benchmark=str(size) * 16)
        config = yaml.safe_load((trained / "config.yaml").read_text()) | {"benchmark": {"size": size}}
        (trained / "config.yaml").write_text(yaml.safe_dump(config))
        evaluation(runs / f"eval-{seed}", make_run(tmp_path / f"p-{seed}", seed=seed, n=100), trained.name)
    for own in ({}, {"benchmark": {"size": 9}}):
        for seed in (0, 1):
            folder = str(tmp_path / f"bis-{seed}")
            about = {"name": f"bis-{seed}", "folder": folder, "run": folder, "options": {}} | own
            (runs / f"eval-{seed}" / "model.json").write_text(json.dumps(about))
        (group,) = compare(run_folders(runs)).groups
        assert [(one.label, len(one.runs)) for one in group.settings] == [("BIS (alpha 0.2), 10 %", 2)]
        assert group.settings[0].runs[1].config["benchmark"] == own.get("benchmark", {})


def test_how_many_solutions_a_row_was_measured_on_is_said_where_rows_differ(tmp_path: Path, make_run: MakeRun) -> None:
    """A model of text leaves out what has pictures."""
    runs = tmp_path / "runs"
    ours = make_run(runs / "bis-0", selector=BIS, n=100)
    evaluation(runs / "eval", ours, "MathPRM")
    (alike,) = compare(run_folders(runs)).groups
    assert unlike(alike) == ""
    assert not any("scored" in name for name in settings_table(alike).columns)
    lines = (ours / "predictions.jsonl").read_text().splitlines(keepends=True)
    (runs / "eval" / "predictions.jsonl").write_text("".join(lines[:88]))
    comparison = compare(run_folders(runs))
    (group,) = comparison.groups
    assert unlike(group) == "Settings were not measured on the same number of solutions, from 88 to 120."
    table = settings_table(group)
    place = table.columns.index("solutions scored")
    assert {row[0]: row[place] for row in table.rows} == {
        "BIS (alpha 0.2), 10 %": "120",
        "MathPRM": "88",
        "majority class": "-",
        "position only": "-",
    }
    for lines_of in unrounded(comparison):
        assert sorted(row["n_solutions"] for row in csv.DictReader(io.StringIO(lines_of))) == ["120", "88"]
    buffer = io.StringIO()
    page = write_comparison(runs, comparison, Console(file=buffer, width=160))
    assert "from 88 to 120.\n" in buffer.getvalue()
    assert "from 88 to 120." in page.read_text()


def test_the_seed_of_a_selector_follows_the_run_and_that_of_a_dataset_does_not(
    tmp_path: Path, make_run: MakeRun
) -> None:
    for seed in (0, 1):
        make_run(tmp_path / "a" / f"r{seed}", seed=seed, selector=RANDOM | {"seed": seed}, n=100)
        make_run(
            tmp_path / "b" / f"r{seed}", seed=seed, selector=RANDOM | {"seed": seed}, n=100, dataset={"seed": seed}
        )
    assert labels(compare(run_folders(tmp_path / "a"))) == ["Random, 10 %"]
    assert labels(compare(run_folders(tmp_path / "b"))) == [f"Random, 10 %, dataset.seed={seed}" for seed in (0, 1)]


def test_unfinished_repeated_and_damaged_runs_are_left_out_and_named(runs: Path, make_run: MakeRun) -> None:
    (runs / "bis-1" / "results.json").unlink()
    make_run(runs / "bis-again", seed=2, selector=BIS, n=100)
    (runs / "full-0" / "results.json").write_text("{")
    (runs / "full-1" / "results.json").write_text(json.dumps({"auc": 0.5}))
    points = tuple(
        SweepJob(overrides=f"x={name}", label=name, name=name, state=state)
        for name, state in (("bis-1", "done"), ("random-0", "done"))
    )
    comparison = compare(run_folders(runs), points)
    assert comparison.left_out["bis-1"] == "not finished: no results.json yet"
    assert comparison.left_out["bis-again"] == "same setting and seed as bis-2"
    assert "full-0/results.json can" in comparison.left_out["full-0"]
    assert "holds no results in layout" in comparison.left_out["full-1"]
    assert all("\n" not in reason for reason in comparison.left_out.values())
    assert [run.seed for run in comparison.groups[0].settings[2].runs] == [0, 2]


def test_what_the_points_of_a_sweep_say_is_not_said_again(runs: Path) -> None:
    states = ("failed", "waiting", "interrupted", "done")
    names = ("bis-0", "bis-1", "bis-2", "full-0")
    for name in names:
        (runs / name / "results.json").unlink()
    points = tuple(
        SweepJob(overrides=f"x={state}", label=state, name=name, state=state)
        for name, state in zip(names, states, strict=True)
    )
    comparison = compare(run_folders(runs), (*points, SweepJob(overrides="y=1", label="y", name=None, state="failed")))
    assert comparison.left_out == {"full-0": "not finished: no results.json yet"}
    assert len(comparison.jobs) == 5


def test_what_differs_in_benchmark_or_annotations_is_not_compared(tmp_path: Path, make_run: MakeRun) -> None:
    for number, (benchmark, annotations) in enumerate(((1, 1), (1, 1), (2, 1), (1, 2))):
        run = make_run(tmp_path / f"r{number}", seed=number % 2, n=100, benchmark=f"{benchmark}" * 9)
        path = run / "subset" / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data_hash": f"{annotations}" * 9}))
    groups = compare(run_folders(tmp_path)).groups
    assert [(group.words, [run.seed for one in group.settings for run in one.runs]) for group in groups] == [
        ("Step scorers: benchmark 11111111, annotations 11111111", [0, 1]),
        ("Step scorers: benchmark 22222222, annotations 11111111", [0]),
        ("Step scorers: benchmark 11111111, annotations 22222222", [1]),
    ]


def test_the_same_content_elsewhere_is_the_same_benchmark(tmp_path: Path, make_run: MakeRun) -> None:
    for name in ("ours", "theirs"):
        make_run(tmp_path / name, n=100, benchmark="one")
        path = tmp_path / name / "config.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"benchmark": {"path": name}}))
    (group,) = compare(run_folders(tmp_path)).groups
    assert [one.other for one in group.settings] == ["benchmark.path=ours", "benchmark.path=theirs"]


def test_no_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run folder; give"):
        run_folders(tmp_path)
