"""What task=report writes of many judges: the page, and its main table and figure as files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from mprm.reporting import markup
from mprm.reporting.compare import Comparison, as_markdown
from mprm.reporting.console import print_table
from mprm.reporting.cost import unfinished_lines, unfinished_table
from mprm.reporting.exhibit import save
from mprm.reporting.judge_forest import forest_exhibit
from mprm.reporting.judge_pairs import answers, answers_table
from mprm.reporting.judge_runs import JudgeComparison
from mprm.reporting.judge_settings import as_csv, runs_table, settings_table, titled
from mprm.reporting.judge_words import STAGES, percent
from mprm.reporting.tables import Table
from mprm.runs.artifacts import write_text

MOST = 8  # pairs of settings that are put into words; the table has all
MANY = 45  # rows from which a table is folded


def write_judge_comparison(runs: Path, comparison: JudgeComparison) -> Path:
    """Write the comparison of the judges below `runs`; return the page's path.

    report.html is the whole in one file; comparison.csv has every run (unrounded), comparison.md the tables,
    comparison.png and .svg the figure, comparison-2 that of a second benchmark. Where there are runs of step scorers,
    too, all names begin with judge_.
    """
    prefix = "judge_" if comparison.others else ""
    title = f"mprm judges {runs.resolve().name}"
    said = [answer.words for answer in answers(comparison)[:MOST]]
    html = [markup.findings("Verdicts", said)] if said else []
    for number, group in enumerate(comparison.groups, start=1):
        if one := forest_exhibit(group):
            save(replace(one, name=f"{prefix}comparison{f'-{number}' if number > 1 else ''}"), runs)
            html.append(markup.figure(one.figure, f"{one.name}-{number}", one.caption, one.says, one.title))
    missing = unfinished_table(_unfinished(comparison))
    shown = [table for group in comparison.groups for table in _tables(group)] + ([missing] if missing else [])
    html += [markup.table(table, folded=len(table.rows) > MANY) for table in shown]
    write_text(runs / f"{prefix}comparison.csv", as_csv(comparison))
    texts = [f"# {title}", headline(comparison), *(f"- {words}" for words in said)]
    texts += [f"## {table.title}\n\n{as_markdown(table).strip()}" for table in shown]
    write_text(runs / f"{prefix}comparison.md", "\n\n".join(texts) + "\n")
    page = runs / f"{prefix}report.html"
    write_text(page, markup.document(title, headline(comparison), html, wide=True))
    return page


def print_judge_comparison(comparison: JudgeComparison, console: Console | None = None) -> None:
    """Print the settings, what can be said of pairs of them, and what is not in the comparison."""
    console = console or Console()
    for group in comparison.groups:
        print_table(settings_table(group), console)
    said = [answer.words for answer in answers(comparison)[:MOST]]
    for line in [*said, *unfinished_lines(_unfinished(comparison))]:
        console.print(Text(line))


def headline(comparison: JudgeComparison) -> str:
    """How many runs were compared, and which setting has the highest accuracy; every benchmark by itself."""
    said = []
    for group in comparison.groups:
        settings, runs = len(group.rows), sum(len(row.runs) for row in group.rows)
        counted = f"{settings} {'setting' if settings == 1 else 'settings'} in {runs} {'run' if runs == 1 else 'runs'}"
        if group.rows and (best := group.rows[0].accuracy(group.stage)):
            reached = f"{STAGES[group.stage]} is {percent(best)} %, by {group.rows[0].label}"
            said.append(f"{counted}. The highest accuracy {reached}.")
    if len(said) > 1:
        said = ["Judges on other benchmarks are compared apart.", *said]
    return " ".join(said) or "No judge has been measured yet."


def _tables(comparison: JudgeComparison) -> list[Table]:
    found = answers(comparison)
    several = any(len(row.runs) > 1 for row in comparison.rows)
    return [
        settings_table(comparison),
        *([replace(table, title=titled(table.title, comparison))] if found and (table := answers_table(found)) else []),
        *([runs_table(comparison)] if several else []),
    ]


def _unfinished(comparison: JudgeComparison) -> Comparison:
    """What the tables of unfinished runs read."""
    return Comparison((), comparison.left_out, comparison.points)
