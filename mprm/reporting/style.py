"""One look for every figure: colours that follow the page into dark mode, and inline SVG with a text alternative."""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mprm.runs.artifacts import atomic_file

# name -> (on white, on dark). A figure is drawn with the first; in an inline SVG each becomes the CSS variable --name.
# Hues are far apart for colour-blind readers (after Okabe and Ito), and every use also has its own marker or dash.
PALETTE = {
    "ink": ("#1b1f24", "#e8eaed"),
    "muted": ("#5b6570", "#a9b2bc"),
    "grid": ("#dde1e6", "#3a424b"),
    "card": ("#fefefe", "#1a1f25"),
    "grey": ("#8a939d", "#87919c"),
    "blue": ("#0a63a8", "#6fb4f5"),
    "orange": ("#c8500a", "#ff9d5c"),
    "green": ("#00795f", "#43cfa6"),
    "purple": ("#8f4a93", "#d9a0dd"),
    "gold": ("#9c7200", "#ecc04f"),
}
INK, MUTED, GRID, CARD, GREY, BLUE, ORANGE, GREEN, PURPLE, GOLD = (light for light, _ in PALETTE.values())

# Groups of lines differ in marker and colour. Lines of one group differ in dash and fill; there is one fill fewer than
# dashes, so twenty lines differ without colour.
COLOURS, MARKERS = (BLUE, ORANGE, GREEN, PURPLE, GOLD), "DX^vPh*"
BASELINE_COLOURS, BASELINE_MARKERS = (INK, GREY, MUTED), "so<"
DASHES = ("-", (0, (6, 2)), (0, (6, 2, 1, 2)), (0, (1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
FILLS = ("full", "none", "left", "bottom")

RC: Any = {
    "font.sans-serif": ["DejaVu Sans"],
    "svg.fonttype": "none",
    "svg.hashsalt": "mprm",
    "text.color": INK,
    "text.parse_math": False,  # a name with two dollar signs is a name
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": CARD,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.edgecolor": "none",
    "legend.fontsize": 9,
    "figure.facecolor": CARD,
}


@contextmanager
def styled() -> Iterator[None]:
    """Context in which a figure of this project is drawn; the settings of the caller come back after it.

    A character that the font lacks is a box in a .png, and no warning on the terminal.
    """
    with matplotlib.rc_context(RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        yield


@contextmanager
def panels(width: float, height: float, across: int = 1, down: int = 1) -> Iterator[tuple[Figure, Any]]:
    """styled(), with a new figure of so many inches and its axes, row by row."""
    with styled():
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(down, across, squeeze=False).ravel()


def looks(lines: Mapping[str, str], baselines: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """For every line (name -> its group) the arguments of Axes.plot that tell it from the others without colour.

    baselines: the groups that others are measured against; they are drawn in ink and grey.
    """
    groups = list(dict.fromkeys(lines.values()))
    seen: Counter[str] = Counter()
    found = {}
    for line, group in lines.items():
        is_baseline = group in baselines
        place = [other for other in groups if (other in baselines) == is_baseline].index(group)
        colours, markers = (BASELINE_COLOURS, BASELINE_MARKERS) if is_baseline else (COLOURS, MARKERS)
        number = seen[group] + place // len(markers)
        seen[group] += 1
        found[line] = {
            "color": colours[place % len(colours)],
            "marker": markers[place % len(markers)],
            "ls": DASHES[number % len(DASHES)],
            "fillstyle": FILLS[number % len(FILLS)],
        }
    return found


def name_axes(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Title and axis labels, in one place because every figure must have all three."""
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)


def legend_below(figure: Figure) -> None:
    """One legend of all panels below them: columns as the width has room for, and the figure grows by it."""
    found = [axes.get_legend_handles_labels() for axes in figure.axes]
    entries = {label: handle for of_axes in found for handle, label in zip(*of_axes, strict=True)}
    if not entries:
        return
    labels = [fill(label, 44) for label in entries]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    columns = max(1, min(5, len(labels), int(figure.get_figwidth() / (0.85 + 0.08 * longest))))
    lines = -(-len(labels) // columns) * max(label.count("\n") + 1 for label in labels)
    figure.set_figheight(figure.get_figheight() + 0.17 * max(0, lines - 2))
    figure.legend([*entries.values()], labels, loc="outside lower center", ncols=columns, handlelength=4)


def save_drawing(figure: Figure, path: Path) -> None:
    """Write the figure as .png and .svg, each atomically; `path` is without the ending."""
    for kind, options in (("png", {"dpi": 160}), ("svg", {"metadata": {"Date": None}})):
        with styled(), atomic_file(path.with_name(f"{path.name}.{kind}")) as temporary:
            figure.savefig(temporary, format=kind, **options)
        figure.set_layout_engine("none")  # it stays where it is, and costs half of every further drawing


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an <svg> element of a page, which a screen reader calls by its description.

    Colours are CSS variables (dark mode), ids have the prefix `name` (several figures share a page), the page sets the
    size.
    """
    buffer = io.StringIO()
    with styled():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, (light, _) in PALETTE.items():
        svg = svg.replace(light, f"var(--{colour})")
    head, body = svg.split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', head)
    assert view_box, "matplotlib writes a viewBox"
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {view_box[0]}'
    return f'{opening} role="img" aria-label="{escape(description)}">{body}'
