"""The report of best-of-N: what reward models choose, beside the policy alone, its votes and adaptive sampling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter
from rich.console import Console

from mprm.metrics.best_of_n_results import AdaptiveResults, BestOfNResults, Draws, Method
from mprm.metrics.results import read_results
from mprm.reporting.plots import percents
from mprm.reporting.report import (
    Figure,
    Report,
    Table,
    Text,
    counts_table,
    print_report,
    write_figures,
    write_page,
)
from mprm.reporting.style import CARD, GREY, INK, legend_below, looks, name_axes, panels

ALL = "all"
POLICY = {"pass@1": "pass@1: one candidate", "majority": "majority vote", "pass@N": "pass@N: the ceiling"}
WEIGHTED = "weighted_majority"
METHODS = {name: name for name in ("mean", "min", "product", "last")}
METHODS |= {"sum_logits": "sum of log odds", WEIGHTED: "weighted majority"}
SHADED = 4  # intervals of more models would hide each other: then the best one's alone
METHODS_NOTE = (
    "Right choices among all candidates of a question, in percent, and differences in points. Brackets: 95 % bootstrap "
    "over questions, the same ones for both sides of a difference. pass@1: the mean over the candidates. pass@N: at "
    "least one is right, which nobody can choose by. A model chooses the candidate with the highest aggregate of its "
    "step scores; weighted majority: every candidate votes with its mean score. Ties: questions whose best score "
    "several candidates share; each is then as likely chosen. Bold: the chosen rule of the best model."
)


def write_best_of_n(folder: Path) -> Path:
    """Write report.html of folder/results.json, and its figures as .svg and .png beside it; return the page's path.

    Raises ValueError when there is no results.json of task=rerank in the folder.
    """
    report = best_of_n_report(folder, read_results(folder / "results.json", BestOfNResults))
    write_figures(report, folder)
    return write_page(report, folder / "report.html")


def print_best_of_n(results: BestOfNResults, console: Console) -> None:
    """Print every model's choice with all candidates beside the policy's, and what can be said of them."""
    print_report(Report("", "", [methods_table(results, short=True), Text("", sentences(results), "list")]), console)


def best_of_n_report(folder: Path, results: BestOfNResults) -> Report:
    """The page of the choices that lie in the folder."""
    sources = [name for name in results.benchmarks if name != ALL]  # one alone is the same as all
    by_source = [methods_table(results, name) for name in sources] if len(sources) > 1 else []
    note = "Questions were left out; candidates without a score stay in: they rank last and do not vote."
    sections = [
        Text("Verdicts", sentences(results), "list"),
        curves_figure(results),
        adaptive_figure(results) if results.adaptive else None,
        methods_table(results),
        *by_source,
        counts_table("Not used or not scored", left_out(results), note),
    ]
    return Report(f"mprm best-of-N {folder.resolve().name}", headline(results), sections, wide=True)


def left_out(results: BestOfNResults) -> dict[str, Mapping[str, int]]:
    """By reason: questions, and of every model the candidates without a score."""
    unscored = {f"candidates for {model}": reasons for model, reasons in results.unscored.items()}
    return {"questions": results.unusable, **unscored}


# ---- in words


def ranked(results: BestOfNResults, benchmark: str = ALL) -> list[str]:
    """The models, the highest accuracy by the chosen aggregate first."""
    models = results.benchmarks[benchmark].models
    return sorted(models, key=lambda model: -models[model][results.aggregate].accuracy[-1].value)


def best_rule(results: BestOfNResults) -> tuple[str, Method]:
    """The rule of highest accuracy over all questions, of all that were measured; of equal ones the chosen one."""
    of_all, names = results.benchmarks[ALL], dict.fromkeys((results.aggregate, *METHODS))
    rules = {_named(model, name): of_all.models[model][name] for name in names for model in ranked(results)}
    rules[POLICY["majority"]] = of_all.policy["majority"]
    return max(rules.items(), key=lambda rule: rule[1].accuracy[-1].value)


def _named(model: str, method: str) -> str:
    return f"{model}, {METHODS.get(method, method)}"


def headline(results: BestOfNResults) -> str:
    """How many questions there were, and how well the policy does, the best model, and the best rule measured."""
    of_all, n = results.benchmarks[ALL], results.n_max
    one, votes, ceiling = (of_all.policy[name].accuracy[-1].points() for name in POLICY)
    text = (
        f"{results.questions:,} questions with {n} candidates. One candidate at random is right for {one} % of them, "
        f"the majority vote for {votes}, at least one candidate for {ceiling}."
    )
    for model in ranked(results)[:1]:
        chosen = of_all.models[model][results.aggregate].accuracy[-1].points()
        words = METHODS.get(results.aggregate, results.aggregate)
        rule, best = best_rule(results)
        better = f"the best rule measured is {rule}, {best.accuracy[-1].points()}."
        text += f" Best-of-{n} by the chosen rule, {words}, reaches {chosen} with {model}; "
        text += "no rule measured is better." if rule == _named(model, results.aggregate) else better
    return text


def sentences(results: BestOfNResults) -> list[str]:
    """What can be said of every model, the best one first, and of adaptive sampling."""
    of_all, models = results.benchmarks[ALL], ranked(results)
    chosen = {model: _named(model, results.aggregate) for model in models}
    said = [_against_policy(name, of_all.models[model][results.aggregate]) for model, name in chosen.items()]
    if len(models) > 1:
        said[0] += f" Chosen as the best of {len(models)} models on these very questions, so they flatter it."
        first, second = models[:2]
        (pair,) = (pair for pair in of_all.between if {pair.a, pair.b} == {first, second})
        difference = pair.difference if pair.a == first else pair.difference.negative()
        said.append(f"{first} is {difference.relation()} the second, {second}: {difference.signed_points()} points.")
    rule, best = best_rule(results)
    if models and rule != chosen[models[0]]:
        words = _against_policy(rule, best) if best.minus else f"{rule}, {best.accuracy[-1].points()} %."
        n_rules = len(models) * len(METHODS) + 1
        said.append(f"The best of {n_rules} rules measured, on these very questions, which flatter it: {words}")
    for model, found in results.adaptive.items():
        kind = unit(found)
        said.append(
            f"Adaptive best-of-{found.limit} with {model} saves {found.saved[kind].points()} % of the {kind}; its "
            f"accuracy is {found.minus_all.relation()} that of drawing all: {found.minus_all.signed_points()} points."
        )
    return said


def _against_policy(name: str, method: Method) -> str:
    parts = [
        f"{method.minus[key].relation()} {words}: {method.minus[key].signed_points()} points"
        for key, words in (("majority", "majority vote"), ("pass@1", "one candidate at random"))
    ]
    return f"{name}, {method.accuracy[-1].points()} %, is {'; '.join(parts)}."


def unit(found: AdaptiveResults) -> str:
    """What the cost of adaptive sampling is counted in: tokens where every candidate says how many it has."""
    return "tokens" if "tokens" in found.saved else "candidates"


# ---- in tables


def methods_table(results: BestOfNResults, benchmark: str = ALL, short: bool = False) -> Table:
    """Every method with all candidates; `short`: of a model the chosen aggregate, the weighted vote, the best rule."""
    found, models, best = results.benchmarks[benchmark], ranked(results, benchmark), best_rule(results)[0]
    methods = [(words, found.policy[name], "-") for name, words in POLICY.items()]
    for model in models:
        for name in METHODS:
            if not short or name in (results.aggregate, WEIGHTED) or _named(model, name) == best:
                ties = f"{found.ties[model]:,}" if name == results.aggregate else "-"
                methods.append((_named(model, name), found.models[model][name], ties))
    rows = []
    for words, method, ties in methods:
        minus = [method.minus.get(other) for other in ("pass@1", "majority")]
        differences = [one.signed_points() if one else "-" for one in minus]
        rows.append((words, method.accuracy[-1].points(), *differences, ties))
    where = "all questions" if benchmark == ALL else benchmark
    title = f"Best of {results.n_max}: {where} ({found.questions:,} questions)"
    columns = ("method", "accuracy (%)", "minus pass@1", "minus majority", "ties")
    return Table(title, columns, tuple(rows), METHODS_NOTE, _named(models[0], results.aggregate) if models else "")


# ---- in figures


def curves_figure(results: BestOfNResults) -> Figure:
    """Accuracy against the number of candidates, over all questions."""
    found, models, n_max = results.benchmarks[ALL], ranked(results), results.n_max
    places = [*(2**power for power in range(n_max.bit_length()) if 1.3 * 2**power < n_max), n_max]  # ticks with room
    stress: dict[str, Any] = {"markevery": [n - 1 for n in places], "ms": 7, "mec": CARD, "lw": 1.8}
    with panels(8.4, 5.2) as (figure, (axes,)):
        title = f"Best-of-N ({found.questions:,} questions)"
        name_axes(axes, title, "candidates of a question", "accuracy (%)")
        _line(axes, found.policy["pass@N"], "pass@N, the ceiling", band=False, color=INK, ls=(0, (8, 4)), lw=1.2)
        for place, (model, look) in enumerate(looks({model: model for model in models}).items()):
            band, method = place == 0 or len(models) <= SHADED, found.models[model][results.aggregate]
            _line(axes, method, _named(model, results.aggregate), band=band, **look, **stress)
        _line(axes, found.policy["majority"], "majority vote", band=True, color=INK, ls="-.", lw=1.6)
        _line(axes, found.policy["pass@1"], "pass@1, one candidate", band=False, color=GREY, ls=":", lw=1.8)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(places))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter())
        legend_below(figure)
    lines = found.policy | {model: found.models[model][results.aggregate] for model in models}
    told = [f"{name} {100 * line.accuracy[-1].value:.1f}" for name, line in lines.items()]
    return Figure(
        "best_of_n",
        "Accuracy against the number of candidates",
        figure,
        "Mean over all subsets of n candidates, exact but for votes (256 random orders). Bands: 95 % bootstrap "
        "over questions" + (", of the best model alone." if len(models) > SHADED else "."),
        f"Accuracy against the number of candidates; in percent with all {n_max}: {', '.join(told)}.",
    )


def _line(axes: Axes, method: Method, label: str, *, band: bool, color: str, **look: Any) -> None:
    x, (low, value, high) = range(1, len(method.accuracy) + 1), percents(method.accuracy)
    axes.plot(x, value, color=color, label=label, **look)
    if band:
        axes.fill_between(x, low, high, color=color, alpha=0.12, lw=0)


def adaptive_figure(results: BestOfNResults) -> Figure:
    """Accuracy against the share of what drawing all candidates costs."""
    kind = "tokens" if all(unit(found) == "tokens" for found in results.adaptive.values()) else "candidates"

    def spot(found: AdaptiveResults, way: Draws) -> tuple[float, float]:
        """Cost and accuracy, both in percent."""
        used, whole = getattr(way, kind), getattr(found.all, kind)
        return 100 * used.value / whole.value, 100 * way.accuracy.value

    told = []
    with panels(8.4, 4.8) as (figure, (axes,)):
        name_axes(axes, "Adaptive best-of-N", f"{kind} drawn (% of all)", "accuracy (%)")
        of_model = looks({model: model for model in ranked(results)})
        for model, found in results.adaptive.items():
            look, points = of_model[model], {n: spot(found, way) for n, way in found.fixed.items()}
            axes.plot(*zip(*points.values(), strict=True), label=f"{model}, always n", mec=CARD, ms=7, lw=1.6, **look)
            for n, point in points.items():
                axes.annotate(str(n), point, (0, -14), textcoords="offset points", ha="center", fontsize=9)
            x, y = spot(found, found.adaptive)
            low, _, high = percents([found.adaptive.accuracy])
            axes.vlines(x, low, high, color=look["color"], lw=1.6)
            star = {"marker": "*", "ls": "", "ms": 16, "color": look["color"], "mec": INK}
            axes.plot(x, y, label=f"{model}, adaptive", zorder=4, **star)
            told.append(f"Adaptive sampling with {model}: {y:.1f} % right for {x:.0f} % of the {kind}.")
        axes.margins(x=0.08, y=0.12)
        legend_below(figure)
    return Figure(
        "adaptive",
        "Accuracy against cost",
        figure,
        "Line: always the best of n by the same score, the mean over steps of P(yes) less half its standard deviation; "
        "n is written beside each point. Star: four candidates at a time, in random orders, until the best one's lower "
        "bound is above the upper bound of every other (arXiv 2605.15529). Bars: 95 % bootstrap over questions. Above "
        "the line, stopping early pays.",
        " ".join(told),
    )
