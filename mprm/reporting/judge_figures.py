"""The figures of a judge: accuracy against entropy, the training pairs by entropy, and how training went."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure as Drawing

from mprm.metrics.results import Curation, EntropyBin, Estimate, JudgeAccuracy, JudgeResults
from mprm.reporting.plots import Curves, percents, training_curves
from mprm.reporting.report import Figure
from mprm.reporting.run_record import read_json_lines
from mprm.reporting.style import CARD, GREEN, INK, MUTED, legend_below, looks, name_axes, styled

STAGES = {"untrained": "untrained", "sft": "after SFT", "rl": "after RL"}
MEANS = {"kept": "Mean entropy of the kept pairs", "left_out": "Mean entropy of pairs left out"}
TRAININGS = {
    "rl": (
        "Reinforcement learning",
        (
            Curves("Reward", "mean reward of a response", {"train/reward": "reward"}),
            Curves("Accuracy", "right verdicts (%)", {"train/accuracy": "accuracy"}, scale=100),
            Curves("Entropy", "mean entropy (nats)", {"train/entropy": "entropy"}),
        ),
    ),
    "sft": (
        "Supervised fine-tuning",
        (
            Curves("Loss", "loss per token (nats)", {"train/loss": "loss"}),
            Curves("Likelihood", "mean probability of a token", {"train/likelihood": "likelihood"}),
        ),
    ),
}

Binned = list[tuple[EntropyBin, Estimate]]  # what was measured, in bins of entropy


def measured(results: JudgeResults) -> dict[str, JudgeAccuracy]:
    """What was measured, in the order of the stages."""
    return {stage: results.judges[stage] for stage in STAGES if stage in results.judges}


def entropy_figure(results: JudgeResults) -> Figure | None:
    """Accuracy against the entropy of the responses, a line per judge that gives verdicts; None without any."""
    judges = {STAGES[stage]: judge.bins for stage, judge in measured(results).items() if judge.without_verdict < 1}
    lines = {words: [(one, one.accuracy) for one in bins] for words, bins in judges.items()}
    if not lines:
        return None
    return Figure(
        "accuracy_by_entropy",
        "Is the judge right where it is sure?",
        _against_entropy({("Accuracy against entropy", "accuracy (%)"): lines}, {}, chance=True),
        "Pairs of the benchmark in the order of the mean entropy of their two responses, cut into bins of as "
        "many each. Marker: mean of the bin; bar: 95 % bootstrap over its pairs.",
        f"Accuracy on the benchmark by entropy of the responses. {_in_words(lines)}",
    )


def pairs_figure(curation: Curation) -> Figure | None:
    """Agreement with the labels, and wrong labels where known, against entropy; None without entropies."""
    lines = {"Agreement with the labels": [(one, one.accuracy) for one in curation.bins]}
    if wrong := [(one, one.flipped) for one in curation.bins if one.flipped]:
        lines["Wrong labels"] = wrong
    if not curation.bins:
        return None
    axes = ("verdict agrees with label (%)", "label is wrong (%)")
    panels = {(title, axis): {title: line} for (title, line), axis in zip(lines.items(), axes, strict=False)}
    means = {MEANS[key]: value for key, value in curation.entropy.items() if value is not None}
    return Figure(
        "training_pairs",
        "Does entropy find wrong labels?" if wrong else "Where does the judge agree with the labels?",
        _against_entropy(panels, means),
        "The pairs that could be kept, in the order of their entropy after SFT, cut into bins of as many each. "
        "Agreement is with the labels as they are given, right or wrong. Marker: mean of the bin; "
        "bar: 95 % bootstrap over its pairs. Whether a label is wrong is known of simulated worlds only.",
        " ".join([_in_words(lines), *(f"{words}: {value:.3f} nats." for words, value in means.items())]),
    )


def _in_words(lines: Mapping[str, Binned]) -> str:
    told = {
        name: [f"{100 * value.value:.1f} % at {one.lowest:.3f} to {one.highest:.3f} nats" for one, value in line]
        for name, line in lines.items()
    }
    return " ".join(f"{name}: {', '.join(points)}." for name, points in told.items())


def _against_entropy(
    panels: Mapping[tuple[str, str], Mapping[str, Binned]], means: Mapping[str, float], chance: bool = False
) -> Drawing:
    """Panels by title and axis, with lines by name; means: entropies to mark, by name."""
    names = STAGES.values() if chance else [name for lines in panels.values() for name in lines]
    look = looks({name: name for name in names}, [STAGES["untrained"]])
    with styled():
        figure = Drawing(figsize=(max(8.4, 5.4 * len(panels)), 4.6), layout="constrained")
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, ((title, axis), lines) in zip(grid, panels.items(), strict=True):
            name_axes(axes, title, "entropy of the responses (nats)", axis)
            if chance:
                axes.axhline(50, color=INK, lw=1.2, ls=":", label="chance")
            for (words, value), colour, dash in zip(means.items(), (GREEN, MUTED), ("-", "--"), strict=False):
                axes.axvline(value, color=colour, ls=dash, lw=1.5, label=f"{words}: {value:.3f}", zorder=1)
            for name, line in lines.items():
                x, (low, y, high) = [one.entropy for one, _ in line], percents([number for _, number in line])
                axes.vlines(x, low, high, color=look[name]["color"], lw=2.2, alpha=0.8)
                axes.plot(x, y, label=name, ms=6.5, mec=CARD, lw=1.7, zorder=3, **look[name])
            axes.margins(x=0.06, y=0.1)
        legend_below(figure)
    return figure


def training_figures(folder: Path) -> list[Figure | None]:
    """What the two trainings logged; None for one that was not run."""
    return [
        training_curves(f"{stage}_curves", title, panels, read_json_lines(folder / stage / "metrics.jsonl") or [])
        for stage, (title, panels) in TRAININGS.items()
    ]
