"""Figures of best-of-N: accuracy against the number of candidates, and against the cost of adaptive sampling."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from mprm.reporting.choice_tables import ALL, METHODS, Results, adaptive, ranked, sources, unit
from mprm.reporting.exhibit import Exhibit, legend_below, wrapped
from mprm.reporting.style import (
    BLUE,
    CARD,
    DASHES,
    GOLD,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    name_axes,
    styled,
)

COLOURS = (BLUE, ORANGE, GREEN, PURPLE, GOLD, SKY)
MARKERS = "DosX^vP"
SHADED = 4  # intervals of more models would hide each other: then the best one's alone
COLUMNS = 3


def curves_exhibit(results: Results) -> Exhibit:
    """Accuracy against the number of candidates, over all questions."""
    return Exhibit(
        name="best_of_n",
        title="Accuracy against the number of candidates",
        figure=_panels(results, [ALL]),
        caption="Mean over all subsets of n candidates, exact but for votes (256 random orders). Bands: 95 % bootstrap "
        "over questions" + (", of the best model alone." if len(ranked(results)) > SHADED else "."),
        says="Accuracy in percent against the number of candidates. " + _in_words(results, ALL),
    )


def sources_exhibit(results: Results) -> Exhibit | None:
    """The same for every source; None where there is one only."""
    names = sources(results)
    if not names:
        return None
    return Exhibit(
        name="best_of_n_sources",
        title="Accuracy against the number of candidates, by source",
        figure=_panels(results, names),
        caption="As above, the questions of one source in each panel.",
        says=" ".join(f"{name}: {_in_words(results, name)}" for name in names),
    )


def looks(results: Results) -> dict[str, dict[str, Any]]:
    """For every model the arguments of Axes.plot that tell it from the others without colour."""
    return {
        model: {
            "color": COLOURS[place % len(COLOURS)],
            "marker": MARKERS[place % len(MARKERS)],
            "ls": DASHES[place % len(DASHES)],
        }
        for place, model in enumerate(ranked(results))
    }


def _in_words(results: Results, benchmark: str) -> str:
    report, places = results["benchmarks"][benchmark], _places(results["n_max"])
    lines = {name: report["policy"][name] for name in ("pass@1", "majority", "pass@N")}
    lines |= {model: report["models"][model][results["aggregate"]] for model in ranked(results, benchmark)}
    told = {name: [f"{100 * line['accuracy'][n - 1]:.1f} at {n}" for n in places] for name, line in lines.items()}
    return " ".join(f"{name}: {', '.join(numbers)}." for name, numbers in told.items())


def _places(n_max: int) -> list[int]:
    """1, 2, 4, ... and n_max."""
    powers = [2**power for power in range(n_max.bit_length()) if 2**power < n_max]
    if len(powers) > 1 and n_max < 1.3 * powers[-1]:
        powers.pop()
    return [*powers, n_max]


def _panels(results: Results, names: list[str]) -> Figure:
    rows = -(-len(names) // COLUMNS)
    columns = -(-len(names) // rows)
    with styled():
        figure = Figure(figsize=(8.4 if columns == 1 else 4.2 * columns, 5.2 if rows == 1 else 3.9 * rows + 0.8))
        figure.set_layout_engine("constrained")
        grid = figure.add_gridspec(rows, 2 * columns)  # in halves of a panel: a last row of fewer stands in the middle
        for place, name in enumerate(names):
            row, column = divmod(place, columns)
            left = 2 * column + max(0, columns * (row + 1) - len(names))
            _curves(figure.add_subplot(grid[row, left : left + 2]), results, name)
        legend_below(figure)
    return figure


def _curves(axes: Axes, results: Results, benchmark: str) -> None:
    report, n_max, aggregate = results["benchmarks"][benchmark], results["n_max"], results["aggregate"]
    title = "Best-of-N" if benchmark == ALL else benchmark
    name_axes(axes, wrapped(f"{title} ({report['questions']:,} questions)"), "candidates of a question", "accuracy (%)")
    policy, drawn = report["policy"], looks(results)
    _line(axes, policy["pass@N"], "pass@N, the ceiling", band=False, color=INK, ls=(0, (8, 4)), lw=1.2)
    for place, (model, look) in enumerate(drawn.items()):
        band = place == 0 or len(drawn) <= SHADED
        marked: dict[str, Any] = {"markevery": [n - 1 for n in _places(n_max)], "ms": 7, "mec": CARD, "lw": 1.8}
        label = f"{model}, {METHODS.get(aggregate, aggregate)}"
        _line(axes, report["models"][model][aggregate], label, band=band, **look, **marked)
    _line(axes, policy["majority"], "majority vote", band=True, color=INK, ls="-.", lw=1.6)
    _line(axes, policy["pass@1"], "pass@1, one candidate", band=False, color=GREY, ls=":", lw=1.8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(_places(n_max)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())


def _line(axes: Axes, method: dict[str, Any], label: str, *, band: bool, color: str, **look: Any) -> None:
    x = range(1, len(method["accuracy"]) + 1)
    axes.plot(x, [100 * value for value in method["accuracy"]], color=color, label=label, **look)
    if band:
        low, high = ([100 * ends[side] for ends in method["interval"]] for side in (0, 1))
        axes.fill_between(x, low, high, color=color, alpha=0.12, lw=0)


def adaptive_exhibit(results: Results) -> Exhibit | None:
    """Accuracy against the share of what drawing all candidates costs; None where no model says how sure it is."""
    by_model = adaptive(results)
    if not by_model:
        return None
    kind = "tokens" if all(unit(found) == "tokens" for found in by_model.values()) else "candidates"
    with styled():
        figure = Figure(figsize=(8.4, 4.8), layout="constrained")
        axes = figure.subplots()
        name_axes(axes, "Adaptive best-of-N", f"{kind} drawn (% of all)", "accuracy (%)")
        for model, look in looks(results).items():
            if model in by_model:
                _trade_off(axes, model, by_model[model], kind, look)
        axes.margins(x=0.08, y=0.12)
        legend_below(figure)
    return Exhibit(
        name="adaptive",
        title="Accuracy against cost",
        figure=figure,
        caption="Line: always the same number of candidates, written beside each point. Star: four at a time until one "
        "is surely the best. Both choose by the same score. Bars: 95 % bootstrap over questions. Above the line, "
        "stopping early pays.",
        says=" ".join(_adaptive_words(model, found, kind) for model, found in by_model.items()),
    )


def _trade_off(axes: Axes, model: str, found: dict[str, Any], kind: str, look: dict[str, Any]) -> None:
    whole, fixed, way = found["all"][kind]["value"], found["fixed"], found["adaptive"]
    x = [100 * one[kind]["value"] / whole for one in fixed]
    y = [100 * one["accuracy"]["value"] for one in fixed]
    axes.plot(x, y, label=f"{model}, always n", mec=CARD, ms=7, lw=1.6, **look)
    for at, height, one in zip(x, y, fixed, strict=True):
        axes.annotate(str(one["n"]), (at, height), (0, -14), textcoords="offset points", ha="center", fontsize=9)
    at, low, high = (
        100 * value for value in (way[kind]["value"] / whole, way["accuracy"]["low"], way["accuracy"]["high"])
    )
    axes.vlines(at, low, high, color=look["color"], lw=1.6)
    star = {"marker": "*", "ls": "", "ms": 16, "color": look["color"], "mec": INK}
    axes.plot(at, 100 * way["accuracy"]["value"], label=f"{model}, adaptive", zorder=4, **star)


def _adaptive_words(model: str, found: dict[str, Any], kind: str) -> str:
    whole = found["all"][kind]["value"]
    ways = [("adaptive", found["adaptive"]), *((f"always {one['n']}", one) for one in found["fixed"])]
    told = [
        f"{name} {100 * way['accuracy']['value']:.1f} % for {100 * way[kind]['value'] / whole:.0f} % of the {kind}"
        for name, way in ways
    ]
    return f"{model}: {', '.join(told)}."
