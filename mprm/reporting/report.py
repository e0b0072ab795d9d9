"""What every report is: a title, a lead sentence and sections; and its writers: HTML, Markdown, CSV, figure files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure as Drawing

from mprm.reporting.style import PALETTE, inline_svg, save_drawing
from mprm.runs.artifacts import write_text

FOLDED_FROM = 45  # rows above which a page shows a table's title only


@dataclass(frozen=True)
class Heading:
    """What the sections below it have in common."""

    kind: ClassVar = "heading"
    title: str


@dataclass(frozen=True)
class Text:
    """Sentences: a list whose first is stressed, a note that says why something is not shown, or folded code."""

    kind: ClassVar = "text"
    title: str
    lines: Sequence[str]
    form: Literal["list", "note", "code"] = "note"


@dataclass(frozen=True)
class Tile:
    name: str
    value: str
    below: str


@dataclass(frozen=True)
class Tiles:
    """The few numbers to read first."""

    kind: ClassVar = "tiles"
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Table:
    """A small table of texts; the first column names the row."""

    kind: ClassVar = "table"
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    # Name of the row to stress.
    main: str = ""
    # Of its file and its place on the page; "" for none.
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Figure:
    kind: ClassVar = "figure"
    # Of its files and its place on the page.
    name: str
    title: str
    drawing: Drawing
    caption: str
    # The content in words, for whoever cannot see the figure.
    alt: str
    # The numbers behind it, where no other table has them: written as a CSV file only.
    data: Table | None = None


Section = Heading | Text | Tiles | Table | Figure


@dataclass(frozen=True)
class Report:
    title: str
    lead: str
    sections: Sequence[Section]
    wide: bool = False
    # Does the page link to its named sections?
    contents: bool = False

    @property
    def figures(self) -> list[Figure]:
        return [section for section in self.sections if isinstance(section, Figure)]

    @property
    def links(self) -> list[tuple[str, str]]:
        """(name, title) of the sections that have a name."""
        return [(one.name, one.title) for one in self.sections if isinstance(one, Table | Figure) and one.name]


def code(title: str, content: Any) -> Text:
    """A text, or an object as JSON, folded behind its title."""
    text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False, default=str)
    return Text(title, text.splitlines(), "code")


def html(report: Report) -> str:
    """The whole page."""
    return _template().render(report=report)


@cache
def _template() -> jinja2.Template:
    source = Path(__file__).with_name("page.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.globals |= {
        "folded_from": FOLDED_FROM,
        "inline_svg": lambda *arguments: Markup(inline_svg(*arguments)),
        "palette": PALETTE,
        "words_columns": _words_columns,
    }
    return environment.from_string(source)


def _words_columns(table: Table) -> list[bool]:
    """For every column: is it read from the left, because no cell begins with a number?"""
    columns = [[row[place] for row in table.rows] for place in range(len(table.columns))]
    return [
        any(cell != "-" for cell in cells) and all(cell == "-" or cell[:1].isalpha() for cell in cells)
        for cells in columns
    ]


def markdown(report: Report) -> str:
    """The report as Markdown; its figures are the .svg files beside it (write_figures)."""
    texts = [f"# {report.title}", report.lead]
    for section in report.sections:
        match section:
            case Heading(title):
                texts.append(f"# {title}")
            case Tiles(tiles):
                texts += [f"- {tile.name}: {tile.value}, {tile.below}" for tile in tiles]
            case Text(title, lines, "code"):
                texts += [f"## {title}", "\n".join(["```", *lines, "```"])]
            case Text(title, lines, form):
                texts += [f"## {title}", *(f"- {line}" if form == "list" else line for line in lines)]
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


def table_csv(table: Table) -> str:
    """Columns and rows of a table."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([table.columns, *table.rows])
    return buffer.getvalue()


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
    tables = {table.name: table for table in report.sections if isinstance(table, Table) and table.name}
    tables |= {figure.name: figure.data for figure in report.figures if figure.data}
    for name, table in tables.items():
        write_text(folder / f"{name}.csv", table_csv(table))
