"""The comparison at a glance: every setting as a dot, and the measures against the ratio."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from mprm.reporting.compare import Comparison, Row
from mprm.reporting.exhibit import AUC, CALIBRATED, FIXED, Exhibit, Measure, best_row, legend_below, wrapped
from mprm.reporting.style import BLUE, CARD, DASHES, INK, LOOKS, OTHER_LOOK, line_looks, name_axes, styled

WIDTH = 40  # characters of a setting's name in one line


def measures(rows: tuple[Row, ...]) -> list[Measure]:
    """AUC and F1 at 0.5, and F1 at the calibrated threshold where a row has it."""
    return [AUC, FIXED, CALIBRATED] if any(row.f1_calibrated for row in rows) else [AUC, FIXED]


def settings_exhibit(comparison: Comparison) -> Exhibit:
    """Every setting as a dot with its interval, one panel per measure."""
    says = [
        f"{row.label}: "
        + ", ".join(f"{m.title} {n.value:{m.form}}" for m in measures(comparison.rows) if (n := m.of(row)))
        for row in comparison.rows
    ]
    return Exhibit(
        name="comparison",
        title="All settings",
        figure=comparison_figure(comparison),
        caption="Marks: mean over seeds. Bars: 95 % t-interval over seeds; of two seeds dots for both, of one nothing. "
        "The shaded row has the highest AUC; the highest number of each panel is marked.",
        says=f"Every setting with its numbers. {'; '.join(says)}.",
    )


def comparison_figure(comparison: Comparison) -> Figure:
    """AUC and overall macro-F1 of every setting as dots with intervals."""
    rows, shown = comparison.rows, measures(comparison.rows)
    lines = sum(wrapped(row.label, WIDTH).count("\n") for row in rows)  # beside the first one of each
    with styled():
        size = (1.8 + 3.9 * len(shown), 1.7 + 0.3 * len(rows) + 0.16 * lines)
        figure = Figure(figsize=size, layout="constrained")
        baselines = "".join(f"\n{name}: {100 * value:.1f}" for name, value in comparison.baselines.items())
        for place, axes in enumerate(figure.subplots(1, len(shown), squeeze=False)[0]):
            measure = shown[place]
            _dots(axes, rows, measure, "\nchance: 0.5" if measure is AUC else baselines)
            if place:
                axes.tick_params(labelleft=False)
                axes.set_ylabel("")
    return figure


def _dots(axes: Axes, rows: tuple[Row, ...], measure: Measure, below: str) -> None:
    name_axes(axes, measure.title, measure.axis + below, "setting")
    leader, best = (best_row(rows, one) if len(rows) > 1 else None for one in (AUC, measure))
    for y, row in enumerate(reversed(rows)):
        if row is leader:
            axes.axhspan(y - 0.5, y + 0.5, color=BLUE, alpha=0.1, lw=0)
        number = measure.of(row)
        if number is None:
            continue
        colour, marker = LOOKS.get(row.selector, OTHER_LOOK)
        if number.low is not None and number.high is not None:
            axes.hlines(y, number.low, number.high, color=colour, lw=2)
        if number.each:
            axes.plot(number.each, [y] * len(number.each), ls="", marker=".", ms=6, color=colour)
        axes.plot(number.value, y, ls="", marker=marker, ms=7.5, color=colour, mec=CARD)
        text = f"{number.value:{measure.form}}" + (" best" if row is best else "")
        weight = "bold" if row is best else "normal"
        place = axes.get_yaxis_transform()
        axes.annotate(text, (1, y), (5, 0), place, "offset points", va="center", fontsize=9, weight=weight)
    axes.set_yticks(range(len(rows)), [wrapped(row.label, WIDTH) for row in reversed(rows)])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    for label, row in zip(axes.get_yticklabels(), reversed(rows), strict=True):
        label.set_fontweight("bold" if row is leader else "normal")
    axes.grid(axis="y", visible=False)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.margins(x=0.08)


def ratio_exhibit(rows: tuple[Row, ...]) -> Exhibit | None:
    """The measures against the ratio, one line for settings that differ in nothing else; None for a single ratio."""
    lines: dict[str, list[Row]] = {}
    for row in sorted((row for row in rows if row.selector != "Full"), key=lambda row: row.ratio):
        lines.setdefault(row.line, []).append(row)
    if not any(len(points) > 1 for points in lines.values()):
        return None
    shown = measures(rows)
    with styled():
        figure = Figure(figsize=(1.8 + 3.9 * len(shown), 4.7), layout="constrained")
        for axes, measure in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            _lines(axes, rows, lines, measure)
        legend_below(figure)
    return Exhibit(
        name="ratio",
        title="AUC and F1 against the ratio",
        figure=figure,
        caption="Mean over seeds; bars: 95 % t-interval over seeds, of two seeds dots for both. Level line and band: "
        "training on everything. "
        "Lines are set apart a little so that their bars stay readable; a bar that leaves the panel is cut.",
        says="Measures against the ratio kept. " + " ".join(_in_words(line, points) for line, points in lines.items()),
    )


def _in_words(line: str, points: list[Row]) -> str:
    values = [f"{100 * row.ratio:.3g} % {number.value:.3f}" for row in points if (number := AUC.of(row))]
    return f"AUC of {line}: {', '.join(values)}."


def _lines(axes: Axes, rows: tuple[Row, ...], lines: dict[str, list[Row]], measure: Measure) -> None:
    name_axes(axes, measure.title, "rollouts kept (% of eligible)", measure.axis)
    for place, row in enumerate(row for row in rows if row.selector == "Full"):
        if number := measure.of(row):
            axes.axhline(number.value, color=INK, lw=1.4, ls=DASHES[1 + place % 4], label=row.label)
            if number.low is not None and number.high is not None:
                axes.axhspan(number.low, number.high, color=INK, alpha=0.07, lw=0)
    ratios = sorted({100 * row.ratio for points in lines.values() for row in points})
    log = ratios[-1] > 5 * ratios[0]
    looks = line_looks({line: points[0].selector for line, points in lines.items()})
    for place, (line, points) in enumerate(lines.items()):
        apart = place - (len(lines) - 1) / 2
        known = [(100 * row.ratio, number) for row in points if (number := measure.of(row))]
        x = [ratio * 1.016**apart if log else ratio + 0.004 * apart * (ratios[-1] - ratios[0]) for ratio, _ in known]
        axes.plot(x, [number.value for _, number in known], ms=7, lw=1.7, label=line, **looks[line])
        for at, (_, number) in zip(x, known, strict=True):
            if number.low is not None and number.high is not None:
                axes.vlines(at, number.low, number.high, color=looks[line]["color"], lw=1, alpha=0.5)
            if number.each:
                axes.plot([at] * len(number.each), number.each, ls="", marker=".", ms=5, color=looks[line]["color"])
    if log:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(_apart(ratios, log)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.margins(x=0.08)
    means = [number.value for row in rows if (number := measure.of(row))]
    if means:  # wide intervals would flatten all lines
        room = 0.3 * (max(means) - min(means)) or 0.01
        axes.set_ylim(min(means) - room, max(means) + room)


def _apart(ratios: list[float], log: bool) -> list[float]:
    """The ratios that have room for a label of their own."""
    room, shown = 0.07, ratios[:1]
    span = ratios[-1] / ratios[0] if log else ratios[-1] - ratios[0]
    for ratio in ratios[1:]:
        far = ratio / shown[-1] > span**room if log else ratio - shown[-1] > span * room
        if far:
            shown.append(ratio)
    return shown
