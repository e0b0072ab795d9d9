"""What task=rerank reports: the page beside results.json, its figures as files, and what the terminal says."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from mprm.metrics.results import AGAIN
from mprm.reporting import choice_tables as tables
from mprm.reporting import markup
from mprm.reporting.choice_figures import adaptive_exhibit, curves_exhibit, sources_exhibit
from mprm.reporting.choice_tables import ALL, Results
from mprm.reporting.console import print_table
from mprm.reporting.exhibit import Exhibit, save
from mprm.reporting.old_layout import read_before
from mprm.reporting.tables import Table
from mprm.runs.artifacts import write_text

MANY = 20  # rows from which a table is folded


def write_best_of_n(folder: Path) -> Path:
    """Write report.html of folder/results.json, and its figures as .svg and .png beside it; return the page's path.

    Raises ValueError when there is no results.json of task=rerank in the folder.
    """
    source = folder / "results.json"
    results = read_before(source, AGAIN) if source.is_file() else {}
    if "benchmarks" not in results:
        raise ValueError(f"{source} is not there or not of task=rerank; run task=rerank input=FILE output={folder}")
    exhibits = [one for one in (curves_exhibit(results), sources_exhibit(results), adaptive_exhibit(results)) if one]
    page = folder / "report.html"
    write_text(page, _page(f"mprm best-of-N {folder.resolve().name}", results, exhibits))
    for exhibit in exhibits:
        save(exhibit, folder)
    return page


def print_best_of_n(results: Results, console: Console | None = None) -> None:
    """Print every model's choice with all candidates beside the policy's, and what can be said of them."""
    console = console or Console()
    table = tables.methods_table(results, short=True)
    print_table(table, console)
    for line in tables.sentences(results):
        console.print(Text(line))


def _page(title: str, results: Results, exhibits: list[Exhibit]) -> str:
    shown: list[Table | None] = [
        tables.methods_table(results),
        tables.between_table(results),
        tables.adaptive_table(results),
        *(tables.methods_table(results, source) for source in tables.sources(results)),
        tables.left_out_table(results),
    ]
    sentences = tables.sentences(results)
    html = [markup.findings("Verdicts", sentences)] if sentences else []
    html.append(_tiles(results))
    html += [markup.figure(one.figure, one.name, one.caption, one.says, one.title) for one in exhibits]
    html += [markup.table(one, folded=len(one.rows) > MANY) for one in shown if one and one.rows]
    return markup.document(title, tables.headline(results), html, wide=True)


def _tiles(results: Results) -> str:
    report, aggregate = results["benchmarks"][ALL], results["aggregate"]
    shown = [(words.partition(":")[0], report["policy"][name], "policy alone") for name, words in tables.POLICY.items()]
    if models := tables.ranked(results):
        rule, best = tables.best_rule(results)
        chosen = f"{models[0]}, {tables.METHODS.get(aggregate, aggregate)}"
        numbers = [("Chosen rule", report["models"][models[0]][aggregate], chosen), ("Best rule measured", best, rule)]
        shown[2:2] = numbers[: 1 + (rule != chosen)]
    return markup.tiles([(name, f"{100 * tables.at_n_max(one).value:.1f} %", below) for name, one, below in shown])
