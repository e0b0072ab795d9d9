"""The end of a run in the terminal."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from mprm.reporting import tables
from mprm.reporting.collect import RunRecord
from mprm.reporting.tables import Table

GAP = 2  # columns of the terminal between two of a table
NAME = (14, 30)  # how narrow a row's name may be made: a word that is longer than the second is broken
UNBROKEN = re.compile(r"[\[(][^\])]*[\])]|\S+")  # an interval, or a word


def print_run(record: RunRecord, console: Console | None = None) -> None:
    """Print the run's subset, result and baselines, in the console's width; plain where colour is unwanted."""
    console = console or Console()
    console.rule(Text(record.folder.name, style="bold"), align="left", characters="─")
    console.print(Text(tables.headline(record)))
    shown = [tables.composition_table(record)]
    if record.results:
        shown += [tables.quality_table(record.results), tables.thresholds_table(record.results)]
        shown.append(tables.per_source_table(record.results))
    for table in shown:
        if table:
            print_table(replace(table, note=""), console)


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
        table = RichTable(title=Text(title, style="bold"), title_justify="left", box=None, pad_edge=False)
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
    console.print(Text(content.note, style="dim"))


def _fitted(cell: str, width: int) -> Text:
    """A cell that is too long has its interval in a line of its own."""
    return Text(cell if len(cell) <= width else re.sub(r" (?=[\[(])", "\n", cell))


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
