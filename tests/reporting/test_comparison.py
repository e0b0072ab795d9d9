"""The comparison page, its files and what the terminal shows: comparison.py."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from mprm.data.questions import Candidate, CandidateSet
from mprm.metrics.best_of_n import choices, rerank
from mprm.metrics.estimate import Estimate
from mprm.metrics.predictions import StepScores
from mprm.metrics.results import (
    Curation,
    JudgeAccuracy,
    JudgeResults,
    PairSource,
    WrongLabels,
    read_results,
    write_results,
)
from mprm.reporting.comparison import runs_table, settings_table, unfinished_lines, unfinished_table, write_comparison
from mprm.reporting.run_record import run_folders
from mprm.reporting.settings import Comparison, compare
from mprm.runs.artifacts import write_json_lines
from mprm.runs.journal import State, SweepJob, begin_sweep
from mprm.stages.standalone import compare_runs

MakeRun = Callable[..., Path]
FIGURES = ("comparison", "thresholds", "heatmap", "ratio", "learning", "sources")
TABLES = ("settings", "verdicts", "composition", "runs", "unfinished")


def point(number: int, state: State, reason: str = "") -> SweepJob:
    return SweepJob(overrides=f"x={number}", label=f"label {number}", name=None, state=state, reason=reason)


POINTS = (point(0, "failed", "the <loss> is nan"), *(point(n, "waiting") for n in range(1, 10)))


def estimate(value: float, spread: float = 0.015) -> Estimate:
    return Estimate(value, value - spread, value + spread)


def write(runs: Path, comparison: Comparison) -> str:
    """Write the comparison; what the terminal shows, coloured."""
    buffer = io.StringIO()
    write_comparison(runs, comparison, Console(file=buffer, width=160, force_terminal=True, color_system="standard"))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def written(many_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder of runs with its report, and the lines on the terminal."""
    runs = Path(shutil.copytree(many_runs, tmp_path_factory.mktemp("written") / "runs"))
    return runs, write(runs, compare(run_folders(runs), POINTS)).splitlines()


