"""Every setting of judges as a dot with its interval."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mprm.reporting.exhibit import Exhibit, wrapped
from mprm.reporting.judge_runs import JudgeComparison, JudgeRow
from mprm.reporting.judge_settings import titled
from mprm.reporting.judge_words import STAGES, percent
from mprm.reporting.style import CARD, GREY, INK, LOOKS, OTHER_LOOK, name_axes, styled

WIDTH = 48  # characters of a label in one line


def forest_exhibit(comparison: JudgeComparison) -> Exhibit | None:
    """Accuracy after the last stage, and after SFT beside it; None where nothing was measured."""
    stage, rows = comparison.stage, [row for row in comparison.rows if row.accuracy(comparison.stage)]
    if not rows:
        return None
    with styled():
        labels = [wrapped(row.label, WIDTH) for row in reversed(rows)]
        lines = sum(label.count("\n") for label in labels)  # beside the first one of each
        figure = Figure(figsize=(9.2, 1.9 + 0.34 * len(rows) + 0.18 * lines), layout="constrained")
        axes = figure.subplots()
        name_axes(axes, titled(f"Accuracy {STAGES[stage]}", comparison), "accuracy on the benchmark (%)", "setting")
        for y, row in enumerate(reversed(rows)):
            _dot(axes, y, row, stage)
        axes.set_yticks(range(len(rows)), labels)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(axis="y", visible=False)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.margins(x=0.06)
        _legend(figure, rows, stage)
    says = [f"{row.label}: {percent(row.accuracy(stage))} %" for row in rows]
    return Exhibit(
        name="comparison",
        title=titled("All settings", comparison),
        figure=figure,
        caption="Filled: mean over seeds. Solid bar: 95 % t-interval over seeds. Dots: both of two seeds. Dotted bar: "
        "of one seed, 95 % bootstrap over the benchmark's pairs; it says nothing of another training."
        + (" Ring: the same judge before RL." if stage == "rl" else ""),
        says=f"Accuracy {STAGES[stage]} on the benchmark. {'; '.join(says)}.",
    )


def _dot(axes: Axes, y: int, row: JudgeRow, stage: str) -> None:
    number, before = row.accuracy(stage), row.accuracy("sft") if stage == "rl" else None
    assert number
    colour, marker = _look(row)
    dash = "-" if len(row.runs) > 1 else (0, (1, 1))
    if each := number.get("each"):
        axes.plot([100 * value for value in each], [y] * len(each), ls="", marker=".", ms=7, color=colour)
    else:
        axes.hlines(y, 100 * number["low"], 100 * number["high"], color=colour, lw=2.2, ls=dash)
    if before:
        axes.plot(100 * before["value"], y, ls="", marker="o", ms=7, mfc="none", mec=GREY, mew=1.5)
    axes.plot(100 * number["value"], y, ls="", marker=marker, ms=9, color=colour, mec=CARD, mew=0.6)
    text = f"{100 * number['value']:.1f}"
    axes.annotate(text, (1, y), (6, 0), axes.get_yaxis_transform(), "offset points", va="center", fontsize=9)


def _look(row: JudgeRow) -> tuple[str, str]:
    return LOOKS.get(row.runs[0].selector, OTHER_LOOK)


def _legend(figure: Figure, rows: list[JudgeRow], stage: str) -> None:
    """One entry per selector, and the ring."""
    axes = figure.axes[0]
    for selector, (colour, marker) in {row.runs[0].selector: _look(row) for row in rows}.items():
        axes.plot([], [], ls="", marker=marker, ms=9, color=colour, mec=CARD, mew=0.6, label=selector)
    if stage == "rl":
        axes.plot([], [], ls="", marker="o", ms=7, mfc="none", mec=GREY, mew=1.5, label=STAGES["sft"])
    figure.legend(loc="outside lower center", ncols=5)
