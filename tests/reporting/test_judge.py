"""The page of a judge (judge.py), its sentences (judge_words.py), tables (judge_tables.py) and figures."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mprm.reporting.judge import print_judge, write_judge
from mprm.reporting.judge_figures import RL_CURVES, SFT_CURVES, curves_exhibit, entropy_exhibit, pairs_exhibit
from mprm.reporting.judge_tables import (
    acc_plus_table,
    bins_table,
    curation_table,
    judges_table,
    left_out_table,
    responses_table,
    sources_table,
    training_bins_table,
    training_table,
)
from mprm.reporting.judge_words import headline, sentences

Results = dict[str, Any]

EDGES = {"untrained": (0.2, 1.0, 2.0), "sft": (0.01, 0.05, 0.3), "rl": (0.01, 0.02, 0.2)}


def number(value: float, spread: float = 0.02) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread}


def bins(edges: tuple[float, ...], accuracies: tuple[float, ...], **more: tuple[float, ...]) -> list[dict[str, Any]]:
    found = [
        {"from": low, "to": high, "entropy": (low + high) / 2, "pairs": 100, "accuracy": number(value)}
        for low, high, value in zip(edges, edges[1:], accuracies, strict=False)
    ]
    for key, values in more.items():
        for one, value in zip(found, values, strict=True):
            one[key] = number(value)
    return found


def measured(stage: str, accuracy: float, first: float, tells: float | None = 0.74) -> dict[str, Any]:
    return {
        "pairs": 200,
        "accuracy": number(accuracy),
        "macro_accuracy": accuracy - 0.01,
        "sources": {name: {"pairs": 100, "accuracy": number(accuracy, 0.03)} for name in ("bars", "pies")},
        "consistent": number(accuracy - 0.1),
        "first": number(first, 0.015),
        "without_verdict": 0.025,
        "in_format": 0.9,
        "accuracy_in_format": 0.75,
        "entropy": 0.0712,
        "tokens": 63.25,
        "bins": bins(EDGES[stage], (accuracy + 0.1, accuracy - 0.1)),
        "tells": tells,
    }


@pytest.fixture
def results() -> Results:
    """A whole run: SFT is worth 30 points, RL four; the kept pairs hold fewer wrong labels than random ones."""
    return {
        "preferences": "chartworld/<pairs>.jsonl",
        "reward_benchmark": "chartworld/benchmark.jsonl",
        "unusable": {"missing_image_file": 2, "no_image": 0},
        "judges": {
            "untrained": measured("untrained", 0.5, 0.5, None),
            "sft": measured("sft", 0.8, 0.49),
            "rl": measured("rl", 0.84, 0.52),
        },
        "differences": {"sft - untrained": number(0.3), "rl - sft": number(0.04)},
        "sft": {"traces": 1236, "left_out": {"no_trace": 9, "too_long": 1}, "optimizer_steps": 300, "seconds": 100.0},
        "curation": {
            "eligible": 3000,
            "kept": 1500,
            "selector": "Entropy",
            "dropped": {"traced": 3000},
            "entropy": {"kept": 0.05, "left_out": 0.09},
            "bins": bins((0.01, 0.06, 0.2), (0.95, 0.61), flipped=(0.05, 0.3)),
            "flipped": {"kept": 0.06, "random": 0.174, "difference": number(-0.114, 0.011)},
        },
        "rl": {"pairs": 1497, "optimizer_steps": 47, "too_long": 3, "seconds": 1200.0, "order": "LowToHigh"},
    }


def logged(steps: int = 5) -> list[dict[str, Any]]:
    keys = [*RL_CURVES, *SFT_CURVES]
    return [{"step": step, **dict.fromkeys(keys, step / 10), "lr": 1e-5} for step in range(1, steps + 1)]


def test_the_headline_and_the_sentences_say_what_is_real(results: Results) -> None:
    assert headline(results) == (
        "1,500 of 3,000 labelled pairs were kept. On 200 pairs of the benchmark, each judged in both orders, the judge "
        "is right in 84.0 [82.0, 86.0] % after RL."
    )
    assert sentences(results) == [
        "Without training the judge is right in 50.0 [48.0, 52.0] %.",
        "After SFT it is right in 80.0 [78.0, 82.0] %, better than before: +30.0 [28.0, 32.0] points.",
        "After RL it is right in 84.0 [82.0, 86.0] %, better than before: +4.0 [2.0, 6.0] points.",
        "After SFT accuracy falls with entropy: 90.0 [88.0, 92.0] % in the lowest of 2 bins, 70.0 [68.0, 72.0] % in "
        "the highest.",
        "On the training pairs agreement with the labels falls with entropy: 95.0 [93.0, 97.0] % in the lowest of 2 "
        "bins, 61.0 [59.0, 63.0] % in the highest.",
        "The share of wrong labels among them rises with entropy: 5.0 [3.0, 7.0] % in the lowest of 2 bins, 30.0 "
        "[28.0, 32.0] % in the highest.",
        "The kept pairs hold 6.0 % wrong labels, fewer than random subsets of that size, 17.4 %: -11.4 [-12.5, -10.3] "
        "points.",
        "After RL it prefers the answer that is shown first: 52.0 [50.5, 53.5] % of its verdicts are for the first.",
        "After RL 97.5 % of its responses have a verdict, 90.0 % in the words of judge.verdict.",
    ]


def test_what_is_not_distinguishable_is_called_so(results: Results) -> None:
    results["differences"]["rl - sft"] = number(0.01)
    results["judges"]["sft"]["bins"] = bins(EDGES["sft"], (0.80, 0.77))
    results["judges"]["rl"]["first"] = number(0.51)
    results["curation"]["bins"] = [one | {"flipped": None} for one in bins((0.01, 0.06, 0.2), (0.6, 0.9))]
    results["curation"]["flipped"]["difference"] = number(0.01)
    said = sentences(results)
    assert said[2].endswith("%, not distinguishable from before: +1.0 [-1.0, 3.0] points.")
    assert said[3].startswith("After SFT accuracy is not distinguishable between low and high entropy: 80.0 [78.0,")
    assert said[4].startswith("On the training pairs agreement with the labels rises with entropy: 60.0 [58.0,")
    assert "wrong labels, not distinguishable from random subsets of that size, 17.4 %: +1.0 [-1.0" in said[5]
    assert said[6].startswith("After RL no position bias is distinguishable: 51.0 [49.0, 53.0] %")
    results["judges"]["rl"]["first"] = None
    assert len(sentences(results)) == 7


def test_tables_have_every_stage(results: Results) -> None:
    def rows(table: Any) -> tuple[tuple[str, ...], ...]:
        assert table is not None
        assert all(len(row) == len(table.columns) for row in table.rows)
        return table.rows

    assert rows(judges_table(results))[::2] == (
        ("untrained", "50.0 [48.0, 52.0]", "-", "49.0", "40.0 [38.0, 42.0]", "50.0 [48.5, 51.5]"),
        ("after RL", "84.0 [82.0, 86.0]", "+4.0 [2.0, 6.0]", "83.0", "74.0 [72.0, 76.0]", "52.0 [50.5, 53.5]"),
    )
    assert rows(responses_table(results))[:2] == (
        ("untrained", "2.5", "90.0", "75.0", "63.2", "0.071", "-"),
        ("after SFT", "2.5", "90.0", "75.0", "63.2", "0.071", "0.740"),
    )
    assert rows(sources_table(results))[1] == (
        *("pies", "100", "50.0 [47.0, 53.0]", "80.0 [77.0, 83.0]", "84.0 [81.0, 87.0]"),
    )
    assert rows(bins_table(results))[2] == ("after SFT: 1", "0.010 to 0.050", "100", "90.0 [88.0, 92.0]")
    assert rows(training_bins_table(results))[1] == (
        *("2", "0.060 to 0.200", "100", "61.0 [59.0, 63.0]", "30.0 [28.0, 32.0]"),
    )
    assert dict(rows(curation_table(results))) == {
        "eligible pairs": "3,000",
        "kept pairs": "1,500 (50.0 %)",
        "selector": "Entropy",
        "mean entropy of kept pairs (nats)": "0.050",
        "mean entropy of pairs left out (nats)": "0.090",
        "wrong labels among the kept (%)": "6.0",
        "wrong labels in random subsets (%)": "17.4",
        "kept minus random (points)": "-11.4 [-12.5, -10.3]",
    }
    assert rows(training_table(results)) == (
        ("SFT", "1,236 traces", "300", "100.0", "-"),
        ("RL", "1,497 pairs", "47", "1,200.0", "LowToHigh"),
    )
    assert rows(left_out_table(results)) == (
        ("records", "missing_image_file", "2"),
        ("traces for SFT", "no_trace", "9"),
        ("traces for SFT", "too_long", "1"),
        ("pairs to be kept", "traced", "3,000"),
        ("pairs for RL", "too_long", "3"),
    )


def test_a_line_per_judge_runs_over_the_entropy_of_its_responses(results: Results) -> None:
    exhibit = entropy_exhibit(results)
    assert exhibit is not None
    (axes,) = exhibit.figure.axes
    assert (axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()) == (
        *("Accuracy against entropy", "entropy of the responses (nats)", "accuracy (%)"),
    )
    lines = {str(line.get_label()): line for line in axes.lines}
    assert list(lines) == ["chance", "untrained", "after SFT", "after RL"]
    assert np.asarray(lines["after SFT"].get_xdata()).tolist() == pytest.approx([0.03, 0.175])
    assert np.asarray(lines["after SFT"].get_ydata()).tolist() == pytest.approx([90, 70])
    looks = {(line.get_color(), line.get_marker(), str(line.get_linestyle())) for line in axes.lines[1:]}
    assert all(len({look[place] for look in looks}) == 3 for place in range(2))
    assert "after SFT: 90.0 % at 0.010 to 0.050 nats, 70.0 % at 0.050 to 0.300 nats." in exhibit.says
    results["judges"]["untrained"]["without_verdict"] = 1.0
    without = entropy_exhibit(results)
    assert without is not None
    assert [line.get_label() for line in without.figure.axes[0].lines] == ["chance", "after SFT", "after RL"]


def test_training_pairs_have_a_panel_for_wrong_labels_where_they_are_known(results: Results) -> None:
    exhibit = pairs_exhibit(results)
    assert exhibit is not None
    assert [(axes.get_title(loc="left"), axes.get_ylabel()) for axes in exhibit.figure.axes] == [
        ("Agreement with the labels", "verdict agrees with label (%)"),
        ("Wrong labels", "label is wrong (%)"),
    ]
    assert [line.get_label() for line in exhibit.figure.axes[0].lines[:2]] == [
        "Mean entropy of the kept pairs: 0.050",
        "Mean entropy of pairs left out: 0.090",
    ]
    assert "Wrong labels: 5.0 % at 0.010 to 0.060 nats, 30.0 % at 0.060 to 0.200 nats." in exhibit.says
    for one in results["curation"]["bins"]:
        one["flipped"] = None
    results["curation"] |= {"flipped": None, "entropy": {"kept": 0.05, "left_out": None}}
    unknown = pairs_exhibit(results)
    assert unknown is not None
    assert len(unknown.figure.axes) == 1
    assert unknown.title == "Where does the judge agree with the labels?"
    assert "left out" not in unknown.says


def test_curves_are_those_that_were_logged() -> None:
    exhibit = curves_exhibit("rl_curves", "Reinforcement learning", RL_CURVES, logged())
    assert exhibit is not None
    assert [(axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()) for axes in exhibit.figure.axes] == [
        ("Reward", "optimizer steps", "mean reward of a response"),
        ("Accuracy", "optimizer steps", "right verdicts (%)"),
        ("Entropy", "optimizer steps", "mean entropy (nats)"),
    ]
    assert np.asarray(exhibit.figure.axes[1].lines[0].get_ydata()).tolist() == pytest.approx([10, 20, 30, 40, 50])
    assert exhibit.says == (
        "Reinforcement learning: reward from 0.1 to 0.5 at step 5, accuracy from 10 to 50 at step 5, entropy from 0.1 "
        "to 0.5 at step 5."
    )
    loss_alone = [{"step": 1, "train/loss": 2.0}, {"step": 2, "train/loss": float("nan")}]
    sft = curves_exhibit("sft_curves", "Supervised fine-tuning", SFT_CURVES, loss_alone)
    assert sft is not None
    assert len(sft.figure.axes) == 1
    assert curves_exhibit("rl_curves", "Reinforcement learning", RL_CURVES, loss_alone) is None


def test_the_page_is_whole_and_needs_nothing_from_outside(results: Results, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results | {"curation": results["curation"] | {"bins": []}}))
    (tmp_path / "rl").mkdir()
    lines = [{"step": one["step"], "train/reward": one["train/reward"]} for one in logged()]
    (tmp_path / "rl" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = write_judge(tmp_path)
    assert page == tmp_path / "report.html"
    html = page.read_text()
    for text in (
        *("Verdicts", headline(results), "Accuracy after SFT", "The judge by stage", "Curation", "missing_image_file"),
        *('<section id="accuracy_by_entropy">', '<section id="rl_curves">', "prefers-color-scheme: dark"),
    ):
        assert text in html
    assert len(re.findall('role="img" aria-label="[^"]{50,}"', html)) == html.count("<svg ") == 2
    assert "chartworld/&lt;pairs&gt;.jsonl" in html
    assert not re.search(r'<script|<pairs>|src=|href="http|@import|\[nan|None', html)
    figures = {f"{name}.{kind}" for name in ("accuracy_by_entropy", "rl_curves") for kind in ("svg", "png")}
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "rl", "report.html"} | figures


@pytest.mark.parametrize("known", ["nothing", "curation", "sft"])
def test_what_was_not_run_is_not_on_the_page(results: Results, known: str, tmp_path: Path) -> None:
    part = {key: results[key] for key in ("preferences", known) if key in results}
    if known == "curation":
        part["curation"] |= {"bins": [], "flipped": None, "entropy": {}}
    (tmp_path / "results.json").write_text(json.dumps(part))
    html = write_judge(tmp_path).read_text()
    assert "<svg" not in html
    assert ("No judge has been measured" in html) == (known != "curation")
    assert ("Pairs kept" in html) == (known == "curation")
    assert ("1,236 traces" in html) == (known == "sft")
    buffer = io.StringIO()
    print_judge(part, Console(file=buffer, width=100))
    assert headline(part) in buffer.getvalue().replace("\n", " ")


@pytest.mark.parametrize("content", [None, {"auc": 0.9}])
def test_another_folder_is_refused(content: Results | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"results\.json is not there or not of a judge; run task=egt") as raised:
        write_judge(tmp_path)
    assert "\n" not in str(raised.value)


def test_the_terminal_has_a_row_per_stage(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    buffer = io.StringIO()
    print_judge(results, Console(file=buffer, width=100))
    shown = buffer.getvalue().splitlines()
    assert max(map(len, shown)) <= 100
    assert any(re.match(r"after RL +84\.0 \[82\.0, 86\.0\] +\+4\.0 \[2\.0, 6\.0\] +83\.0 ", line) for line in shown)
    assert "After RL it is right in 84.0 [82.0, 86.0] %, better than before: +4.0 [2.0, 6.0] points." in shown


def test_acc_plus_by_source_and_over_all_items(results: Results) -> None:
    assert acc_plus_table(results) is None
    for judge in results["judges"].values():
        judge["acc_plus"] = {"items": 42, **number(0.5)}
        for place, source in enumerate(judge["sources"].values()):
            source["acc_plus"] = {"items": 21, **number(0.4 + place / 5)}
    table = acc_plus_table(results)
    assert table is not None
    assert [row[:3] for row in table.rows] == [
        ("bars", "21", "40.0 [38.0, 42.0]"),
        ("pies", "21", "60.0 [58.0, 62.0]"),
        ("all", "42", "50.0 [48.0, 52.0]"),
    ]