def test_every_figure_and_table_is_on_the_page_and_a_file_of_its_own(written: tuple[Path, list[str]]) -> None:
    runs = written[0]
    page = (runs / "report.html").read_text()
    assert page.count("<svg ") == len(FIGURES)
    assert all(f'<section id="{name}">' in page and f'href="#{name}"' in page for name in (*FIGURES, *TABLES))
    for name in FIGURES:
        assert (runs / "report" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "</svg>" in (runs / "report" / f"{name}.svg").read_text()
    assert all(
        (runs / "report" / f"{name}.csv").read_text().count("\n") > 1 for name in (*TABLES, "learning", "sources")
    )
    assert (runs / "comparison.svg").read_bytes() == (runs / "report" / "comparison.svg").read_bytes()


def test_verdicts_come_before_everything_else_and_texts_are_escaped(written: tuple[Path, list[str]]) -> None:
    page = (written[0] / "report.html").read_text()
    places = [page.index(text) for text in ("Full has the highest mean AUC, 0.8", "<svg ")]
    assert places == sorted(places)
    assert "the &lt;loss&gt; is nan" in page
    assert "<loss>" not in page
    markdown = (written[0] / "report" / "report.md").read_text()
    assert "- Full has the highest mean AUC, 0.8" in markdown
    assert "![Learning curves](learning.svg)" in markdown
    assert "| label 0 | failed | the <loss> is nan |" in markdown


def test_the_terminal_stresses_the_best_and_folds_what_waits(written: tuple[Path, list[str]]) -> None:
    lines = written[1]
    (bold,) = [line for line in lines if "\x1b[1m" in line and "0.895" in line]
    assert "Full" in bold
    assert any(line.startswith("Full has the highest mean AUC") for line in lines)
    assert "Failed: label 0: the <loss> is nan" in lines
    assert "Not finished: 9 waiting" in lines


def test_csv_and_markdown_hold_the_settings_and_every_run_unrounded(written: tuple[Path, list[str]]) -> None:
    runs = written[0]
    by_setting = {line["setting"]: line for line in csv.DictReader(io.StringIO((runs / "comparison.csv").read_text()))}
    assert len(by_setting) == 9
    bis = by_setting["BIS (alpha 0.2), 5 %"]
    assert (bis["alpha"], bis["ratio"], bis["seeds"], bis["n_seeds"]) == ("0.2", "0.05", "0 1", "2")
    assert (float(bis["auc_mean"]), by_setting["Full"]["alpha"]) == (pytest.approx(0.88, abs=0.03), "")
    assert 0 < float(bis["auc_low"]) < float(bis["auc_mean"]) < float(bis["auc_high"]) < 1
    of_runs = list(csv.DictReader(io.StringIO((runs / "report" / "runs.csv").read_text())))
    assert len(of_runs) == 18
    assert (of_runs[1]["run"], of_runs[1]["seed"]) == ("full-1", "1")
    assert float(of_runs[1]["auc_low"]) < float(of_runs[1]["auc"])
    markdown = (runs / "comparison.md").read_text().splitlines()
    assert markdown[0] == (
        "| setting | rollouts | seeds | AUC | F1 | optimistic F1 | F1 at 0.5 | AP of wrong steps | first errors found "
        "(%) | ECE |"
    )
    assert "| majority class | - | - | - | 41.2 | - | - | - | - | - |" in markdown


def test_the_same_runs_give_the_same_bytes(written: tuple[Path, list[str]], tmp_path: Path) -> None:
    before = written[0]
    runs = Path(shutil.copytree(before, tmp_path / "runs"))
    (runs / "report" / "old.svg").write_text("of a setting that is gone")
    write(runs, compare(run_folders(runs), POINTS))
    for path in before.glob("report/*"):
        assert (runs / "report" / path.name).read_bytes() == path.read_bytes(), path.name
    assert not (runs / "report" / "old.svg").exists()
    assert (runs / "report.html").read_bytes() == (before / "report.html").read_bytes()


def test_a_run_of_the_name_report_is_not_overwritten(many_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(many_runs / "full-0", tmp_path / "report")
    with pytest.raises(ValueError, match="report is a run folder"):
        write(tmp_path, compare(run_folders(tmp_path)))
    assert (tmp_path / "report" / "results.json").exists()


def test_one_setting_is_a_page_without_what_needs_two(many_runs: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        shutil.copytree(many_runs / f"bis-0.2-0.5-{seed}", tmp_path / f"bis-{seed}")
    write(tmp_path, compare(run_folders(tmp_path)))
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg ") == 4
    assert not any(f'<section id="{name}">' in page for name in ("heatmap", "ratio", "verdicts", "unfinished"))


def test_nothing_finished_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("seed: 0\n")
    assert "Left out: a (not finished" in write(tmp_path, compare(run_folders(tmp_path)))
    assert "No run has results yet." in (tmp_path / "report.html").read_text()


def test_groups_stand_apart_and_no_winner_is_named_across_them(tmp_path: Path, make_run: MakeRun) -> None:
    for number, benchmark in enumerate("112"):
        make_run(tmp_path / f"r{number}", seed=number % 2, auc=0.9 - number / 100, n=100, benchmark=9 * benchmark)
    shown = write(tmp_path, compare(run_folders(tmp_path)))
    page = (tmp_path / "report.html").read_text()
    assert "highest mean" not in shown
    assert page.count("has the highest AUC, ") == 2
    first = page.partition('class="headline">')[2].partition("</p>")[0]
    assert first.count(", for these 2 trainings.") == first.count(", for this training.") == 1
    assert page.count('<h2 class="group">') == 2
    links = re.findall(r'<a href="#[^"]*">([^<]*)', page)
    assert len(links) == len(set(links)) > 3, "no two sections are called the same"
    assert all(page.count(f'<section id="{name}">') == 1 for name in ("settings", "settings-2"))
    lines = csv.DictReader(io.StringIO((tmp_path / "comparison.csv").read_text()))
    assert [line["benchmark"] for line in lines] == ["11111111", "22222222"]


def test_published_values_are_shown_where_there_are_any(many_runs: Path, tmp_path: Path) -> None:
    for name in ("full-0", "random-0.5-0"):
        shutil.copytree(many_runs / name, tmp_path / name)
    (group,) = compare(run_folders(tmp_path)).groups
    assert len(settings_table(group).columns) == 10
    path = tmp_path / "full-0" / "config.yaml"
    groups = {
        "dataset": {"_target_": "mprm.data.visualprm400k.VisualPRM400K"},
        "benchmark": {"_target_": "mprm.data.records.VisualProcessBench"},
        "backbone": {"_target_": "mprm.backbones.internvl.InternVL"},
    }
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | groups))
    write(tmp_path, compare(run_folders(tmp_path)))
    (group,) = compare(run_folders(tmp_path)).groups
    table = settings_table(group)
    assert table.columns[-1] == "published F1"
    assert "compare it with our optimistic F1" in table.note
    assert [row[-1] for row in table.rows] == ["65.12", "-", "-", "-"]
    line = next(csv.DictReader(io.StringIO((tmp_path / "comparison.csv").read_text())))
    assert float(line["published_f1"]) == pytest.approx(0.6512)


def test_every_run_has_its_cost_and_says_whose_training_it_took(many_runs: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(many_runs, tmp_path / "runs"))
    path = runs / "mixed-0.5-1" / "stages.json"
    record = json.loads(path.read_text())
    record["stages"]["train"] |= {"seconds": 0.5, "shared_with": "random-0.5-1"}
    path.write_text(json.dumps(record))
    (runs / "mixed-0.5-0" / "stages.json").unlink()
    table = runs_table(compare(run_folders(runs)).groups[0])
    rows = {row[0]: row[5:] for row in table.rows}
    assert len(rows) == 18
    assert table.columns[5:] == (
        "rollouts",
        "optimizer steps",
        "select (s)",
        "train (s)",
        "evaluate (s)",
        "shared with",
    )
    assert rows["Full, seed 1"] == ("392", "120", "0.2", "60.5", "1,030.0", "-")
    assert rows["Mixed, 50 %, seed 1"] == ("196", "120", "0.2", "0.5", "1,030.0", "Random, 50 %, seed 1")
    assert rows["Mixed, 50 %, seed 0"] == ("196", "-", "-", "-", "-", "-")
    # 16 runs of 0.25 + 60.5 + 1030 seconds and one of 0.25 + 0.5 + 1030
    assert "18,483 in all" in table.note


def test_what_is_not_in_the_comparison_stands_with_its_reason() -> None:
    points = (point(0, "waiting"), point(1, "done"), point(2, "failed", "the loss is nan"), point(3, "interrupted"))
    comparison = Comparison(left_out={"old": "same setting and seed as new"}, jobs=points)
    table = unfinished_table(comparison)
    assert table.rows == (
        ("label 2", "failed", "the loss is nan"),
        ("label 3", "interrupted", "-"),
        ("label 0", "waiting", "-"),
        ("old", "left out", "same setting and seed as new"),
    )
    assert unfinished_table(Comparison(jobs=(point(1, "done"),))).rows == ()
    unfinished = "not finished: no results.json yet"
    left_out = {"e": "same setting and seed as f"} | dict.fromkeys("abcdg", unfinished)
    waiting = tuple(point(n, "waiting") for n in range(20))
    assert unfinished_lines(Comparison(left_out=left_out, jobs=(*waiting, points[2], point(22, "running")))) == [
        "Failed: label 2: the loss is nan",
        "Left out: e (same setting and seed as f)",
        f"Left out: a, b, c and 2 more ({unfinished})",
        "Not finished: 20 waiting, 1 running",
    ]
    assert unfinished_lines(Comparison()) == []


def test_a_sweep_reports_its_own_points_alone(
    many_runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("full-0", "full-1", "random-0.5-0"):
        shutil.copytree(many_runs / name, tmp_path / name)
    own = [SweepJob(overrides=f"s={seed}", label="x", name=f"full-{seed}", state="done") for seed in (0, 1)]
    begin_sweep(tmp_path, own)
    compare_runs(tmp_path, own=True)
    assert "Random" not in capsys.readouterr().out
    assert (tmp_path / "comparison.csv").read_text().count("\n") == 2
    compare_runs(tmp_path)
    assert "Random" in capsys.readouterr().out


# ---- judges


def judge(
    folder: Path, seed: int, selector: dict[str, Any], rl: float | None, benchmark: str = "1", **more: Any
) -> None:
    """A finished run whose judge is right in 80 % of 40 pairs after SFT."""
    config = {"task": "egt", "seed": seed, "held_out": seed, "selector": selector, "order": {"_target_": "x.LowToHigh"}}
    name = selector["_target_"].rpartition(".")[2]
    accuracies = {"untrained": 0.5, "sft": 0.8} | ({} if rl is None else {"rl": rl})
    results = JudgeResults(
        preferences="pairs.jsonl",
        reward_benchmark="benchmark.jsonl",
        reward_benchmark_hash=benchmark * 64,
        unusable={},
        judges={stage: judge_accuracy(value) for stage, value in accuracies.items()},
        differences={} if rl is None else {"rl - sft": estimate(rl - 0.8, 0.01)},
        training={},
        curation=Curation(
            eligible=3000,
            kept=1500,
            selector=name,
            label=name,
            baseline=name in ("Random", "Full"),
            settings=selector,
            dropped={},
            entropy={},
            bins=(),
            flipped=WrongLabels(kept=0.06, random=0.17, difference=estimate(-0.11)),
        ),
    )
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config | more))
    write_results(folder / "results.json", results)
    said = {"entropy": 0.1, "n_tokens": 5, "in_format": True}
    for stage, value in accuracies.items():
        right = [number < round(80 * value) for number in range(80)]
        lines = [
            {"id": f"{n // 2}", "swapped": n % 2 == 1, "better": "A", "responses": [said | {"verdict": "BA"[one]}]}
            | {"votes": [{"verdict": "A"}, {"verdict": "BA"[one]}, {"verdict": None}]}
            for n, one in enumerate(right)
        ]
        write_json_lines(folder / f"judged_{stage}.jsonl", lines)


