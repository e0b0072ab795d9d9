"""Many judges side by side: judge_runs.py, judge_pairs.py, judge_settings.py, judge_forest.py, judge_compare.py."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from mprm.reporting.judge_compare import headline, print_judge_comparison, write_judge_comparison
from mprm.reporting.judge_forest import forest_exhibit
from mprm.reporting.judge_pairs import answers, answers_table
from mprm.reporting.judge_runs import JudgeComparison, compare_judges
from mprm.reporting.judge_settings import runs_table, settings_table
from mprm.runs.sweep_state import SweepJob
from mprm.stages.comparison import compare_runs

ENTROPY = {"_target_": "mprm.selection.entropy.Entropy", "ratio": 0.5}
RANDOM = {"_target_": "mprm.selection.baselines.Random", "ratio": 0.5}
FULL = {"_target_": "mprm.selection.baselines.Full", "ratio": 1.0}


def number(value: float, spread: float = 0.02) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread}


def write(
    folder: Path, seed: int, selector: dict[str, Any], rl: float | None, order: str = "LowToHigh", **more: Any
) -> None:
    """A finished run whose judge is right in 80 % after SFT."""
    config = {"task": "egt", "seed": seed, "held_out": seed, "selector": selector, "order": {"_target_": f"x.{order}"}}
    accuracies = {"untrained": 0.5, "sft": 0.8} | ({} if rl is None else {"rl": rl})
    flipped = {"kept": 0.06, "random": 0.17, "difference": number(-0.11)}
    results = {
        "preferences": "pairs.jsonl",
        "reward_benchmark": "benchmark.jsonl",
        "judges": {stage: {"pairs": 200, "accuracy": number(value)} for stage, value in accuracies.items()},
        "differences": {} if rl is None else {"rl - sft": number(rl - 0.8, 0.01)},
        "curation": {"eligible": 3000, "kept": 1500, "selector": "x", "flipped": flipped},
    }
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config | more))
    (folder / "results.json").write_text(json.dumps(results))


Make = Callable[..., None]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """make(name, seed, selector, rl, order): a run in tmp_path/runs."""

    def run(name: str, *fields: Any, **more: Any) -> None:
        write(tmp_path / "runs" / name, *fields, **more)

    return run


def compared(tmp_path: Path) -> JudgeComparison:
    comparison = compare_judges(tmp_path / "runs")
    assert comparison is not None
    return comparison


def test_seeds_are_averaged_and_settings_named_by_what_differs(make: Make, tmp_path: Path) -> None:
    for seed, rl in enumerate((0.84, 0.86, 0.88)):
        make(f"e{seed}", seed, ENTROPY, rl)
    make("twice", 0, ENTROPY, 0.9)
    make("s0", 0, ENTROPY, 0.83, "Shuffled")
    make("sft", 0, FULL, None)
    (tmp_path / "runs" / "begun").mkdir()
    (tmp_path / "runs" / "begun" / "config.yaml").write_text("task: rl\nseed: 0\n")
    comparison = compared(tmp_path)
    assert [row.label for row in comparison.rows] == [
        "Entropy, 50 %, order LowToHigh",
        "Entropy, 50 %, order Shuffled",
        "Full, order LowToHigh",
    ]
    # sd 0.02, t 4.3027 with 2 degrees of freedom: 4.3027 * 2 / sqrt(3) = 4.97 points.
    kept = ("1,500", "6.0", "17.0")
    assert settings_table(comparison).rows == (
        ("Entropy, 50 %, order LowToHigh", "3", "80.0 [80.0, 80.0]", "86.0 [81.0, 91.0]", "+6.0 [1.0, 11.0]", *kept),
        ("Entropy, 50 %, order Shuffled", "1", "80.0 [78.0, 82.0]", "83.0 [81.0, 85.0]", "+3.0 [2.0, 4.0]", *kept),
        ("Full, order LowToHigh", "1", "80.0 [78.0, 82.0]", "-", "-", *kept),
    )
    assert runs_table(comparison).rows[1][:6] == (
        *("e1", "Entropy, 50 %, order LowToHigh", "1", "80.0 [78.0, 82.0]", "86.0 [84.0, 88.0]", "+6.0 [5.0, 7.0]"),
    )
    assert comparison.left_out == {
        "begun": "not finished: no results.json yet",
        "twice": "same setting and seed as e0",
    }
    assert headline(comparison) == (
        "3 settings in 5 runs. The highest accuracy after RL is 86.0 [81.0, 91.0] %, by Entropy, 50 %, order LowToHigh."
    )


def test_pairs_that_differ_in_one_thing_are_asked_about(make: Make, tmp_path: Path) -> None:
    for seed, (entropy, rest) in enumerate(((0.86, 0.82), (0.87, 0.84), (0.88, 0.86))):
        make(f"e{seed}", seed, ENTROPY, entropy)
        make(f"r{seed}", seed, RANDOM, rest)
    make("full", 0, FULL, 0.80, "Shuffled")
    make("s", 1, ENTROPY, 0.845, "Shuffled")
    make("quarter", 0, ENTROPY | {"ratio": 0.25}, 0.79)
    make("elsewhere", 0, ENTROPY, 0.85, reward_benchmark={"path": "other"})
    path = tmp_path / "runs" / "elsewhere" / "results.json"
    path.write_text(path.read_text().replace("benchmark.jsonl", "other"))
    found = answers(compared(tmp_path))
    # 4, 3 and 2 points: mean 3, sd 1, and 4.3027 / sqrt(3) = 2.48.
    assert found[0].words == (
        "Entropy, 50 %, order LowToHigh has the highest accuracy after RL, 87.0 [84.5, 89.5] %. It is not "
        "distinguishable from the second, Entropy, 50 %, order Shuffled, 87.0 [85.0, 89.0] against 84.5 [82.5, 86.5] "
        "%: their intervals overlap (1 seed: this holds for these trainings only). Chosen as the best of 5 on "
        "these very pairs, so they flatter it."
    )
    assert [answer.words for answer in found[1:]] == [
        "Entropy, 50 %, order LowToHigh is better than Random, 50 %, order LowToHigh: +3.0 [0.5, 5.5] points over 3 "
        "seeds.",
        "Entropy, 50 %, order Shuffled is better than Full, order Shuffled, 84.5 [82.5, 86.5] against 80.0 [78.0, "
        "82.0] %: their intervals do not overlap (1 seed: this holds for these trainings only).",
    ]
    assert answers_table(found).rows[1][2:] == ("3", "better", "+3.0 [0.5, 5.5]")
    assert answers_table(found).rows[2][2:] == ("1", "better", "+4.5")


@pytest.mark.parametrize("kept", [True, False], ids=["by content", "of runs before that was kept"])
def test_no_winner_is_chosen_across_benchmarks(make: Make, tmp_path: Path, kept: bool) -> None:
    runs = tmp_path / "runs"
    for name, selector, rl, benchmark in (
        ("e", ENTROPY, 0.86, "1"),
        ("r", RANDOM, 0.84, "1"),
        ("easy", ENTROPY, 0.99, "2"),
    ):
        make(name, 0, selector, rl)
        path = runs / name / "results.json"
        changed = {"reward_benchmark_hash": benchmark * 64} if kept else {"reward_benchmark": f"{benchmark}.jsonl"}
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    comparison = compared(tmp_path)
    words = ["11111111", "22222222"] if kept else ["1.jsonl, 200 pairs", "2.jsonl, 200 pairs"]
    assert [group.words for group in comparison.groups] == [f"benchmark {one}" for one in words]
    assert [settings_table(group).main for group in comparison.groups] == ["Entropy, 50 %"] * 2
    assert headline(comparison) == (
        "Judges on other benchmarks are compared apart. 2 settings in 2 runs. The highest accuracy after RL is 86.0 "
        "[84.0, 88.0] %, by Entropy, 50 %. 1 setting in 1 run. The highest accuracy after RL is 99.0 [97.0, 101.0] %, "
        "by Entropy, 50 %."
    )
    assert [(answer.a, answer.b) for answer in answers(comparison)] == [("Entropy, 50 %", "Random, 50 %")]
    html = write_judge_comparison(runs, comparison).read_text()
    assert html.count("<svg ") == 2
    assert f"Settings: benchmark {words[1]}" in html
    assert (runs / "comparison-2.png").is_file()


def test_the_forest_has_a_row_per_setting(make: Make, tmp_path: Path) -> None:
    for seed in range(3):
        make(f"e{seed}", seed, ENTROPY, 0.86)
    make("r", 0, RANDOM, 0.82)
    exhibit = forest_exhibit(compared(tmp_path))
    assert exhibit is not None
    (axes,) = exhibit.figure.axes
    assert (axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()) == (
        *("Accuracy after RL", "accuracy on the benchmark (%)", "setting"),
    )
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Random, 50 %", "Entropy, 50 %"]
    assert exhibit.says == (
        "Accuracy after RL on the benchmark. Entropy, 50 %: 86.0 [86.0, 86.0] %; Random, 50 %: 82.0 [80.0, 84.0] %."
    )
    solid, dotted = (bars.get_linestyle()[0][1] for bars in axes.collections[::-1])
    assert solid is None
    assert dotted is not None


def test_two_seeds_are_two_values_and_never_an_interval(make: Make, tmp_path: Path) -> None:
    for seed, (ours, others) in enumerate(((0.86, 0.70), (0.80, 0.79))):
        make(f"e{seed}", seed, ENTROPY, ours)
        make(f"r{seed}", seed, RANDOM, others)
    comparison = compared(tmp_path)
    (answer,) = answers(comparison)
    assert settings_table(comparison).rows[0][1:4:2] == ("2", "83.0 (86.0, 80.0)")
    assert (answer.outcome, answer.difference) == ("not distinguishable", "+16.0, +1.0")
    assert "(2 seeds: this holds for these trainings only)" in answer.words
    exhibit = forest_exhibit(comparison)
    assert exhibit is not None
    assert not exhibit.figure.axes[0].collections  # no bar
    assert [list(line.get_xdata()) for line in exhibit.figure.axes[0].lines if line.get_marker() == "."] == [
        pytest.approx([70, 79]),
        pytest.approx([86, 80]),
    ]


def test_a_folder_of_judges_has_one_report(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    make("e", 3, ENTROPY, 0.86)
    make("r", 3, RANDOM, 0.80)
    compare_runs(runs)
    shown = capsys.readouterr().out
    assert "has the highest accuracy after RL" in shown
    assert f"wrote {runs / 'report.html'}" in shown.replace("\n", "")
    assert {path.name for path in runs.iterdir() if path.is_file()} == {
        "report.html",
        *(f"comparison.{kind}" for kind in ("csv", "md", "svg", "png")),
    }
    html = (runs / "report.html").read_text()
    assert html.count("<svg ") == html.count('role="img" aria-label="Accuracy after RL') == 1
    assert "It is better than the second, Random, 50 %" in html
    assert "Every run" not in html, "a run per setting"
    assert "| Entropy, 50 % | 1 |" in (runs / "comparison.md").read_text()
    lines = list(csv.DictReader(io.StringIO((runs / "comparison.csv").read_text())))
    assert [(line["run"], line["setting"], line["seed"], line["rl_value"]) for line in lines] == [
        ("e", "Entropy, 50 %", "3", "0.86"),
        ("r", "Random, 50 %", "3", "0.8"),
    ]


def test_both_lines_have_reports_of_their_own(make: Make, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    (runs / "steps").mkdir(parents=True)
    (runs / "steps" / "config.yaml").write_text("task: experiment\nseed: 0\n")
    assert compare_judges(runs) is None
    make("begun", 0, ENTROPY, None)
    (runs / "begun" / "results.json").unlink()
    compare_runs(runs)
    assert {path.name for path in runs.glob("*.html")} == {"report.html", "judge_report.html"}
    assert "steps" in (runs / "report.html").read_text()
    assert "begun" not in (runs / "report.html").read_text()
    judges = (runs / "judge_report.html").read_text()
    assert "No judge has been measured yet." in judges
    assert "begun" in judges
    assert "steps" not in judges.partition("</style>")[2]
    assert {path.name for path in runs.glob("*.csv")} == {"comparison.csv", "judge_comparison.csv"}


def test_the_terminal_says_what_is_not_in_it(make: Make, tmp_path: Path) -> None:
    make("e", 0, ENTROPY, None)
    waiting = SweepJob(overrides="seed=1", label="seed=1", name="x", state="failed", reason="no room")
    buffer = io.StringIO()
    print_judge_comparison(replace(compared(tmp_path), points=(waiting,)), Console(file=buffer, width=120))
    assert "Failed: seed=1: no room" in buffer.getvalue()
    assert "80.0 [78.0, 82.0]" in buffer.getvalue()
