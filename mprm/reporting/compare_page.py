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

from mprm.reporting import markup
from mprm.reporting.compare import Comparison, as_csv, as_markdown, comparison_table
from mprm.reporting.composition import histogram_exhibit, maps_exhibit
from mprm.reporting.console import print_table
from mprm.reporting.cost import cost_table, unfinished_lines, unfinished_table
from mprm.reporting.exhibit import AUC, FIXED, Exhibit, best_row
from mprm.reporting.heatmap import heatmap_exhibit
from mprm.reporting.learning import learning_exhibit
from mprm.reporting.overlap import overlap_exhibit
from mprm.reporting.overview import ratio_exhibit, settings_exhibit
from mprm.reporting.sources import by_source, sources_exhibit, sources_table
from mprm.reporting.style import styled
from mprm.reporting.subsets import composition_table, read_corpus
from mprm.reporting.tables import Table
from mprm.reporting.verdicts import Verdict, verdicts_table
from mprm.runs.artifacts import atomic_file, atomic_folder, write_text

FOLDER = "report"  # beside report.html: every figure and table as a file of its own, and all of it as Markdown
MANY = 45  # rows from which a table is folded


@dataclass(frozen=True)
class NamedTable:
    """A table of the page and the name of its files."""

    name: str
    table: Table


Part = Exhibit | NamedTable
Groups = list[tuple[Comparison, list[Part]]]


def write_comparison(directory: Path, comparison: Comparison, verdicts: Sequence[Verdict] = ()) -> Path:
    """Write the comparison of the runs in `directory`; return the page's path.

    report.html is the whole in one file. comparison.csv (unrounded), .md, .png, .svg are the main table and figure;
    report/ has every figure (.png, .svg), every table (.csv) and all of it as report.md. Each file is written
    atomically, the folder report/ as a whole.

    Raises ValueError when report/ is a run folder, or a file of a run can not be read.
    """
    if (directory / FOLDER / "config.yaml").exists():
        raise ValueError(f"{directory / FOLDER} is a run folder, where the report is to be written; rename it")
    groups: Groups = []
    for number, group in enumerate(comparison.groups, start=1):
        answers = [one for one in verdicts if one.question.a in group.rows]
        groups.append((group, _parts(group, answers, f"-{number}" if number > 1 else "")))
    missing = unfinished_table(comparison)
    last = [NamedTable("unfinished", missing)] if missing else []
    write_text(directory / "comparison.csv", as_csv(comparison))
    tables = [(group.words, as_markdown(_main_table(group))) for group, _ in groups]
    write_text(directory / "comparison.md", "\n".join(f"{words}\n\n{table}" for words, table in tables).lstrip())
    title = f"mprm comparison {directory.resolve().name}"
    with atomic_folder(directory / FOLDER) as folder:
        for part in [*(part for _, parts in groups for part in parts), *last]:
            _write_part(folder, part)
        (folder / "report.md").write_text(_markdown(title, comparison, verdicts, groups, last), encoding="utf-8")
    if comparison.rows:
        for kind in ("png", "svg"):
            with atomic_file(directory / f"comparison.{kind}") as path:
                path.write_bytes((directory / FOLDER / f"comparison.{kind}").read_bytes())
    path = directory / "report.html"
    write_text(path, _page(title, comparison, verdicts, groups, last))
    return path


def _parts(group: Comparison, verdicts: Sequence[Verdict], suffix: str) -> list[Part]:
    """All figures and tables of a group in the order of the page; what has no content is not there."""
    rows, table = group.rows, _main_table(group)
    if not rows:
        return [NamedTable("settings", table)]
    points = [(row, by_source(row)) for row in rows]
    corpus = read_corpus(rows)
    parts: list[Part | None] = [
        settings_exhibit(group),
        NamedTable("settings", table),
        NamedTable("verdicts", verdicts_table(verdicts)) if verdicts else None,
        heatmap_exhibit(rows),
        ratio_exhibit(rows),
        learning_exhibit(rows),
        sources_exhibit(points),
        NamedTable("by_source", sources_table(points)),
        NamedTable("composition", composition_table(corpus)),
        *((maps_exhibit(corpus), histogram_exhibit(corpus), overlap_exhibit(corpus)) if corpus.subsets else ()),
        NamedTable("cost", cost_table(rows)),
    ]
    return [replace(part, name=f"{part.name}{suffix}") for part in parts if part]