def judge_accuracy(value: float) -> JudgeAccuracy:
    return JudgeAccuracy(
        pairs=40,
        accuracy=estimate(value, 0.02),
        macro_accuracy=value,
        sources={name: PairSource(pairs=20, accuracy=estimate(value, 0.02)) for name in ("charts", "photos")},
        consistent=estimate(value),
        first=estimate(0.5),
        without_verdict=0.0,
        in_format=1.0,
        accuracy_in_format=value,
        entropy=0.1,
        tokens=10,
        bins=(),
        tells=0.5,
    )


ENTROPY = {"_target_": "mprm.selection.selectors.Entropy", "ratio": 0.5}
RANDOM = {"_target_": "mprm.selection.selectors.Random", "ratio": 0.5}
FULL = {"_target_": "mprm.selection.selectors.Full", "ratio": 1.0}


def test_judges_have_the_same_page(tmp_path: Path) -> None:
    for seed, rl in enumerate((0.85, 0.875, 0.9)):
        judge(tmp_path / f"e{seed}", seed, ENTROPY, rl)
        judge(tmp_path / f"r{seed}", seed, RANDOM, 0.6)
    judge(tmp_path / "full", 0, FULL, None)
    judge(tmp_path / "baseline", 0, FULL, None, task="reward_model")
    one = read_results(tmp_path / "baseline" / "results.json", JudgeResults)
    one = replace(one, judges={"reward_model": one.judges["sft"]}, curation=None)
    write_results(tmp_path / "baseline" / "results.json", one)
    (tmp_path / "baseline" / "judged_sft.jsonl").rename(tmp_path / "baseline" / "judged_reward_model.jsonl")
    judge(tmp_path / "twice", 0, ENTROPY, 0.9)
    shown = write(tmp_path, compare(run_folders(tmp_path)))
    table = settings_table(compare(run_folders(tmp_path)).groups[0])
    assert table.columns == (
        *("setting", "pairs", "seeds", "accuracy", "sampled accuracy", "accuracy in a vote"),
        *(
            "accuracy untrained (%)",
            "accuracy after SFT (%)",
            "RL - SFT",
            "sampled RL - SFT",
            "in a vote RL - SFT",
            "wrong labels kept (%)",
            "wrong at random (%)",
        ),
    )
    # sd 0.025, t 4.3027 with 2 degrees of freedom: 4.3027 * 2.5 / sqrt(3) = 6.2 points, and over the 40 pairs about 10.
    label, kept, seeds, rl, _, _, _, sft, minus, sampled, vote, *wrong = table.rows[1]
    assert (label, kept, seeds, rl, wrong) == ("Entropy, 50 %", "1,500", "3", "87.5 [70.8, 95.3]", ["6.0", "17.0"])
    assert (sft[:6], minus[:5]) == ("80.0 [", "7.5 [")
    # Of three votes A is right, one as the response, one has no verdict: 2/3 and 1 of a right one, 1/3 and 1/2 else.
    assert (sampled[:5], vote[:5]) == ("2.5 [", "3.7 [")
    assert table.rows[0][:3] == ("Full", "1,500", "1")
    assert [table.rows[0][column][:6] for column in (3, 7)] == ["80.0 ["] * 2, "it stopped after SFT"
    assert [row[:4] for row in table.rows if row[0] == "reward model"] == [("reward model", "-", "1", table.rows[0][3])]
    assert table.main == "Entropy, 50 %"
    words = " ".join(shown.split())
    assert "Entropy, 50 % has the highest mean accuracy, 87.5: it " in words
    assert "(accuracy +27.5 [10.4, 43.0], sampled accuracy" in words
    assert "Left out: twice (same setting and seed as e0)" in words
    # 20 points below SFT in all three trainings, and 7.5 above it on average, which 40 pairs do not tell from 0.
    assert re.search(r"Random, 50 %: RL - SFT is below 0, -20\.0 \[.*?\] points \(3 seeds\)\.", words)
    assert re.search(
        r"Entropy, 50 %: RL - SFT is not distinguishable from 0, \+7\.5 \[.*?\] points \(3 seeds\)\.", words
    )
    page = (tmp_path / "report.html").read_text()
    assert all(f'<section id="{name}">' in page for name in ("comparison", "settings", "verdicts", "sources", "runs"))


