"""The report of a search that a reward model guides, beside choosing and voting at equal tokens."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from mprm.metrics.results import read_results
from mprm.metrics.search_results import SearchResults
from mprm.reporting.report import Report, Section, Table, Text, counts_table, print_report, write_page

WAYS = {"search": "search", "best_of_n": "best-of-N", "weighted_majority": "weighted majority"}
WAYS |= {"majority": "majority vote", "pass@1": "pass@1: one candidate"}


def write_search(folder: Path) -> Path:
    """Write report.html of folder/results.json; return the page's path.

    Raises ValueError when there is no results.json of task=search in the folder.
    """
    results = read_results(folder / "results.json", SearchResults)
    note = "Questions were left out; candidates without a score rank last and do not vote."
    sections: list[Section | None] = [
        Text("Verdicts", results.verdicts, "list"),
        ways_table(results),
        counts_table("Not used, not scored or thrown away", left_out(results), note),
    ]
    report = Report(f"mprm search {folder.resolve().name}", lead(results), sections, wide=True)
    return write_page(report, folder / "report.html")


def print_search(results: SearchResults, console: Console) -> None:
    """Print every way with its tokens, and what can be said of the search."""
    print_report(Report("", lead(results), [ways_table(results), Text("", results.verdicts, "list")]), console)


def left_out(results: SearchResults) -> dict[str, dict[str, int]]:
    return {"questions": results.unusable, "candidates": results.unscored, "drawn steps": results.lost}


def lead(results: SearchResults) -> str:
    """What was searched, and how the searches ended."""
    ends = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in results.ends.items())
    return (
        f"{results.questions:,} questions: {results.label}, {results.ways['search'].tokens:,.0f} tokens a question, "
        f"which {results.candidates:.1f} candidates cost. Searches by what ended them: {ends}. {results.unanswered:,} "
        "have no answer, and are wrong."
    )


def ways_table(results: SearchResults) -> Table:
    rows = []
    for name, words in WAYS.items():
        way = results.ways[name]
        minus = "-" if way.search_minus is None else way.search_minus.signed_points()
        rows.append((words, way.accuracy.points(), minus, f"{way.tokens:,.1f}", f"{way.steps:,.1f}"))
    note = (
        "Right answers in percent, differences in points. Brackets: 95 % bootstrap over questions, the same for both "
        "sides of a difference. Tokens: of the policy, mean of a question, also those of steps that are thrown away. "
        f"Best-of-N (by {results.aggregate}) and votes have {results.candidates:.2f} candidates, a mean of what the "
        "two whole numbers reach, which cost what the search costs. Steps: read by the reward model, counted anew in "
        "every solution that holds them."
    )
    columns = ("way", "accuracy (%)", "search minus it", "tokens", "steps scored")
    title = f"At equal tokens ({results.questions:,} questions)"
    return Table(title, columns, tuple(rows), note, WAYS["search"])
