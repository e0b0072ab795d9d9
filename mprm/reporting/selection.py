"""What was selected: composition, BIS map, sources and drops of one run; the subsets of several side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from mprm.reporting.report import Figure, Section, Table, Text, counts_table
from mprm.reporting.run_record import RunRecord, read_manifest, read_parquet
from mprm.reporting.style import BLUE, CARD, GREY, MUTED, name_axes, panels
from mprm.runs.manifest import Manifest, Statistics

COMPOSITION = {
    "rollouts": ("rollouts", "{:,.0f}", 1),
    "steps": ("steps", "{:,.0f}", 1),
    "steps_per_rollout": ("steps per rollout", "{:.2f}", 1),
    "words_per_step": ("words per step", "{:.1f}", 1),
    "error_step_share": ("error steps (%)", "{:.2f}", 100),
    "mixed_share": ("mixed rollouts (%)", "{:.2f}", 100),
    "mean_mc": ("mean MC score", "{:.4f}", 1),
}
LABELS = tuple(label for label, _, _ in COMPOSITION.values())
GRID = 40  # cells per unit in a map: finer than 1/16, coarse enough that a bubble is one place on the page


def selection_sections(record: RunRecord) -> list[Section | None]:
    """All that is said of the subset of one run; nothing before there is one."""
    if record.manifest is None:
        return []
    keys = ("records", "dropped", "eligible", "kept")
    rows = tuple(
        (name, *(f"{getattr(part, key):,}" for key in keys), f"{100 * part.realised_ratio:.2f}")
        for name, part in record.manifest.sources.items()
    )
    gone = "The signals table that the manifest names is no longer there; task=select computes it again."
    easier = record.manifest.easier_words()
    return [
        Text("Before any training", [easier] if easier else [], "list"),
        composition_table(record.manifest),
        all_positive_table(record.manifest),
        map_figure(record) or Text("No BIS map", [gone]),
        parts_table(record.manifest),
        Table("Rollouts by source", ("source", *keys, "kept of eligible (%)"), rows),
        counts_table("Records that cannot be trained on", {"records": record.manifest.dropped}),
    ]


def composition_table(manifest: Manifest) -> Table:
    """Statistics of the eligible and the kept rollouts, as in Table 1 of arXiv 2602.04145."""
    rows = zip(LABELS, _statistics(manifest.totals.eligible), _statistics(manifest.totals.kept), strict=True)
    return Table("What the subset is made of", ("", "eligible", "kept"), tuple(rows), name="subset")


def parts_table(manifest: Manifest) -> Table | None:
    """What is kept of the parts of a mixture; None where there is none."""
    rows = [
        (
            name,
            *(f"{count:,}" for count in (one.eligible, one.kept)),
            *("-" if share is None else f"{100 * share:.2f}" for share in (one.asked, one.share)),
            f"{one.steps:,}",
            f"{100 * one.step_share:.2f}",
        )
        for name, one in manifest.parts.items()
    ]
    columns = ("part", "eligible", "kept", "asked (%)", "share (%)", "kept steps", "of the steps (%)")
    note = " ".join(f"{line}." for line in manifest.parts_words()[1:])
    return Table("Parts of the mixture", columns, tuple(rows), note, name="parts") if rows else None


def all_positive_table(manifest: Manifest) -> Table | None:
    """What a selector does among rollouts without a negative step; None where it keeps none."""
    eligible, kept = manifest.totals.eligible_all_positive, manifest.totals.kept_all_positive
    if eligible is None or kept is None:
        return None
    both = (eligible, kept)
    tie = "-" if kept.tie_size is None else f"{kept.tie_size:,.0f}"
    rows = [
        ("rollouts", *(f"{one.rollouts:,}" for one in both)),
        ("steps per rollout", *(f"{one.steps:.2f}" for one in both)),
        ("words in the question", *(f"{one.question_words:.1f}" for one in both)),
        ("steps that were never sampled (%)", *(f"{100 * one.unsampled_share:.2f}" for one in both)),
        ("rollouts that share a score (median)", "-", tie),
        *(
            (f"from {name} (%)", *(f"{100 * one.sources.get(name, 0) / one.rollouts:.1f}" for one in both))
            for name in eligible.sources
        ),
    ]
    note = (
        "Their labels are all alike, so that a score can only tell easy ones from hard ones. Where many share a score, "
        "the order of ties decides which of them are kept."
    )
    return Table("Rollouts without a wrong step", ("", "eligible", "kept"), tuple(rows), note, name="all_positive")


def _statistics(totals: Statistics) -> tuple[str, ...]:
    return tuple(form.format(getattr(totals, key) * scale) for key, (_, form, scale) in COMPOSITION.items())


def compared_subsets(settings: Iterable[tuple[str, Path]]) -> Table | None:
    """The composition of the subsets of settings that share their annotations; None without any.

    settings: label and run folder of each; those that kept the very same rollouts share a row.
    """
    eligible: Statistics | None = None
    subsets: dict[tuple[Any, ...], tuple[list[str], Statistics, str]] = {}
    for label, folder in settings:
        manifest = read_manifest(folder)
        kept = read_parquet(folder / "subset" / "kept.parquet", ["line"])
        if manifest is not None and kept is not None:
            eligible = eligible or manifest.totals.eligible
            # Kept rows are in the order of the files.
            of_sources = tuple((name, part.kept) for name, part in manifest.sources.items())
            key = (of_sources, kept["line"].to_numpy().tobytes())
            subsets.setdefault(key, ([], manifest.totals.kept, manifest.easier_words()))[0].append(label)
    if eligible is None:
        return None
    rows = [("all eligible", *_statistics(eligible))]
    note = (
        "Error steps: steps whose MC score is 0. Mixed: rollouts with a positive and a negative step. Settings that "
        "selected the very same rollouts share a row."
    )
    for labels, totals, easier in subsets.values():
        name = labels[0] if len(labels) == 1 else f"{labels[0]} (and {len(labels) - 1} more)"
        note += f" {name}: {easier}" if easier else ""
        note += f" {name}: {'; '.join(labels[1:])}." if labels[1:] else ""
        rows.append((name, *_statistics(totals)))
    return Table("What each subset is made of", ("subset", *LABELS), tuple(rows), note, "all eligible", "composition")


# ---- the BIS map


def map_figure(record: RunRecord) -> Figure | None:
    """None where the signals table is no longer in its cache."""
    if record.signals is None or record.kept is None:
        return None
    means = (
        f"{name} {_column(record.signals, name).mean():.3f} eligible, {_column(record.kept, name).mean():.3f} kept"
        for name in ("p_pos", "reliability")
    )
    return Figure(
        "map",
        "Balance against reliability",
        bis_map(places(record.signals), places(record.kept), _alpha(record)),
        "Each bubble is one place on a grid of 1/40; its area grows with the logarithm of the number of rollouts "
        "there; a circle around a diamond holds both kinds. A rollout without a positive step has R = 1 by "
        "definition (top left). Dotted, where the selector ranks by it: equal BIS score.",
        f"Share of positive steps against reliability; means: {'; '.join(means)}.",
    )


def _column(rows: pa.Table, name: str) -> np.ndarray:
    """One column as float64, null as NaN."""
    return np.asarray(rows[name].to_numpy(zero_copy_only=False), dtype=np.float64)


def _alpha(record: RunRecord) -> float | None:
    """The selector's alpha, if its scores are (p_pos (1 - p_pos) + alpha) R."""
    alpha = ((record.config or {}).get("selector") or {}).get("alpha")
    if record.kept is None or not isinstance(alpha, int | float):
        return None
    p_pos, reliability, score = (_column(record.kept, name) for name in ("p_pos", "reliability", "score"))
    return float(alpha) if np.allclose(score, (p_pos * (1 - p_pos) + alpha) * reliability) else None


