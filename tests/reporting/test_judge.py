"""The report of a judge (judge.py)."""

import io
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mprm.metrics.results import (
    Curation,
    EntropyBin,
    Estimate,
    JudgeAccuracy,
    JudgeResults,
    JudgeTraining,
    PairSource,
    PublishedAccuracy,
    WrongLabels,
    write_results,
)
from mprm.reporting.card import model_card
from mprm.reporting.judge import entropy_figure, headline, judge_report, print_judge, sentences, write_judge
from mprm.reporting.report import Table
from mprm.runs.artifacts import write_json

EDGES = {"untrained": (0.2, 1.0, 2.0), "sft": (0.01, 0.05, 0.3), "rl": (0.01, 0.02, 0.2)}


def number(value: float, spread: float = 0.02) -> Estimate:
    return Estimate(value, value - spread, value + spread)


def bins(
    edges: tuple[float, ...], accuracies: tuple[float, ...], wrong: tuple[float, ...] | None = None
) -> tuple[EntropyBin, ...]:
    return tuple(
        EntropyBin(
            lowest=edges[place],
            highest=edges[place + 1],
            entropy=(edges[place] + edges[place + 1]) / 2,
            pairs=100,
            accuracy=number(value),
            flipped=number(wrong[place]) if wrong else None,
        )
        for place, value in enumerate(accuracies)
    )


def measured(stage: str, accuracy: float, first: float, tells: float | None = 0.74) -> JudgeAccuracy:
    return JudgeAccuracy(
        pairs=200,
        accuracy=number(accuracy),
        macro_accuracy=accuracy - 0.01,
        sources={name: PairSource(pairs=100, accuracy=number(accuracy, 0.03)) for name in ("bars", "pies")},
        consistent=number(accuracy - 0.1),
        first=number(first, 0.015),
        without_verdict=0.025,
        in_format=0.9,
        accuracy_in_format=0.75,
        entropy=0.0712,
        tokens=63.25,
        bins=bins(EDGES[stage], (accuracy + 0.1, accuracy - 0.1)),
        tells=tells,
    )


@pytest.fixture
def results() -> JudgeResults:
    """A whole run: SFT is worth 30 points, RL four; the kept pairs hold fewer wrong labels than random ones."""
    return JudgeResults(
        preferences="chartworld/<pairs>.jsonl",
        reward_benchmark="chartworld/benchmark.jsonl",
        reward_benchmark_hash="b" * 64,
        unusable={"missing_image_file": 2, "no_image": 0},
        judges={
            "untrained": measured("untrained", 0.5, 0.5, None),
            "sft": measured("sft", 0.8, 0.49),
            "rl": measured("rl", 0.84, 0.52),
        },
        differences={"sft - untrained": number(0.3), "rl - sft": number(0.04)},
        training={
            "sft": JudgeTraining(
                examples=1236, optimizer_steps=300, seconds=100.0, left_out={"no_trace": 9, "too_long": 1}
            ),
            "rl": JudgeTraining(
                examples=1497, optimizer_steps=47, seconds=1200.0, left_out={"too_long": 3}, order="LowToHigh"
            ),
        },
        curation=Curation(
            eligible=3000,
            kept=1500,
            selector="Entropy",
            label="Entropy",
            baseline=False,
            settings={},
            dropped={"traced": 3000},
            entropy={"kept": 0.05, "left_out": 0.09},
            bins=bins((0.01, 0.06, 0.2), (0.95, 0.61), (0.05, 0.3)),
            flipped=WrongLabels(kept=0.06, random=0.174, difference=number(-0.114, 0.011)),
        ),
    )


def with_curation(results: JudgeResults, **changes: Any) -> JudgeResults:
    assert results.curation
    return replace(results, curation=replace(results.curation, **changes))


def with_judge(results: JudgeResults, stage: str, **changes: Any) -> JudgeResults:
    return replace(results, judges=results.judges | {stage: replace(results.judges[stage], **changes)})


def tables(results: JudgeResults) -> dict[str, tuple[tuple[str, ...], ...]]:
    found = [one for one in judge_report(Path("nowhere"), results).shown if isinstance(one, Table)]
    for table in found:
        assert all(len(row) == len(table.columns) for row in table.rows), table.title
    return {table.title: table.rows for table in found}


