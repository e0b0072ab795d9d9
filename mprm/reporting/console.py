"""The end of a run in the terminal."""

from __future__ import annotations

from rich.columns import Columns
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from mprm.reporting import tables
from mprm.reporting.collect import RunRecord
from mprm.reporting.tables import Table


def print_run(record: RunRecord, console: Console | None = None) -> None:
    """Print the run's subset, result and baselines; made for 100 columns, plain text where colour is unwanted."""
    console = console or Console()
    console.rule(Text(record.folder.name, style="bold"), align="left", characters="─")
    console.print(Text(tables.headline(record)))
    overview = [table for table in (tables.composition_table(record),) if table]
    if record.results:
        overview.append(tables.quality_table(record.results))
    console.print(Columns([rich_table(table) for table in overview], padding=(1, 6)))
    if record.results:
        for table in (tables.thresholds_table(record.results), tables.per_source_table(record.results)):
            console.print(rich_table(table), "")


def rich_table(content: Table) -> RichTable:
    """A table for the terminal: first column left, numbers right. Texts are never read as rich markup."""
    table = RichTable(
        title=Text(content.title, style="bold"),
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
    longest = max((len(row[0]) for row in content.rows), default=0)
    for index, name in enumerate(content.columns):
        # A narrow terminal breaks cells into lines; it never hides the name of a row.
        table.add_column(
            Text(name), justify="right" if index else "left", min_width=None if index else min(longest, 22)
        )
    for row in content.rows:
        table.add_row(*(Text(cell) for cell in row), style="bold" if row[0] == content.main else "")
    return table