def places(rows: pa.Table) -> np.ndarray:
    """Rollouts by rounded (p_pos, reliability): counts (GRID + 1, GRID + 1)."""
    counts = np.zeros((GRID + 1, GRID + 1), dtype=np.int64)
    x, y = (np.rint(_column(rows, name) * GRID).astype(np.int64) for name in ("p_pos", "reliability"))
    np.add.at(counts, (x, y), 1)
    return counts


def bis_map(eligible: np.ndarray, kept: np.ndarray, alpha: float | None = None) -> Drawing:
    """Share of positive steps (x) against reliability (y), kept and dropped rollouts as bubbles.

    eligible, kept: counts as from places(). alpha: of the lines of equal score (p_pos (1 - p_pos) + alpha) R.
    """
    largest = max(int(eligible.max()), 1)

    def area(count: Any) -> Any:
        """Of a bubble: counts span five orders of magnitude."""
        return 10 + 190 * np.log1p(count) / math.log1p(largest)

    filled: Any = {"marker": "D", "facecolors": BLUE, "edgecolors": CARD, "linewidths": 0.6, "zorder": 3}
    ring: Any = {"marker": "o", "facecolors": "none", "edgecolors": GREY, "linewidths": 1, "zorder": 4}
    with panels(8.4, 5.4) as (figure, (axes,)):
        x_label, y_label = "p_pos: share of positive steps in the rollout", "R: mean MC score of the positive steps"
        name_axes(axes, "What was kept: balance against reliability", x_label, y_label)
        for name, counts, look in (("kept", kept, filled), ("not kept", eligible - kept, ring)):
            spots = np.nonzero(counts)
            axes.scatter(spots[0] / GRID, spots[1] / GRID, s=area(counts[spots]), **look)
            axes.scatter([], [], s=70, label=f"{name} ({counts.sum():,})", **look)
        if alpha is not None:
            x, y = np.meshgrid(np.linspace(0, 1, 101), np.linspace(0, 1, 101))
            levels = MaxNLocator(6).tick_values(0, 0.25 + alpha)[1:]
            score = (x * (1 - x) + alpha) * y
            lines = axes.contour(x, y, score, levels, colors=MUTED, linewidths=0.9, linestyles="dotted", zorder=2)
            axes.clabel(lines, fmt="%g", fontsize=8, zorder=5)
            axes.plot([], [], ls="dotted", color=MUTED, lw=1, label="equal score")
        axes.plot([], [], ls="", label="\nRollouts in one place")
        for size in (10**power for power in range(len(str(largest)))):
            axes.scatter([], [], s=area(size), label=f"{size:,}", **ring)
        axes.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.08))
        figure.legend(loc="outside right upper", labelspacing=0.9, borderaxespad=2.2)
    return figure