def test_the_headline_and_the_sentences_say_what_is_real(results: JudgeResults) -> None:
    assert headline(results) == (
        "1,500 of 3,000 labelled pairs were kept. On 200 pairs of the benchmark, each judged in both orders, the judge "
        "is right in 84.0 [82.0, 86.0] % after RL."
    )
    assert sentences(results) == [
        "Without training the judge is right in 50.0 [48.0, 52.0] % greedily.",
        "After SFT it is right in 80.0 [78.0, 82.0] % greedily.",
        "SFT changes this by +30.0 [28.0, 32.0] points greedily: better than before.",
        "After RL it is right in 84.0 [82.0, 86.0] % greedily.",
        "RL changes this by +4.0 [2.0, 6.0] points greedily: better than before.",
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


def test_what_is_not_distinguishable_is_called_so(results: JudgeResults) -> None:
    results = replace(results, differences=results.differences | {"rl - sft": number(0.01)})
    results = with_judge(results, "sft", bins=bins(EDGES["sft"], (0.80, 0.77)))
    results = with_judge(results, "rl", first=number(0.51))
    flipped = WrongLabels(kept=0.06, random=0.174, difference=number(0.01))
    results = with_curation(results, bins=bins((0.01, 0.06, 0.2), (0.6, 0.9)), flipped=flipped)
    said = sentences(results)
    assert said[4] == "RL changes this by +1.0 [-1.0, 3.0] points greedily: not distinguishable from before."
    assert said[5].startswith("After SFT accuracy is not distinguishable between low and high entropy: 80.0 [78.0,")
    assert said[6].startswith("On the training pairs agreement with the labels rises with entropy: 60.0 [58.0,")
    assert "wrong labels, not distinguishable from random subsets of that size, 17.4 %: +1.0 [-1.0" in said[7]
    assert said[8].startswith("After RL no position bias is distinguishable: 51.0 [49.0, 53.0] %")
    assert len(sentences(with_judge(results, "rl", first=None))) == 9


def with_votes(results: JudgeResults, sampled: float, vote: float) -> JudgeResults:
    """RL changes the two by so much."""
    judges = {
        stage: replace(one, votes=(number(0.7), number(0.75), number(0.78))) for stage, one in results.judges.items()
    }
    changes = {"sft - untrained": (number(0.2), number(0.2), number(0.3))}
    changes["rl - sft"] = (number(sampled), number(sampled), number(vote))
    return replace(results, judges=judges, vote_differences=changes)


def test_every_change_is_judged_in_all_measures(results: JudgeResults) -> None:
    said = sentences(with_votes(results, sampled=0.034, vote=0.01))
    assert said[:2] == [
        "Without training the judge is right in 50.0 [48.0, 52.0] % greedily, 70.0 [68.0, 72.0] % sampled at "
        "temperature 1 and 78.0 [76.0, 80.0] % in a vote of 3.",
        "After SFT it is right in 80.0 [78.0, 82.0] % greedily, 70.0 [68.0, 72.0] % sampled at temperature 1 and 78.0 "
        "[76.0, 80.0] % in a vote of 3.",
    ]
    assert said[2] == (
        "SFT changes this by +30.0 [28.0, 32.0] points greedily, +20.0 [18.0, 22.0] points sampled at temperature 1 "
        "and +30.0 [28.0, 32.0] points in a vote of 3: better than before."
    )
    assert said[4].endswith(
        "+1.0 [-1.0, 3.0] points in a vote of 3: better than before greedily and sampled at temperature 1; not "
        "distinguishable from before in a vote of 3."
    )
    worse = sentences(replace(with_votes(results, -0.03, 0.0), temperature=0.5, vote_temperature=0.2))[4]
    assert worse.endswith(
        ": better than before at temperature 0.5; worse than before sampled at temperature 0.2; not distinguishable "
        "from before in a vote of 3."
    )


def test_tables_have_every_stage(results: JudgeResults) -> None:
    found = tables(results)
    assert found["The judge by stage"] == (
        ("right greedily", "50.0 [48.0, 52.0]", "80.0 [78.0, 82.0]", "84.0 [82.0, 86.0]"),
        ("minus before", "-", "+30.0 [28.0, 32.0]", "+4.0 [2.0, 6.0]"),
        ("macro", "49.0", "79.0", "83.0"),
        ("consistent", "40.0 [38.0, 42.0]", "70.0 [68.0, 72.0]", "74.0 [72.0, 76.0]"),
        ("first", "50.0 [48.5, 51.5]", "49.0 [47.5, 50.5]", "52.0 [50.5, 53.5]"),
    )
    with_more = tables(with_votes(results, 0.034, 0.01))["The judge by stage"]
    assert with_more[2:6] == (
        ("right sampled at temperature 1", *["70.0 [68.0, 72.0]"] * 3),
        ("minus before", "-", "+20.0 [18.0, 22.0]", "+3.4 [1.4, 5.4]"),
        ("right in a vote of 3", *["78.0 [76.0, 80.0]"] * 3),
        ("minus before", "-", "+30.0 [28.0, 32.0]", "+1.0 [-1.0, 3.0]"),
    )
    pies = ("pies, 100 pairs", "50.0 [47.0, 53.0]", "80.0 [77.0, 83.0]", "84.0 [81.0, 87.0]")
    assert found["Accuracy by source"][2] == pies
    assert dict(found["Curation"]) == {
        "eligible pairs": "3,000",
        "kept pairs": "1,500 (50.0 %)",
        "selector": "Entropy",
        "mean entropy of the kept pairs (nats)": "0.050",
        "mean entropy of pairs left out (nats)": "0.090",
        "wrong labels among the kept (%)": "6.0",
        "wrong labels in random subsets (%)": "17.4",
        "kept minus random (points)": "-11.4 [-12.5, -10.3]",
    }
    assert found["Training"] == (
        ("SFT", "1,236 traces", "300", "100.0", "-"),
        ("RL", "1,497 pairs", "47", "1,200.0", "LowToHigh"),
    )
    assert found["Left out"] == (
        ("records", "missing_image_file", "2"),
        ("traces for SFT", "no_trace", "9"),
        ("traces for SFT", "too_long", "1"),
        ("pairs for RL", "too_long", "3"),
        ("pairs to be kept", "traced", "3,000"),
    )
    assert not [row for row in found["Accuracy by source"] if "ACC+" in row[0]]
    assert "As published" not in found


def test_acc_plus_by_source_and_over_all_items(results: JudgeResults) -> None:
    def with_items(one: JudgeAccuracy) -> JudgeAccuracy:
        sources = {
            name: replace(part, items=21, acc_plus=number(0.4 + place / 5))
            for place, (name, part) in enumerate(one.sources.items())
        }
        return replace(one, sources=sources, items=42, acc_plus=number(0.5))

    judges = {stage: with_items(judge) for stage, judge in results.judges.items()}
    assert [row[:2] for row in tables(replace(results, judges=judges))["Accuracy by source"][4:7]] == [
        ("ACC+ all, 42 items", "50.0 [48.0, 52.0]"),
        ("ACC+ bars, 21 items", "40.0 [38.0, 42.0]"),
        ("ACC+ pies, 21 items", "60.0 [58.0, 62.0]"),
    ]


def test_the_published_measure_has_a_table_per_number_of_votes(results: JudgeResults) -> None:
    """The untrained judge gives no verdict, so that nothing of it is left."""
    part = PairSource(pairs=90, accuracy=number(0.8))

    def published(k: int) -> PublishedAccuracy:
        sources = {"bars": part, "pies": part}
        return PublishedAccuracy(
            pairs=180, accuracy=number(0.8), votes=k, sources=sources, macro_accuracy=0.8, left_out=20
        )

    judges = {
        stage: one if stage == "untrained" else replace(one, published=(published(1), published(3)))
        for stage, one in results.judges.items()
    }
    found = replace(results, judges=judges, rule="as cal.py counts")
    shown = {one.title: one for one in judge_report(Path("nowhere"), found).shown if isinstance(one, Table)}
    table = shown["As published, vote of 3"]
    assert table.columns == ("source", "after SFT (%)", "after RL (%)")
    assert table.rows[0] == ("all, 180 pairs", "80.0 [78.0, 82.0]", "80.0 [78.0, 82.0]")
    assert table.rows[-2:] == (("macro", "80.0", "80.0"), ("pairs left out", "20", "20"))
    assert table.note == "as cal.py counts. Brackets: 95 % bootstrap."
    assert "As published" in shown


def test_a_line_per_judge_runs_over_the_entropy_of_its_responses(results: JudgeResults) -> None:
    figure = entropy_figure(results)
    assert figure is not None
    axes = figure.drawing.axes[0]
    assert (axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()) == (
        *("Benchmark", "entropy of the responses (nats)", "share (%)"),
    )
    lines = {str(line.get_label()): line for line in axes.lines}
    assert list(lines) == ["chance", "untrained", "after SFT", "after RL"]
    assert np.asarray(lines["after SFT"].get_xdata()).tolist() == pytest.approx([0.03, 0.175])
    assert np.asarray(lines["after SFT"].get_ydata()).tolist() == pytest.approx([90, 70])
    looks = {(line.get_color(), line.get_marker()) for line in axes.lines[1:]}
    assert all(len({look[place] for look in looks}) == 3 for place in range(2))
    assert "after SFT 90.0 % at 0.030 nats, 70.0 % at 0.175;" in figure.alt
    without = entropy_figure(with_judge(results, "untrained", without_verdict=1.0))
    assert without is not None
    assert [line.get_label() for line in without.drawing.axes[0].lines] == ["chance", "after SFT", "after RL"]


def test_training_pairs_have_a_line_for_wrong_labels_where_they_are_known(results: JudgeResults) -> None:
    known = {"verdict agrees with the label": [95, 61], "label is wrong": [5, 30]}
    unknown = with_curation(results, bins=bins((0.01, 0.06, 0.2), (0.95, 0.61)))
    for one, shown in ((results, known), (unknown, {"verdict agrees with the label": [95, 61]})):
        figure = entropy_figure(one)
        assert figure is not None
        axes = figure.drawing.axes[1]
        assert axes.get_title(loc="left") == "Training pairs, after SFT"
        assert {line.get_label(): pytest.approx(line.get_ydata()) for line in axes.lines} == shown
    assert entropy_figure(replace(results, judges={}, curation=None)) is None


def test_the_page_has_what_was_run_and_its_figures_are_files(results: JudgeResults, tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", with_curation(results, bins=()))
    (tmp_path / "rl").mkdir()
    lines = [json.dumps({"step": step, "train/reward": step / 10}) + "\n" for step in range(1, 6)]
    (tmp_path / "rl" / "metrics.jsonl").write_text("".join(lines))
    page = write_judge(tmp_path)
    assert page == tmp_path / "report.html"
    html = page.read_text()
    for text in (
        *("Verdicts", headline(results), "The judge by stage", "Curation", "missing_image_file"),
        *('<section id="accuracy_by_entropy">', '<section id="rl_curves">', "chartworld/&lt;pairs&gt;.jsonl"),
    ):
        assert text in html
    assert len(re.findall('role="img" aria-label="[^"]{50,}"', html)) == html.count("<svg ") == 2
    assert not re.search(r"<pairs>|\[nan|None", html)
    figures = {f"{name}.{kind}" for name in ("accuracy_by_entropy", "rl_curves") for kind in ("svg", "png")}
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "rl", "report.html"} | figures


def test_what_was_not_run_is_not_on_the_page(results: JudgeResults) -> None:
    nothing: Mapping[str, Any] = {"judges": {}, "differences": {}, "training": {}, "curation": None}
    curated = with_curation(results, bins=(), flipped=None, entropy={}).curation
    for known, title in (({}, None), ({"curation": curated}, "Curation"), ({"training": results.training}, "Training")):
        part = replace(results, **{**nothing, **known})
        report = judge_report(Path("nowhere"), part)
        assert report.figures == []
        shown = [one.title for one in report.shown if isinstance(one, Table)]
        assert set(shown) == {"Left out", *([title] if title else [])}
        assert ("No judge has been measured" in report.lead) == ("curation" not in known)
        buffer = io.StringIO()
        print_judge(part, Console(file=buffer, width=100))
        assert headline(part) in buffer.getvalue().replace("\n", " ")


def test_another_folder_is_refused(tmp_path: Path) -> None:
    for content in (None, '{"auc": 0.9}'):
        if content is not None:
            (tmp_path / "results.json").write_text(content)
        with pytest.raises(ValueError, match=r"results\.json can ?not be read") as raised:
            write_judge(tmp_path)
        assert "\n" not in str(raised.value)


def test_the_terminal_has_a_column_per_stage(results: JudgeResults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    buffer = io.StringIO()
    print_judge(results, Console(file=buffer, width=100))
    shown = buffer.getvalue().splitlines()
    assert max(map(len, shown)) <= 100
    assert any(re.match(r"minus before +- +\+30\.0 \[28\.0, 32\.0\] +\+4\.0 \[2\.0, 6\.0\]", line) for line in shown)
    assert "RL changes this by +4.0 [2.0, 6.0] points greedily: better than before." in shown


def test_the_card_of_an_exported_judge_has_every_stage(results: JudgeResults, tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", results)
    write_json(tmp_path / "stages.json", {"stages": {"sft": {"optimizer_steps": 300}, "curate": {}}})
    card = model_card(tmp_path, {"backbone": {"path": "weights"}, "judge": {}, "preferences": {}}, None, {}, "", True)
    assert "- llm-as-a-judge\n" in card
    assert "| training (sft) | 300 optimizer steps |\n" in card
    for stage, one in results.judges.items():
        assert f"| accuracy (%), {stage} | {one.accuracy.points()} |" in card
