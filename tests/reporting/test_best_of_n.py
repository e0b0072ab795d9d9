"""The report of best-of-N (best_of_n.py)."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mprm.metrics.best_of_n_results import AdaptiveResults, BestOfNBenchmark, BestOfNResults, Between, Draws, Method
from mprm.metrics.results import Estimate, write_results
from mprm.reporting.best_of_n import (
    METHODS,
    adaptive_figure,
    best_of_n_report,
    curves_figure,
    headline,
    methods_table,
    print_best_of_n,
    sentences,
    write_best_of_n,
)
from mprm.reporting.report import Table, html


def number(value: float, spread: float = 0.02) -> Estimate:
    return Estimate(value, value - spread, value + spread)


def method(last: float, first: float = 0.5, n: int = 4, minus: bool = True) -> Method:
    """Accuracy in a straight line from one candidate to n; the policy has 0.5 and its majority 0.6 with all."""
    accuracy = [first + (last - first) * place / max(n - 1, 1) for place in range(n - 1)] + [last]
    differences = {"pass@1": number(last - 0.5), "majority": number(last - 0.6)} if minus else {}
    return Method(accuracy=tuple(number(value, 0.03) for value in accuracy), minus=differences)


def benchmark(models: dict[str, float], questions: int, n: int = 4) -> BestOfNBenchmark:
    names = list(models)
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    return BestOfNBenchmark(
        questions=questions,
        policy={
            "pass@1": method(0.5, n=n, minus=False),
            "majority": method(0.6, n=n, minus=False),
            "pass@N": method(0.9, n=n),
        },
        models={
            name: {one: method(mean - 0.01 * place, n=n) for place, one in enumerate(METHODS)}
            for name, mean in models.items()
        },
        ties=dict.fromkeys(models, 7),
        between=tuple(Between(a=a, b=b, difference=number(models[a] - models[b])) for a, b in pairs),
    )


def sure(tokens: bool = True) -> AdaptiveResults:
    """Adaptive: half of the cost of all 16, half a point worse."""

    def way(accuracy: float, candidates: float) -> Draws:
        counted = number(40 * candidates, 9) if tokens else None
        return Draws(accuracy=number(accuracy), candidates=number(candidates, 0.5), tokens=counted)

    return AdaptiveResults(
        orders=8,
        limit=16,
        adaptive=way(0.695, 8.0),
        all=way(0.7, 16.0),
        all_mean=way(0.69, 16.0),
        saved={kind: number(0.5) for kind in ("candidates", *(["tokens"] if tokens else []))},
        minus_all=number(-0.005),
        minus_all_mean=number(0.005),
        fixed={n: way(0.6 + n / 200, n) for n in (4, 8, 12)},
    )


@pytest.fixture
def results() -> BestOfNResults:
    """Two models on two sources: "bis" beats the majority by ten points, "random" by one, which says nothing."""
    return BestOfNResults(
        aggregate="mean",
        n_max=4,
        questions=200,
        seed=0,
        candidates_file="candidates.jsonl",
        unusable={"bad_candidate": 3},
        unscored={"bis": {"too_long": 2}, "random": {}},
        benchmarks={
            "charts": benchmark({"random": 0.6, "bis": 0.72}, 120),
            "pies": benchmark({"random": 0.63, "bis": 0.68}, 80),
            "all": benchmark({"random": 0.61, "bis": 0.7}, 200),
        },
        adaptive={"bis": sure()},
    )


def alone(results: BestOfNResults, n: int = 4, model: str = "bis") -> BestOfNResults:
    """One model on one source, without kappa."""
    found = benchmark({model: 0.7}, 200, n)
    return replace(results, n_max=n, benchmarks={"charts": found, "all": found}, adaptive={}, unscored={})


def titles(results: BestOfNResults) -> list[str]:
    return [one.title for one in best_of_n_report(Path("x"), results).shown if isinstance(one, Table)]


def test_the_headline_has_the_policy_and_the_best_model(results: BestOfNResults) -> None:
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
def test_the_best_rule_measured_is_named(results: BestOfNResults, model: str | None, name: str, words: str) -> None:
    of_all = results.benchmarks["all"]
    if model:
        of_all.models[model][name] = method(0.8)
    else:
        of_all.policy[name] = method(0.8, minus=False)
    rule = words.partition(", 80.0")[0]
    assert "by the chosen rule, mean, reaches 70.0 [67.0, 73.0] with bis;" in headline(results)
    assert headline(results).endswith(f"the best rule measured is {rule}, 80.0 [77.0, 83.0].")
    (said,) = (line for line in sentences(results) if line.startswith("The best of 13 rules measured"))
    assert words in said
    short = methods_table(results, short=True)
    assert rule in [row[0] for row in short.rows]
    assert short.main == "bis, mean", "the chosen one"


def test_sentences_say_what_is_real(results: BestOfNResults) -> None:
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
    (only,) = sentences(alone(results))
    assert "Chosen" not in only


def test_every_method_is_a_row_of_its_benchmark(results: BestOfNResults) -> None:
    table = methods_table(results, "pies")
    assert table.title == "Best of 4: pies (80 questions)"
    assert len(table.rows) == 3 + 2 * len(METHODS)
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["majority vote"] == ("60.0 [57.0, 63.0]", "-", "-", "-")
    assert rows["bis, mean"] == ("68.0 [65.0, 71.0]", "+18.0 [16.0, 20.0]", "+8.0 [6.0, 10.0]", "7")
    assert rows["bis, min"][-1] == "-", "ties are those of the aggregate that the file names"
    assert table.main == "bis, mean"


def test_the_page_has_the_tables_that_say_something(results: BestOfNResults) -> None:
    by_source = ["Best of 4: charts (120 questions)", "Best of 4: pies (80 questions)"]
    assert titles(results) == [
        "Best of 4: all questions (200 questions)",
        *by_source,
        "Not used or not scored",
    ]
    assert titles(replace(alone(results), unusable={})) == ["Best of 4: all questions (200 questions)"]
    last = [one for one in best_of_n_report(Path("x"), results).shown if isinstance(one, Table)][-1]
    assert last.rows == (("questions", "bad_candidate", "3"), ("candidates for bis", "too_long", "2"))


def test_adaptive_sampling_costs_a_share_of_all(results: BestOfNResults) -> None:
    figure = adaptive_figure(results)
    assert figure.alt == "Adaptive sampling with bis: 69.5 % right for 50 % of the tokens."
    lines = {str(line.get_label()): line for line in figure.drawing.axes[0].lines}
    assert np.asarray(lines["bis, always n"].get_xydata()).ravel() == pytest.approx([25, 62, 50, 64, 75, 66])
    counted = replace(results, adaptive={"bis": sure(tokens=False)})
    assert "50.0 [48.0, 52.0] % of the candidates" in sentences(counted)[-1]
    assert adaptive_figure(counted).drawing.axes[0].get_xlabel() == "candidates drawn (% of all)"


def test_the_curves_run_over_the_number_of_candidates(results: BestOfNResults) -> None:
    figure = curves_figure(results)
    (axes,) = figure.drawing.axes
    assert (axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()) == (
        "Best-of-N (200 questions)",
        "candidates of a question",
        "accuracy (%)",
    )
    lines = {str(line.get_label()): line for line in axes.lines}
    models = ["bis, mean", "random, mean"]
    assert list(lines) == ["pass@N, the ceiling", *models, "majority vote", "pass@1, one candidate"]
    assert np.asarray(lines["bis, mean"].get_ydata()).tolist() == pytest.approx([50, 50 + 20 / 3, 50 + 40 / 3, 70])
    assert axes.get_xticks().tolist() == [1, 2, 4]
    assert len(axes.collections) == 3, "bands of two models and of the majority vote"
    assert figure.alt.endswith("with all 4: pass@1 50.0, majority 60.0, pass@N 90.0, bis 70.0, random 61.0.")


def test_ticks_are_powers_of_two_and_all(results: BestOfNResults) -> None:
    for n, ticks in ((1, [1]), (5, [1, 2, 5]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])):
        axes = curves_figure(alone(results, n)).drawing.axes[0]
        assert axes.get_xticks().tolist() == ticks


def test_many_models_are_told_apart_and_only_the_best_has_a_band(results: BestOfNResults) -> None:
    models = {f"m{place}": 0.7 - 0.01 * place for place in range(12)}
    figure = curves_figure(replace(results, benchmarks={"all": benchmark(models, 200)}, adaptive={}))
    (axes,) = figure.drawing.axes
    lines = [line for line in axes.lines if str(line.get_label()).startswith("m") and line.get_marker() != "None"]
    assert [str(line.get_label()).partition(",")[0] for line in lines] == list(models)
    assert len({(line.get_marker(), str(line.get_linestyle())) for line in lines}) == 12, "not by colour alone"
    assert len(axes.collections) == 2
    assert "of the best model alone" in figure.caption


def test_the_page_and_its_figures_are_files_that_depend_on_the_results_alone(
    results: BestOfNResults, tmp_path: Path
) -> None:
    written = []
    for name in ("a/same", "b/same"):
        (tmp_path / name).mkdir(parents=True)
        write_results(tmp_path / name / "results.json", results)
        assert write_best_of_n(tmp_path / name) == tmp_path / name / "report.html"
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1]
    figures = {f"{name}.{kind}" for name in ("best_of_n", "adaptive") for kind in ("svg", "png")}
    assert set(written[0]) == {"results.json", "report.html"} | figures
    page = written[0]["report.html"].decode()
    for text in (headline(results), "Verdicts", "Best of 4: pies", "Adaptive best-of-N", "bad_candidate", "aria-label"):
        assert text in page


def test_names_of_models_are_no_markup(results: BestOfNResults) -> None:
    page = html(best_of_n_report(Path("x"), alone(results, model="<b>&[red]")))
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;[red]" in page


def test_another_folder_is_refused(tmp_path: Path) -> None:
    for content in (None, {"auc": 0.9}):
        if content is not None:
            (tmp_path / "results.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"results\.json can ?not be read") as raised:
            write_best_of_n(tmp_path)
        assert "\n" not in str(raised.value)


def test_the_terminal_has_a_row_per_way_to_choose(results: BestOfNResults, monkeypatch: pytest.MonkeyPatch) -> None:
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
