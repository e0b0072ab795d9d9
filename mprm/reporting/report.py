"""What every report is: a title, a lead sentence and sections; and its writers: HTML, Markdown, CSV, terminal."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure as Drawing
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text as Words

from mprm.reporting.style import PALETTE, inline_svg, save_drawing
from mprm.runs.artifacts import write_text

FOLDED_FROM = 45  # rows above which a page shows a table's title only


@dataclass(frozen=True)
class Heading:
    """What the sections below it have in common."""

    title: str


@dataclass(frozen=True)
class Text:
    """Sentences: a list whose first is stressed, a note that says why something is not shown, or folded code."""

    title: str
    lines: Sequence[str]
    form: Literal["list", "note", "code"] = "note"


@dataclass(frozen=True)
class Table:
    """A small table of texts; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    main: str = ""  # name of the row to stress
    name: str = ""  # of its file and its place on the page; "" for none


@dataclass(frozen=True)
class Figure:
    name: str  # of its files and its place on the page
    title: str
    drawing: Drawing
    caption: str
    alt: str  # the content in words, for whoever cannot see the figure
    data: Table | None = None  # the numbers behind it, where no other table has them: written as a CSV file only


@dataclass(frozen=True)
class Marked:
    """A step of a solution."""

    text: str
    below: str  # in small letters
    hue: int  # percent, from orange to blue
    differs: bool  # is it framed?


@dataclass(frozen=True)
class Card:
    title: str
    pictures: Sequence[str]  # data URLs
    text: str
    steps: Sequence[Marked]


@dataclass(frozen=True)
class Cards:
    """Solutions side by side, or one below the other where the page is narrow."""

    title: str
    note: str
    cards: Sequence[Card]
    name: str  # of its place on the page


Section = Heading | Text | Table | Figure | Cards


@dataclass(frozen=True)
class Report:
    """Sections that are None, or have nothing to show, are left out."""

    title: str
    lead: str
    sections: Sequence[Section | None]
    wide: bool = False
    contents: bool = False  # does the page link to its named sections?

    @cached_property
    def shown(self) -> list[Section]:
        return [one for one in self.sections if one and not _is_empty(one)]

    @property
    def figures(self) -> list[Figure]:
        return [section for section in self.shown if isinstance(section, Figure)]

    @property
    def named(self) -> list[Table | Figure | Cards]:
        return [one for one in self.shown if isinstance(one, Table | Figure | Cards) and one.name]


def _is_empty(section: Section) -> bool:
    match section:
        case Text(lines=content) | Table(rows=content) | Cards(cards=content):
            return not content
    return False


def counts_table(title: str, counts: Mapping[str, Mapping[str, int]], note: str = "") -> Table:
    """What was left out (what -> reason -> number), the most frequent reason first."""
    rows = [
        (what, reason, f"{number:,}")
        for what, reasons in counts.items()
        for reason, number in sorted(reasons.items(), key=lambda item: -item[1])
        if number
    ]
    return Table(title, ("what", "reason", "number"), tuple(rows), note)


def code(title: str, content: Any) -> Text:
    """A text, or an object as JSON, folded behind its title; nothing where the content is None."""
    text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False, default=str)
    return Text(title, [] if content is None else text.splitlines(), "code")


# ---- files


def html(report: Report) -> str:
    """The whole page."""
    return _template().render(report=report)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.globals |= {
        "folded_from": FOLDED_FROM,
        "kind": lambda section: type(section).__name__,
        "inline_svg": lambda *arguments: Markup(inline_svg(*arguments)),
        "palette": PALETTE,
        "words_columns": _words_columns,
    }
    return environment.from_string(Path(__file__).with_name("page.html.jinja").read_text(encoding="utf-8"))


def _words_columns(table: Table) -> list[bool]:
    """For every column: is it read from the left, because no cell begins with a number?"""
    columns = [[row[place] for row in table.rows] for place in range(len(table.columns))]
    return [
        any(cell != "-" for cell in cells) and all(cell == "-" or cell[:1].isalpha() for cell in cells)
        for cells in columns
    ]


def markdown(report: Report) -> str:
    """The report as Markdown; its figures are the .svg files beside it."""
    texts = [f"# {report.title}", report.lead]
    for section in report.shown:
        match section:
            case Heading(title):
                texts.append(f"# {title}")
            case Text(title, lines, "code"):
                texts += [f"## {title}", "\n".join(["```", *lines, "```"])]
            case Text(title, lines, form):
                texts += [f"## {title}", *(f"- {line}" if form == "list" else line for line in lines)]
            case Cards(title, note, cards):
                texts += [f"## {title}", note]
                for card in cards:
                    steps = [f"{number}. {one.text} ({one.below})" for number, one in enumerate(card.steps, start=1)]
                    texts += [f"### {card.title}", card.text, "\n".join(steps)]
            case Table():
                texts += [f"## {section.title}", table_markdown(section).strip()]
            case Figure():
                picture = f"![{section.title}]({section.name}.svg)"
                texts += [f"## {section.title}", picture, section.caption, section.alt]
    return "\n\n".join(texts) + "\n"


