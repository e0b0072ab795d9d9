"""The page of task=rerank (best_of_n.py), its tables (choice_tables.py) and figures (choice_figures.py)."""

import io
import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mprm.reporting.best_of_n import print_best_of_n, write_best_of_n
from mprm.reporting.choice_figures import adaptive_exhibit, curves_exhibit, looks, sources_exhibit
from mprm.reporting.choice_tables import (
    METHODS,
    adaptive_table,
    between_table,
    headline,
    left_out_table,
    methods_table,
    points,
    ranked,
    relation,
    sentences,
)

Results = dict[str, Any]


def number(value: float, spread: float = 0.02) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread}


def method(last: float, first: float = 0.5, n: int = 4) -> dict[str, Any]:
    """Accuracy in a straight line from one candidate to n; the policy has 0.5 and its majority 0.6 with all."""
    accuracy = [first + (last - first) * place / max(n - 1, 1) for place in range(n - 1)] + [last]
    interval = [[value - 0.03, value + 0.03] for value in accuracy]
    differences = {"minus_pass@1": number(last - 0.5), "minus_majority": number(last - 0.6)}
    return {"accuracy": accuracy, "interval": interval, **differences}


def without_differences(curve: dict[str, Any]) -> dict[str, Any]:
    return {key: curve[key] for key in ("accuracy", "interval")}


def model(mean: float, n: int) -> dict[str, Any]:
    return {name: method(mean - 0.01 * place, n=n) for place, name in enumerate(METHODS)} | {"ties": 7}


def benchmark(models: dict[str, float], questions: int, n: int = 4) -> dict[str, Any]:
    names = list(models)
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    return {
        "questions": questions,
        "policy": {
            "pass@1": without_differences(method(0.5, n=n)),
            "majority": without_differences(method(0.6, n=n)),
            "pass@N": method(0.9, n=n),
        },
        "models": {name: model(mean, n) for name, mean in models.items()},
        "between": [{"a": a, "b": b, **number(models[a] - models[b])} for a, b in pairs],
    }


def sure(tokens: bool = True) -> Results:
    """Adaptive: half of the cost of all 16, half a point worse."""

    def way(accuracy: float, candidates: float) -> dict[str, Any]:
        cost = {"candidates": number(candidates, 0.5), "tokens": number(40 * candidates, 9) if tokens else None}
        return {"accuracy": number(accuracy), **cost}

    return {
        "questions": 200,
        "limit": 16,
        "adaptive": way(0.695, 8.0),
        "all": way(0.7, 16.0),
        "all_mean": way(0.69, 16.0),
        "saved": {"candidates": number(0.5), "tokens": number(0.5) if tokens else None},
        "minus_all": number(-0.005),
        "minus_all_mean": number(0.005),
        "fixed": [{"n": n, **way(0.6 + n / 200, n)} for n in (4, 8, 12)],
    }


@pytest.fixture
def results() -> Results:
    """Two models on two sources: "bis" beats the majority by ten points, "random" by one, which says nothing."""
    return {
        "aggregate": "mean",
        "n_max": 4,
        "questions": 200,
        "seed": 0,
        "candidates_file": "candidates.jsonl",
        "unusable": {"bad_candidate": 3},
        "unscored": {"bis": {"too_long": 2}, "random": {}},
        "benchmarks": {
            "charts": benchmark({"random": 0.6, "bis": 0.72}, 120),
            "pies": benchmark({"random": 0.63, "bis": 0.68}, 80),
            "all": benchmark({"random": 0.61, "bis": 0.7}, 200),
        },
        "adaptive": {"bis": sure()},
    }


