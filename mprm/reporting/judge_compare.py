"""What task=report writes of many judges: the page, and its main table and figure as files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from mprm.artifacts import write_text
from mprm.reporting import markup
from mprm.reporting.compare import Comparison, as_markdown
from mprm.reporting.console import print_table
from mprm.reporting.cost import unfinished_lines, unfinished_table
from mprm.reporting.exhibit import save
from mprm.reporting.judge_forest import forest_exhibit
from mprm.reporting.judge_pairs import answers, answers_table
from mprm.reporting.judge_runs import JudgeComparison
from mprm.reporting.judge_settings import as_csv, runs_table, settings_table
from mprm.reporting.judge_words import STAGES, percent
from mprm.reporting.tables import Table

MOST = 8  # pairs of settings that are put into words; the table has all
MANY = 45  # rows from which a table is folded


def write_judge_comparison(runs: Path, comparison: JudgeComparison) -> Path:
    """Write the comparison of the judges below `runs`; return the page's path.

    report.html is the whole in one file; comparison.csv has every run (unrounded), comparison.md the tables,
    comparison.png and .svg the figure. Where there are runs of step scorers, too, all names begin with judge_.
    """
    prefix = "judge_" if comparison.others else ""
    title = f"mprm judges {runs.resolve().name}"
    said = [answer.words for answer in answers(comparison)[:MOST]]
    shown, exhibit = _tables(comparison), forest_exhibit(comparison)
    if exhibit:
        save(replace(exhibit, name=f"{prefix}comparison"), runs)
    write_text(runs / f"{prefix}comparison.csv", as_csv(comparison))
    texts = [f"# {title}", headline(comparison), *(f"- {words}" for words in said)]
    texts += [f"## {table.title}\n\n{as_markdown(table).strip()}" for table in shown]
    write_text(runs / f"{prefix}comparison.md", "\n\n".join(texts) + "\n")
    html = [markup.findings("Verdicts", said)] if said else []
    for one in [exhibit] if exhibit else []:
        html.append(markup.figure(one.figure, one.name, one.caption, one.says, one.title))
    html += [markup.table(table, folded=len(table.rows) > MANY) for table in shown]
    page = runs / f"{prefix}report.html"
    write_text(page, markup.document(title, headline(comparison), html, wide=True))
    return page


def print_judge_comparison(comparison: JudgeComparison, console: Console | None = None) -> None:
    """Print the settings, what can be said of pairs of them, and what is not in the comparison."""
    console = console or Console()
    table = settings_table(comparison)
    print_table(table, console)
    said = [answer.words for answer in answers(comparison)[:MOST]]
    for line in [*said, *unfinished_lines(_unfinished(comparison))]:
        console.print(Text(line))


def headline(comparison: JudgeComparison) -> str:
    """How many runs were compared, and which setting has the highest accuracy."""
    rows, stage = comparison.rows, comparison.stage
    best = rows[0].accuracy(stage) if rows else None
    if not best:
        return "No judge has been measured yet."
    settings, runs = len(rows), sum(len(row.runs) for row in rows)
    return (
        f"{settings} {'setting' if settings == 1 else 'settings'} in {runs} {'run' if runs == 1 else 'runs'}. "
        f"The highest accuracy {STAGES[stage]} is {percent(best)} %, by {rows[0].label}."
    )


def _tables(comparison: JudgeComparison) -> list[Table]:
    found, missing = answers(comparison), unfinished_table(_unfinished(comparison))
    several = any(len(row.runs) > 1 for row in comparison.rows)
    return [
        settings_table(comparison),
        *([answers_table(found)] if found else []),
        *([runs_table(comparison)] if several else []),
        *([missing] if missing else []),
    ]


def _unfinished(comparison: JudgeComparison) -> Comparison:
    """What the tables of unfinished runs read."""
    return Comparison((), comparison.left_out, comparison.points)