def _main_table(comparison: Comparison) -> Table:
    """The comparison table of a group, the setting with the highest AUC stressed."""
    best, table = best_row(comparison.rows, AUC), comparison_table(comparison)
    return replace(table, title=_named(table.title, comparison), main=best.label if best else "")


def _named(title: str, group: Comparison) -> str:
    """With what the group shares, where there are several: no two sections are called the same."""
    return title if not group.words or title.endswith(group.words) else f"{title}: {group.words}"


def _page(
    title: str, comparison: Comparison, verdicts: Sequence[Verdict], groups: Groups, last: list[NamedTable]
) -> str:
    answers = main_answers(verdicts)
    html = [markup.findings("Verdicts", answers)] if answers else []
    links = [(name, _named(words, group)) for group, parts in groups for name, words in map(_link, parts)]
    html.append(markup.contents([*links, *map(_link, last)]))
    for group, parts in groups:
        html += [markup.heading(group.words)] if group.words else []
        html += [_tiles(group), *(_card(part) for part in parts)]
    return markup.document(title, headline(comparison), [*html, *(_card(part) for part in last)], wide=True)


def _link(part: Part) -> tuple[str, str]:
    return part.name, part.title if isinstance(part, Exhibit) else part.table.title


def _card(part: Part) -> str:
    if isinstance(part, Exhibit):
        return markup.figure(part.figure, part.name, part.caption, part.says, part.title)
    return markup.table(part.table, part.name, folded=len(part.table.rows) > MANY)


def _tiles(group: Comparison) -> str:
    numbers = []
    for measure, words in ((AUC, "Best AUC"), (FIXED, "Best F1 at 0.5")):
        row = best_row(group.rows, measure)
        number = measure.of(row) if row else None
        if row and number:
            numbers.append((words, f"{number.value:{measure.form}}", row.label))
    numbers.append(("Runs compared", str(sum(len(row.seeds) for row in group.rows)), _counted(group)))
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


def _markdown(
    title: str, comparison: Comparison, verdicts: Sequence[Verdict], groups: Groups, last: list[NamedTable]
) -> str:
    texts = [f"# {title}", headline(comparison), *(f"- {words}" for words in main_answers(verdicts))]
    sections: list[tuple[str, list[Part]]] = [(group.words, parts) for group, parts in groups]
    sections.append(("", [*last]))
    for words, parts in sections:
        texts += [words] if words else []
        for part in parts:
            texts.append(f"## {_link(part)[1]}")
            if isinstance(part, Exhibit):
                texts += [f"![{part.title}]({part.name}.svg)", part.caption, part.says]
            else:
                texts.append(as_markdown(part.table).strip())
    return "\n\n".join(texts) + "\n"


def main_answers(verdicts: Sequence[Verdict]) -> list[str]:
    """What the verdicts say about the best setting; those about all others are in the table."""
    return [verdict.words for verdict in verdicts if verdict.question.kind != "random"]


def headline(comparison: Comparison) -> str:
    """How many runs were compared and which setting has the highest mean AUC and F1 at 0.5; every group by itself."""
    said = []
    for group in comparison.groups:
        best, at_half = (best_row(group.rows, measure) for measure in (AUC, FIXED))
        if best and best.auc:
            words = f"{_counted(group)}. The highest mean AUC is {best.auc.fraction()}, by {best.label}"
            if at_half and at_half.f1_fixed:
                words += f"; the highest overall macro-F1 at 0.5 is {at_half.f1_fixed.points()}, by {at_half.label}"
            said.append(f"{words}.")
    if len(said) > 1:
        said = ["Runs on other benchmarks or other annotations are compared apart.", *said]
    return " ".join(said) or "No run has results yet."


def _counted(comparison: Comparison) -> str:
    settings, runs = len(comparison.rows), sum(len(row.seeds) for row in comparison.rows)
    return f"{settings} {'setting' if settings == 1 else 'settings'} in {runs} {'run' if runs == 1 else 'runs'}"


def print_comparison(comparison: Comparison, console: Console | None = None, verdicts: Sequence[Verdict] = ()) -> None:
    """Print a table per group, its best row stressed, the verdicts on the best setting, and what is not in it."""
    console = console or Console()
    groups = comparison.groups
    for group in groups:
        print_table(replace(_main_table(group), note=_main_table(group).note if group is groups[-1] else ""), console)
    for line in [*main_answers(verdicts), *unfinished_lines(comparison)]:
        console.print(Text(line))