def alone(results: Results, n: int = 4) -> Results:
    """One model on one source, without kappa."""
    report = benchmark({"bis": 0.7}, 200, n)
    return results | {"n_max": n, "benchmarks": {"charts": report, "all": report}, "adaptive": {}, "unscored": {}}


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.01, 0.05, "better than"), (-0.05, -0.01, "worse than"), (-0.01, 0.05, "not distinguishable from")],
)
def test_a_difference_is_one_only_where_the_interval_leaves_out_nothing(low: float, high: float, words: str) -> None:
    assert relation({"value": 0.03, "low": low, "high": high}) == words


def test_differences_are_points_with_a_sign() -> None:
    assert points({"value": 0.031, "low": 0.012, "high": 0.05}) == "+3.1 [1.2, 5.0]"
    assert points({"value": -0.004, "low": -0.02, "high": 0.012}) == "-0.4 [-2.0, 1.2]"
    assert points(None) == "-"


def test_the_headline_has_the_policy_and_the_best_model(results: Results) -> None:
    assert headline(results) == (
        "200 questions with 4 candidates. One candidate at random is right for 50.0 [47.0, 53.0] % of them, the "
        "majority vote for 60.0 [57.0, 63.0], at least one candidate for 90.0 [87.0, 93.0]. Best-of-4 by the chosen "
        "rule, mean, reaches 70.0 [67.0, 73.0] with bis; no rule measured is better."
    )


@pytest.mark.parametrize(
    ("model", "name", "words"),
    [
        ("random", "min", "random, min, 80.0 [77.0, 83.0] %, is better than majority vote: +20.0 [18.0, 22.0] points;"),
        ("bis", "weighted_majority", "bis, weighted majority, 80.0 [77.0, 83.0] %, is better than majority vote:"),
        (None, "majority", "majority vote, 80.0 [77.0, 83.0] %."),
    ],
)
def test_the_best_rule_measured_is_named(results: Results, model: str | None, name: str, words: str) -> None:
    report = results["benchmarks"]["all"]
    if model:
        report["models"][model][name] = method(0.8)
    else:
        report["policy"][name] = without_differences(method(0.8))
    rule = words.partition(", 80.0")[0]
    assert "by the chosen rule, mean, reaches 70.0 [67.0, 73.0] with bis;" in headline(results)
    assert headline(results).endswith(f"the best rule measured is {rule}, 80.0 [77.0, 83.0].")
    (said,) = (line for line in sentences(results) if line.startswith("The best of 13 rules measured"))
    assert words in said
    short = methods_table(results, short=True)
    assert rule in [row[0] for row in short.rows]
    assert short.main == "bis, mean", "the chosen one"


def test_sentences_say_what_is_real(results: Results) -> None:
    said = sentences(results)
    assert said[0] == (
        "bis, mean, 70.0 [67.0, 73.0] %, is better than majority vote: +10.0 [8.0, 12.0] points; better than one "
        "candidate at random: +20.0 [18.0, 22.0] points. Chosen as the best of 2 models on these very questions, so "
        "they flatter it."
    )
    assert said[1].startswith("random, mean, 61.0 [58.0, 64.0] %, is not distinguishable from majority vote: +1.0")
    # The file has random minus bis.
    assert said[2] == "bis is better than the second, random: +9.0 [7.0, 11.0] points."
    assert said[3] == (
        "Adaptive best-of-16 with bis saves 50.0 [48.0, 52.0] % of the tokens; its accuracy is not distinguishable "
        "from that of drawing all: -0.5 [-2.5, 1.5] points."
    )
    assert len(said) == 4


def test_one_model_is_not_said_to_be_chosen(results: Results) -> None:
    (said,) = sentences(alone(results))
    assert "Chosen" not in said
    assert between_table(alone(results)) is None


def test_every_method_is_a_row_of_its_benchmark(results: Results) -> None:
    table = methods_table(results, "pies")
    assert table.title == "Best of 4: pies (80 questions)"
    assert len(table.rows) == 3 + 2 * len(METHODS)
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["majority vote"] == ("60.0 [57.0, 63.0]", "-", "-", "-")
    assert rows["bis, mean"] == ("68.0 [65.0, 71.0]", "+18.0 [16.0, 20.0]", "+8.0 [6.0, 10.0]", "7")
    assert rows["bis, min"][-1] == "-", "ties are those of the aggregate that the file names"
    assert table.main == "bis, mean"


