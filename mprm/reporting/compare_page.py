"""What task=report writes: the page, and the same content as Markdown, tables and pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.text import Text

from mprm.artifacts import atomic_file, atomic_folder, write_text
from mprm.reporting import markup
from mprm.reporting.compare import Comparison, as_csv, as_markdown, comparison_table
from mprm.reporting.composition import histogram_exhibit, maps_exhibit
from mprm.reporting.console import rich_table
from mprm.reporting.cost import cost_table, unfinished_lines, unfinished_table
from mprm.reporting.exhibit import AUC, FIXED, Exhibit, best_row
from mprm.reporting.heatmap import heatmap_exhibit
from mprm.reporting.learning import learning_exhibit
from mprm.reporting.overlap import overlap_exhibit
from mprm.reporting.overview import ratio_exhibit, settings_exhibit
from mprm.reporting.sources import by_source, sources_exhibit, sources_table
from mprm.reporting.style import styled
from mprm.reporting.subsets import composition_table, read_corpora
from mprm.reporting.tables import Table
from mprm.reporting.verdicts import Verdict, verdicts_table

FOLDER = "report"  # beside report.html: every figure and table as a file of its own, and all of it as Markdown
MANY = 45  # rows from which a table is folded


@dataclass(frozen=True)
class NamedTable:
    """A table of the page and the name of its files."""

    name: str
    table: Table


Part = Exhibit | NamedTable


def write_comparison(directory: Path, comparison: Comparison, verdicts: Sequence[Verdict] = ()) -> Path:
    """Write the comparison of the runs in `directory`; return the page's path.

    report.html is the whole in one file. comparison.csv (unrounded), .md, .png, .svg are the main table and figure;
    report/ has every figure (.png, .svg), every table (.csv) and all of it as report.md. Each file is written
    atomically, the folder report/ as a whole.

    Raises ValueError when report/ is a run folder, or a file of a run can not be read.
    """
    if (directory / FOLDER / "config.yaml").exists():
        raise ValueError(f"{directory / FOLDER} is a run folder, where the report is to be written; rename it")
    table = _main_table(comparison)
    parts = _parts(comparison, table, verdicts)
    write_text(directory / "comparison.csv", as_csv(comparison))
    write_text(directory / "comparison.md", as_markdown(table))
    title = f"mprm comparison {directory.resolve().name}"
    with atomic_folder(directory / FOLDER) as folder:
        for part in parts:
            _write_part(folder, part)
        (folder / "report.md").write_text(_markdown(title, comparison, verdicts, parts), encoding="utf-8")
    for part in parts:
        if part.name == "comparison" and isinstance(part, Exhibit):
            for kind in ("png", "svg"):
                with atomic_file(directory / f"comparison.{kind}") as path:
                    path.write_bytes((directory / FOLDER / f"comparison.{kind}").read_bytes())
    path = directory / "report.html"
    write_text(path, _page(title, comparison, verdicts, parts))
    return path


def _parts(comparison: Comparison, table: Table, verdicts: Sequence[Verdict]) -> list[Part]:
    """All figures and tables in the order of the page; what has no content is not there."""
    rows = comparison.rows
    missing = unfinished_table(comparison)
    last = [NamedTable("unfinished", missing)] if missing else []
    main = NamedTable("settings", table)
    if not rows:
        return [main, *last]
    points = [(row, by_source(row)) for row in rows]
    parts: list[Part | None] = [
        settings_exhibit(comparison),
        main,
        NamedTable("verdicts", verdicts_table(verdicts)) if verdicts else None,
        heatmap_exhibit(rows),
        ratio_exhibit(rows),
        learning_exhibit(rows),
        sources_exhibit(points),
        NamedTable("by_source", sources_table(points)),
    ]
    for corpus in read_corpora(rows):
        parts.append(NamedTable(f"composition{corpus.suffix}", composition_table(corpus)))
        if corpus.subsets:
            parts += [maps_exhibit(corpus), histogram_exhibit(corpus), overlap_exhibit(corpus)]
    return [*(part for part in parts if part), NamedTable("cost", cost_table(rows)), *last]


def _main_table(comparison: Comparison) -> Table:
    """The comparison table, the setting with the highest AUC stressed."""
    best = best_row(comparison.rows, AUC)
    return replace(comparison_table(comparison), main=best.label if best else "")


def _page(title: str, comparison: Comparison, verdicts: Sequence[Verdict], parts: list[Part]) -> str:
    links = [(part.name, part.title if isinstance(part, Exhibit) else part.table.title) for part in parts]
    answers = main_answers(verdicts)
    html = [markup.findings("Verdicts", answers)] if answers else []
    html += [_tiles(comparison), markup.contents(links)]
    for part in parts:
        if isinstance(part, Exhibit):
            html.append(markup.figure(part.figure, part.name, part.caption, part.says, part.title))
        else:
            html.append(markup.table(part.table, part.name, folded=len(part.table.rows) > MANY))
    return markup.document(title, headline(comparison), html, wide=True)


def _tiles(comparison: Comparison) -> str:
    numbers = []
    for measure, words in ((AUC, "Best AUC"), (FIXED, "Best F1 at 0.5")):
        row = best_row(comparison.rows, measure)
        number = measure.of(row) if row else None
        if row and number:
            numbers.append((words, f"{number.value:{measure.form}}", row.label))
    numbers.append(("Runs compared", str(sum(len(row.seeds) for row in comparison.rows)), _counted(comparison)))
    missing = unfinished_table(comparison)
    if missing:
        failed = sum(point.state == "failed" for point in comparison.points)
        numbers.append(("Not in it", str(len(missing.rows)), f"{failed} failed"))
    return markup.tiles(numbers)


def _write_part(folder: Path, part: Part) -> None:
    if isinstance(part, NamedTable):
        (folder / f"{part.name}.csv").write_text(_csv(part.table), encoding="utf-8")
        return
    _save(part.figure, folder / part.name)
    if part.data:
        (folder / f"{part.name}.csv").write_text(_csv(part.data), encoding="utf-8")


def _save(figure: Figure, path: Path) -> None:
    with styled():
        figure.savefig(path.with_suffix(".png"), dpi=160)
        figure.set_layout_engine("none")  # it stays where the first drawing put it, and costs half of every other one
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def _csv(table: Table) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([table.columns, *table.rows])
    return buffer.getvalue()


def _markdown(title: str, comparison: Comparison, verdicts: Sequence[Verdict], parts: list[Part]) -> str:
    texts = [f"# {title}", headline(comparison), *(f"- {words}" for words in main_answers(verdicts))]
    for part in parts:
        if isinstance(part, Exhibit):
            texts += [f"## {part.title}", f"![{part.title}]({part.name}.svg)", part.caption, part.says]
        else:
            texts += [f"## {part.table.title}", as_markdown(part.table).strip()]
    return "\n\n".join(texts) + "\n"


def main_answers(verdicts: Sequence[Verdict]) -> list[str]:
    """What the verdicts say about the best setting; those about all others are in the table."""
    return [verdict.words for verdict in verdicts if verdict.question.kind != "random"]


def headline(comparison: Comparison) -> str:
    """How many runs were compared and which setting has the highest mean AUC."""
    best = best_row(comparison.rows, AUC)
    if best is None or best.auc is None:
        return "No run has results yet."
    return f"{_counted(comparison)}. The highest mean AUC is {best.auc.fraction()}, by {best.label}."


def _counted(comparison: Comparison) -> str:
    settings, runs = len(comparison.rows), sum(len(row.seeds) for row in comparison.rows)
    return f"{settings} {'setting' if settings == 1 else 'settings'} in {runs} {'run' if runs == 1 else 'runs'}"


def print_comparison(comparison: Comparison, console: Console | None = None, verdicts: Sequence[Verdict] = ()) -> None:
    """Print the comparison table, its best row stressed, the verdicts on the best setting, and what is not in it."""
    console = console or Console()
    table = _main_table(comparison)
    console.print(rich_table(table))
    console.print(Text(table.note, style="dim"))
    for line in [*main_answers(verdicts), *unfinished_lines(comparison)]:
        console.print(Text(line))