def table_markdown(table: Table) -> str:
    """A table and its note as Markdown, without the title."""
    lines = [f"| {' | '.join(table.columns)} |", f"|{' --- |' + ' ---: |' * (len(table.columns) - 1)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in table.rows]
    return "\n".join([*lines, "", table.note, ""])


def write_page(report: Report, path: Path) -> Path:
    """Write the page atomically; returns its path."""
    write_text(path, html(report))
    return path


def write_figures(report: Report, folder: Path) -> None:
    """Write every figure of the report into the folder as .png and .svg."""
    for figure in report.figures:
        save_drawing(figure.drawing, folder / figure.name)


def write_tables(report: Report, folder: Path) -> None:
    """Write every named table of the report, and the numbers behind its figures, into the folder as .csv."""
    for section in report.named:
        if table := section.data if isinstance(section, Figure) else section if isinstance(section, Table) else None:
            buffer = io.StringIO()
            csv.writer(buffer, lineterminator="\n").writerows([table.columns, *table.rows])
            write_text(folder / f"{section.name}.csv", buffer.getvalue())


# ---- the terminal

GAP = 2  # columns of the terminal between two of a table
NAME = (14, 30)  # how narrow a row's name may be made: a word that is longer than the second is broken
UNBROKEN = re.compile(r"[\[(][^\])]*[\])]|\S+")  # an interval, or a word


def print_report(report: Report, console: Console) -> None:
    """Print title, lead, tables and sentences in the console's width; plain where colour is unwanted."""
    if report.title:
        console.rule(Words(report.title, style="bold"), align="left", characters="─")
    if report.lead:
        console.print(Words(report.lead))
    for section in report.shown:
        if isinstance(section, Table):
            print_table(section, console)
        elif isinstance(section, Text):
            for line in section.lines:
                console.print(Words(line))


def print_table(content: Table, console: Console) -> None:
    """Print a table and its note. Texts are never read as rich markup.

    Whatever does not fit is broken into lines: first names of rows, then cells before their interval. What still does
    not fit goes into a second table below, under the same names: no column is ever lost.
    """
    lines = (content.columns, *content.rows)
    widths = _widths(list(zip(*lines, strict=True)), console.width)
    start, title = 1, content.title
    while start < len(widths) or title:
        end = start
        while end < len(widths) and (end == start or _total(widths, start, end + 1) <= console.width):
            end += 1
        table = RichTable(title=Words(title, style="bold"), title_justify="left", box=None, pad_edge=False)
        table.header_style, table.padding = "dim", (0, GAP, 0, 0)
        shown = (0, *range(start, end))
        for place in shown:
            side: Literal["right", "left"] = "right" if place else "left"
            head = _fitted(content.columns[place], widths[place])
            table.add_column(head, justify=side, width=widths[place], overflow="fold")
        for row in content.rows:
            cells = [_fitted(row[place], widths[place]) for place in shown]
            table.add_row(*cells, style="bold" if row[0] == content.main else "")
        console.print(table)
        start, title = end, ""
    console.print(Words(content.note, style="dim"))


def _fitted(cell: str, width: int) -> Words:
    """A cell that is too long has its interval in a line of its own."""
    return Words(cell if len(cell) <= width else re.sub(r" (?=[\[(])", "\n", cell))


def _widths(columns: list[tuple[str, ...]], available: int) -> list[int]:
    """As wide as the longest cell; if that is too much, names and then cells are as narrow as their words allow."""
    widths = [max(map(len, column)) for column in columns]
    words = [max(len(word) for cell in column for word in UNBROKEN.findall(cell) or [""]) for column in columns]
    room = available - GAP - max(words[1:], default=0)
    words[0] = min(widths[0], max(NAME[0], min(words[0], NAME[1], room)))
    for place in range(len(columns)):
        over = _total(widths, 1, len(columns)) - available
        widths[place] = max(words[place], widths[place] - max(0, over))
    widths[0] = min(widths[0], available)
    return widths


def _total(widths: list[int], start: int, end: int) -> int:
    """Of a table with the names and the columns from start to end."""
    return widths[0] + sum(width + GAP for width in widths[start:end])