def test_step_scorers_and_judges_in_one_folder_stand_in_groups_of_their_own(many_runs: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        shutil.copytree(many_runs / f"full-{seed}", tmp_path / f"full-{seed}")
    judge(tmp_path / "judge", 0, ENTROPY, 0.86)
    judge(tmp_path / "elsewhere", 0, ENTROPY, 0.99, benchmark="2")
    shown = write(tmp_path, compare(run_folders(tmp_path)))
    assert "highest mean" not in shown
    assert [group.words for group in compare(run_folders(tmp_path)).groups] == [
        f"Step scorers: benchmark {8 * 'b'}, annotations 3fa9",
        "Judges: benchmark 22222222",
        "Judges: benchmark 11111111",
    ]
    lines = list(csv.DictReader(io.StringIO((tmp_path / "comparison.csv").read_text())))
    assert [(line["kind"], bool(line["auc_mean"]), line["rl_mean"][:5]) for line in lines] == [
        ("Step scorers", True, ""),
        ("Judges", False, "0.987"),
        ("Judges", False, "0.862"),
    ]


# ---- best-of-N


def chosen(folder: Path, models: dict[str, Path | None], sharpness: dict[str, float]) -> None:
    """What task=rerank writes: models of the given sharpness choose among four candidates of 30 questions."""
    rng = np.random.default_rng(3)
    sets, scores = [], {model: [] for model in models}
    for number in range(30):
        right = rng.random(4) < 0.5
        candidates = tuple(Candidate(("x",), str(int(one)), bool(one), None) for one in right)
        sets.append(CandidateSet(str(number), "s", (), "q", None, candidates))
        for model in models:
            odds = sharpness[model] * (2 * right - 1) + rng.normal(0, 1, 4)
            scores[model].append([StepScores((float(one),), (float(one),)) for one in odds])
    results = rerank(sets, scores, "mean", 0)
    runs = {name: None if run is None else str(run) for name, run in models.items()}
    write_results(folder / "results.json", replace(results, candidates_hash="c" * 64, runs=runs))
    lines = [{"model": model, **one} for model in models for one in choices(sets, scores[model], "mean")]
    write_json_lines(folder / "choices.jsonl", lines)


def test_models_that_choose_among_the_same_candidates_are_compared(many_runs: Path, tmp_path: Path) -> None:
    runs = {f"{name}-{seed}": many_runs / f"{name}-{seed}" for name in ("full", "random-0.5") for seed in (0, 1)}
    chosen(tmp_path / "ours", runs, {name: 4.0 if "full" in name else 0.1 for name in runs})
    chosen(tmp_path / "theirs", {"somebody": None}, {"somebody": 0.1})
    comparison = compare(run_folders(tmp_path))
    (group,) = comparison.groups
    assert [(one.label, len(one.runs)) for one in group.settings] == [("Full", 2), ("Random, 50 %", 2), ("somebody", 1)]
    shown = " ".join(write(tmp_path, comparison).split())
    assert "Full has the highest mean best-of-N" in shown
    table = settings_table(group)
    assert table.columns[3:] == ("best-of-N", "weighted majority")
    assert [row[0] for row in table.rows[3:]] == ["one candidate", "majority vote", "pass@N"]
    page = (tmp_path / "report.html").read_text()
    assert ": it is better than the second, " in shown
    assert '<section id="learning">' in page