def test_models_are_compared_in_pairs(results: Results) -> None:
    table = between_table(results)
    assert table is not None
    assert table.rows == (("random", "bis", "worse", "-9.0 [-11.0, -7.0]"),)


def test_the_cost_of_adaptive_sampling_is_a_share_of_all(results: Results) -> None:
    table = adaptive_table(results)
    assert table is not None
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["bis: adaptive"] == ("69.5 [67.5, 71.5]", "8.0 (50 %)", "320.0 (50 %)", "-0.5 [-2.5, 1.5]")
    assert rows["bis: always 4"][1:3] == ("4.0 (25 %)", "160.0 (25 %)")
    assert rows["bis: all"][1:] == ("16.0 (100 %)", "640.0 (100 %)", "-")
    assert adaptive_table(alone(results)) is None


def test_without_tokens_candidates_are_counted(results: Results) -> None:
    counted = results | {"adaptive": {"bis": sure(tokens=False)}}
    assert "50.0 [48.0, 52.0] % of the candidates" in sentences(counted)[-1]
    table, exhibit = adaptive_table(counted), adaptive_exhibit(counted)
    assert table is not None
    assert exhibit is not None
    assert table.rows[0][2:4] == ("8.0 (50 %)", "-")
    assert exhibit.figure.axes[0].get_xlabel() == "candidates drawn (% of all)"


def test_what_was_left_out_is_counted(results: Results) -> None:
    table = left_out_table(results)
    assert table is not None
    assert table.rows == (("questions", "bad_candidate", "3"), ("candidates for bis", "too_long", "2"))
    assert left_out_table(results | {"unusable": {}, "unscored": {"bis": {}}}) is None


def test_the_curves_run_over_the_number_of_candidates(results: Results) -> None:
    axes = curves_exhibit(results).figure.axes[0]
    assert (axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()) == (
        "Best-of-N (200 questions)",
        "candidates of a question",
        "accuracy (%)",
    )
    lines = {str(line.get_label()): line for line in axes.lines}
    assert list(lines) == [
        "pass@N, the ceiling",
        "bis, mean",
        "random, mean",
        "majority vote",
        "pass@1, one candidate",
    ]
    assert np.asarray(lines["bis, mean"].get_ydata()).tolist() == pytest.approx([50, 50 + 20 / 3, 50 + 40 / 3, 70])
    assert axes.get_xticks().tolist() == [1, 2, 4]
    assert len(axes.collections) == 3, "bands of two models and of the majority vote"


@pytest.mark.parametrize(("n", "ticks"), [(1, [1]), (5, [1, 2, 5]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])])
def test_ticks_are_powers_of_two_and_all(results: Results, n: int, ticks: list[int]) -> None:
    axes = curves_exhibit(alone(results, n)).figure.axes[0]
    assert axes.get_xticks().tolist() == ticks


def test_many_models_are_told_apart_and_only_the_best_has_a_band(results: Results) -> None:
    models = {f"m{place}": 0.7 - 0.01 * place for place in range(12)}
    many = results | {"benchmarks": {"all": benchmark(models, 200)}, "adaptive": {}}
    drawn = looks(many)
    assert list(drawn) == ranked(many) == list(models)
    assert len({(look["color"], look["marker"], look["ls"]) for look in drawn.values()}) == 12
    assert len({(look["marker"], look["ls"]) for look in drawn.values()}) == 12, "not by colour alone"
    exhibit = curves_exhibit(many)
    assert len(exhibit.figure.axes[0].collections) == 2
    assert "of the best model alone" in exhibit.caption


