"""What the subsets are made of, one small panel each: the BIS map and the mean MC scores."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mprm.reporting.bubbles import draw_small_bubbles
from mprm.reporting.exhibit import Exhibit, wrapped
from mprm.reporting.style import BLUE, CARD, GREY, styled
from mprm.reporting.subsets import MC_BINS, Corpus, Subset
from mprm.reporting.tables import Table

ACROSS = 6  # panels in a row


def maps_exhibit(corpus: Corpus) -> Exhibit:
    """The BIS map of every subset: share of positive steps against reliability."""
    largest = max(
        int(counts.places.max()) for counts in (corpus.eligible, *(s.counts for s in corpus.subsets)) if counts
    )

    def draw(axes: Axes, subset: Subset) -> None:
        kept = subset.counts.places
        draw_small_bubbles(axes, kept, largest, 0.42, mfc=BLUE, mec=CARD, mew=0.4, zorder=3)
        if corpus.eligible:
            left = corpus.eligible.places - kept
            draw_small_bubbles(axes, left, largest, 0.42, mfc="none", mec=GREY, mew=0.7, zorder=2)
        axes.set_xlim(-0.08, 1.08)
        axes.set_ylim(-0.08, 1.12)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])

    shares = [
        f"{s.label}: {100 * s.totals['mixed_share']:.1f} % mixed, mean MC {s.totals['mean_mc']:.3f}"
        for s in corpus.subsets
    ]
    return Exhibit(
        name="maps",
        title="Where the subsets lie: balance against reliability",
        figure=_panels(
            corpus.subsets,
            draw,
            "Balance against reliability, every subset",
            "p_pos: share of positive steps in the rollout",
            "R: mean MC score of the positive steps",
            1.0,
        ),
        caption="Every bubble is the rollouts of one place, its area grows with the logarithm of their number. "
        f"Filled: kept; hollow: eligible and not kept.{_gone(corpus)}",
        says=f"Kept rollouts by share of positive steps and reliability. {'; '.join(shares)}.",
    )


def histogram_exhibit(corpus: Corpus) -> Exhibit:
    """The mean MC scores of every subset's rollouts, all eligible ones behind it."""
    everything = None if corpus.eligible is None else _percent(corpus.eligible.mc)

    def draw(axes: Axes, subset: Subset) -> None:
        if everything is not None:
            axes.stairs(everything, MC_BINS, fill=True, color=GREY, alpha=0.45)
        axes.stairs(_percent(subset.counts.mc), MC_BINS, color=BLUE, lw=1.7)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.grid(axis="x", visible=False)

    middles = (MC_BINS[:-1] + MC_BINS[1:]) / 2
    rows = tuple(
        (f"{low:.2f}", *(f"{_percent(subset.counts.mc)[i]:.3f}" for subset in corpus.subsets))
        for i, low in enumerate(MC_BINS[:-1])
    )
    medians = [
        f"{s.label}: half of the rollouts below about {_median(s.counts.mc, middles):.2f}" for s in corpus.subsets
    ]
    return Exhibit(
        name="mean_mc",
        title="Mean MC scores of the subsets",
        figure=_panels(
            corpus.subsets,
            draw,
            "Mean MC score per rollout, every subset",
            "mean MC score of the rollout's steps",
            "share of rollouts (%)",
            0.8,
        ),
        caption=f"Line: the subset. Grey area: all eligible rollouts.{_gone(corpus)}",
        says=f"Mean MC scores of the rollouts. {'; '.join(medians)}.",
        data=Table("Mean MC score, % of rollouts", ("from", *(s.label for s in corpus.subsets)), rows),
    )


def _percent(counts: np.ndarray) -> np.ndarray:
    return 100 * counts / max(int(counts.sum()), 1)


def _median(counts: np.ndarray, middles: np.ndarray) -> float:
    return float(middles[np.searchsorted(np.cumsum(counts), counts.sum() / 2)])


def _gone(corpus: Corpus) -> str:
    return "" if corpus.eligible else " The cache of signals is gone, so that eligible rollouts are not shown."


def _panels(
    subsets: list[Subset], draw: Callable[[Axes, Subset], None], title: str, x: str, y: str, tall: float
) -> Figure:
    """One panel per subset on common axes, named above it; `tall` is its height relative to its width."""
    down = math.ceil(len(subsets) / ACROSS)
    across = max(math.ceil(len(subsets) / down), 3)
    with styled():
        figure = Figure(figsize=(13, 1.1 + down * (0.55 + tall * 12 / across * 0.9)), layout="constrained")
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for axes, subset in zip(grid.flat, subsets, strict=False):
            draw(axes, subset)
            kept = f"{subset.totals['rollouts']:,} rollouts"
            axes.set_title(f"{wrapped(subset.label, 132 // across)}\n{kept}", fontsize=9, pad=5)
        for place, axes in enumerate(grid.flat):
            if place >= len(subsets):
                axes.remove()
            elif place + across >= len(subsets):
                axes.tick_params(labelbottom=True)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, weight="bold")
        figure.supxlabel(x, fontsize=10)
        figure.supylabel(y, fontsize=10)
    return figure
