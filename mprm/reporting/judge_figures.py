"""Figures of a judge: accuracy against entropy, the training pairs by entropy, and how training went."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from mprm.reporting.exhibit import Exhibit, legend_below
from mprm.reporting.judge_words import STAGES, Results, judges, span
from mprm.reporting.plots import series, smooth
from mprm.reporting.style import BLUE, CARD, GREEN, GREY, INK, MUTED, ORANGE, PURPLE, name_axes, styled

LOOKS: dict[str, dict[str, Any]] = {
    "untrained": {"color": GREY, "marker": "o", "ls": (0, (1, 1.5))},
    "sft": {"color": BLUE, "marker": "s", "ls": (0, (6, 2))},
    "rl": {"color": ORANGE, "marker": "D", "ls": "-"},
}
AGREES: dict[str, Any] = {"color": BLUE, "marker": "s", "ls": "-"}
WRONG: dict[str, Any] = {"color": PURPLE, "marker": "X", "ls": (0, (6, 2, 1, 2))}
MEANS = {
    "kept": ("Mean entropy of the kept pairs", GREEN, "-"),
    "left_out": ("Mean entropy of pairs left out", MUTED, (0, (3, 1, 1, 1))),
}

# Of a stage's metrics.jsonl: key -> (title, axis, factor).
RL_CURVES = {
    "train/reward": ("Reward", "mean reward of a response", 1),
    "train/accuracy": ("Accuracy", "right verdicts (%)", 100),
    "train/entropy": ("Entropy", "mean entropy (nats)", 1),
}
SFT_CURVES = {
    "train/loss": ("Loss", "loss per token (nats)", 1),
    "train/likelihood": ("Likelihood", "mean probability of a token", 1),
}

Bins = list[dict[str, Any]]
Curves = dict[str, tuple[str, str, int]]


def entropy_exhibit(results: Results) -> Exhibit | None:
    """Accuracy on the benchmark against the entropy of the responses, a line per judge that gives verdicts at all; None
    without any."""
    measured = {stage: judge for stage, judge in judges(results).items() if judge["without_verdict"] < 1}
    if not measured:
        return None
    bins = {stage: judge["bins"] for stage, judge in measured.items()}
    with styled():
        figure = Figure(figsize=(8.4, 5.0), layout="constrained")
        axes = figure.subplots()
        name_axes(axes, "Accuracy against entropy", "entropy of the responses (nats)", "accuracy (%)")
        axes.axhline(50, color=INK, lw=1.2, ls=":", label="chance")
        for stage, of_stage in bins.items():
            _bins(axes, of_stage, "accuracy", STAGES[stage], LOOKS[stage])
        axes.margins(x=0.06, y=0.1)
        legend_below(figure)
    return Exhibit(
        name="accuracy_by_entropy",
        title="Is the judge right where it is sure?",
        figure=figure,
        caption="Pairs of the benchmark in the order of the mean entropy of their two responses, cut into bins of as "
        "many each. Marker: mean of the bin; bar: 95 % bootstrap over its pairs.",
        says="Accuracy on the benchmark by entropy of the responses. "
        + " ".join(f"{STAGES[stage]}: {_in_words(of_stage, 'accuracy')}." for stage, of_stage in bins.items()),
    )


def pairs_exhibit(results: Results) -> Exhibit | None:
    """Agreement with the labels, and wrong labels where known, against entropy; None without entropies."""
    curation = results.get("curation") or {}
    bins: Bins = curation.get("bins") or []
    if not bins:
        return None
    known = all(one["flipped"] for one in bins)
    panels = [("accuracy", "Agreement with the labels", "verdict agrees with label (%)", AGREES)]
    if known:
        panels.append(("flipped", "Wrong labels", "label is wrong (%)", WRONG))
    means = {key: value for key, value in (curation.get("entropy") or {}).items() if value is not None}
    with styled():
        figure = Figure(figsize=(5.4 * len(panels), 4.2), layout="constrained")
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (key, title, y_label, look) in zip(grid, panels, strict=True):
            name_axes(axes, title, "entropy of the responses (nats)", y_label)
            for group, value in means.items():
                words, colour, dash = MEANS[group]
                axes.axvline(value, color=colour, ls=dash, lw=1.5, label=f"{words}: {value:.3f}", zorder=1)
            _bins(axes, bins, key, "_pairs", look)
            axes.margins(x=0.06, y=0.1)
        if means:
            legend_below(figure)
    says = [f"Agreement with the labels: {_in_words(bins, 'accuracy')}."]
    says += [f"Wrong labels: {_in_words(bins, 'flipped')}."] if known else []
    says += [f"{MEANS[key][0]}: {value:.3f} nats." for key, value in means.items()]
    return Exhibit(
        name="training_pairs",
        title="Does entropy find wrong labels?" if known else "Where does the judge agree with the labels?",
        figure=figure,
        caption="The pairs that could be kept, in the order of their entropy after SFT, cut into bins of as many each. "
        "Agreement is with the labels as they are given, right or wrong. Marker: mean of the bin; "
        "bar: 95 % bootstrap over its pairs.",
        says=" ".join(says),
    )


def curves_exhibit(name: str, title: str, curves: Curves, metrics: list[dict[str, Any]]) -> Exhibit | None:
    """What a training logged against its optimizer steps, a panel per key of `curves`; None where it logged none."""
    found = {key: line for key in curves if len((line := series(metrics, key))[0])}
    if not found:
        return None
    ends = []
    with styled():
        figure = Figure(figsize=(4.2 * len(found), 3.7), layout=ConstrainedLayoutEngine(w_pad=0.12))
        panels = figure.subplots(1, len(found), squeeze=False)[0]
        for axes, (key, (steps, values)) in zip(panels, found.items(), strict=True):
            panel, y_label, factor = curves[key]
            mean = factor * smooth(values)
            name_axes(axes, panel, "optimizer steps", y_label)
            axes.plot(steps, factor * values, color=GREY, lw=0.9, alpha=0.7, label="one step")
            axes.plot(steps, mean, color=BLUE, lw=2.2, label="running mean")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.margins(y=0.12)
            ends.append(f"{panel.lower()} from {mean[0]:.3g} to {mean[-1]:.3g} at step {steps[-1]:.0f}")
        legend_below(figure)
    return Exhibit(
        name=name,
        title=title,
        figure=figure,
        caption="Thin: means of one optimizer step, as it logged them. Thick: their running mean.",
        says=f"{title}: {', '.join(ends)}.",
    )


def _bins(axes: Axes, bins: Bins, key: str, label: str, look: dict[str, Any]) -> None:
    middles = [one["entropy"] for one in bins]
    low, value, high = ([100 * one[key][end] for one in bins] for end in ("low", "value", "high"))
    axes.vlines(middles, low, high, color=look["color"], lw=2.2, alpha=0.8)
    axes.plot(middles, value, label=label, ms=6.5, mec=CARD, lw=1.7, zorder=3, **look)


def _in_words(bins: Bins, key: str) -> str:
    return ", ".join(f"{100 * one[key]['value']:.1f} % at {span(one)} nats" for one in bins)