def test_the_text_alternative_says_the_numbers(results: Results) -> None:
    says = curves_exhibit(results).says
    assert "majority: 50.0 at 1, 53.3 at 2, 60.0 at 4." in says
    assert "bis: 50.0 at 1, 56.7 at 2, 70.0 at 4." in says
    exhibit = adaptive_exhibit(results)
    assert exhibit is not None
    assert exhibit.says == (
        "bis: adaptive 69.5 % for 50 % of the tokens, always 4 62.0 % for 25 % of the tokens, "
        "always 8 64.0 % for 50 % of the tokens, always 12 66.0 % for 75 % of the tokens."
    )


def test_a_source_has_a_panel_where_there_are_several(results: Results) -> None:
    exhibit = sources_exhibit(results)
    assert exhibit is not None
    titles = [axes.get_title(loc="left") for axes in exhibit.figure.axes]
    assert titles == ["charts (120 questions)", "pies (80 questions)"]
    assert sources_exhibit(alone(results)) is None


@pytest.mark.parametrize(("n_sources", "across"), [(3, [3]), (4, [2, 2]), (5, [3, 2]), (7, [3, 3, 1])])
def test_the_panels_leave_no_hole(results: Results, n_sources: int, across: list[int]) -> None:
    found = {f"s{place}": results["benchmarks"]["pies"] for place in range(n_sources)}
    exhibit = sources_exhibit(results | {"benchmarks": {**found, "all": results["benchmarks"]["all"]}})
    assert exhibit is not None
    spans = [axes.get_subplotspec() for axes in exhibit.figure.axes]
    rows = [[span for span in spans if span and span.rowspan.start == row] for row in range(len(across))]
    assert [len(row) for row in rows] == across
    for row in rows:  # in the middle: as much room on the left as on the right
        assert row[0].colspan.start == row[0].get_gridspec().ncols - row[-1].colspan.stop


def test_the_page_is_whole_and_needs_nothing_from_outside(results: Results, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results))
    page = write_best_of_n(tmp_path)
    assert page == tmp_path / "report.html"
    html = page.read_text()
    for text in (headline(results), "Verdicts", "Best of 4: pies", "Adaptive best-of-N", "bad_candidate", "aria-label"):
        assert text in html
    assert not re.search(r'<script|src=|href="http|@import|\[nan', html)
    written = {path.name for path in tmp_path.iterdir()}
    figures = {f"{name}.{kind}" for name in ("best_of_n", "best_of_n_sources", "adaptive") for kind in ("svg", "png")}
    assert written == {"results.json", "report.html"} | figures


def test_the_same_results_give_the_same_files(results: Results, tmp_path: Path) -> None:
    written = []
    for name in ("a/same", "b/same"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(results))
        write_best_of_n(folder)
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]


def test_names_of_models_are_no_markup(results: Results, tmp_path: Path) -> None:
    odd = deepcopy(alone(results))
    for report in odd["benchmarks"].values():
        report["models"] = {"<b>&[red]": next(iter(report["models"].values()))}
    (tmp_path / "results.json").write_text(json.dumps(odd))
    html = write_best_of_n(tmp_path).read_text()
    assert "<b>" not in html
    assert "&lt;b&gt;&amp;[red]" in html


@pytest.mark.parametrize("content", [None, {"auc": 0.9}])
def test_another_folder_is_refused(content: Results | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"results\.json is not there or not of task=rerank; run") as raised:
        write_best_of_n(tmp_path)
    assert "\n" not in str(raised.value)


def test_the_terminal_has_a_row_per_way_to_choose(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    buffer = io.StringIO()
    print_best_of_n(results, Console(file=buffer, width=100))
    shown = buffer.getvalue()
    for text in (
        "majority vote",
        "bis, mean",
        "70.0 [67.0, 73.0]",
        "random, weighted majority",
        "better than majority",
    ):
        assert text in shown
    assert "bis, product" not in shown
    assert max(map(len, shown.splitlines())) <= 100
