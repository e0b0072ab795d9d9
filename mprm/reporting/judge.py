"""What the run of a judge reports: the page beside results.json, its figures as files, and what the terminal says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from mprm.reporting import judge_tables as tables
from mprm.reporting import markup
from mprm.reporting.collect import read_json_lines
from mprm.reporting.console import print_table
from mprm.reporting.exhibit import Exhibit, save
from mprm.reporting.judge_figures import RL_CURVES, SFT_CURVES, curves_exhibit, entropy_exhibit, pairs_exhibit
from mprm.reporting.judge_words import STAGES, Results, headline, judges, percent, sentences
from mprm.reporting.old_layout import read_before
from mprm.runs.artifacts import redo_remedy, write_text


def write_judge(folder: Path) -> Path:
    """Write report.html of folder/results.json, and its figures as .svg and .png beside it; return the page's path.

    The curves of the two trainings come from folder/sft/metrics.jsonl and folder/rl/metrics.jsonl; what was not run or
    not measured is not on the page.
    Raises ValueError when there is no results.json of a judge in the folder, or a file can not be read.
    """
    source = folder / "results.json"
    results = read_before(source, redo_remedy("judge")) if source.exists() else {}
    if "preferences" not in results:
        raise ValueError(f"{source} is not there or not of a judge; run task=egt runs={folder.parent}")
    exhibits = _exhibits(folder, results)
    for exhibit in exhibits:
        save(exhibit, folder)
    page = folder / "report.html"
    write_text(page, _page(f"mprm judge {folder.resolve().name}", results, exhibits))
    return page


def print_judge(results: Results, console: Console | None = None) -> None:
    """Print the judge by stage, what was kept where none was measured, and what can be said of both."""
    console = console or Console()
    table = tables.judges_table(results) or tables.curation_table(results)
    if table:
        print_table(table, console)
    if plus := tables.acc_plus_table(results):
        print_table(plus, console)
    for line in sentences(results) or [headline(results)]:
        console.print(Text(line))


def _exhibits(folder: Path, results: Results) -> list[Exhibit]:
    def logged(stage: str) -> list[dict[str, Any]]:
        return read_json_lines(folder / stage / "metrics.jsonl") or []

    drawn = [
        entropy_exhibit(results),
        pairs_exhibit(results),
        curves_exhibit("rl_curves", "Reinforcement learning", RL_CURVES, logged("rl")),
        curves_exhibit("sft_curves", "Supervised fine-tuning", SFT_CURVES, logged("sft")),
    ]
    return [one for one in drawn if one]


def _page(title: str, results: Results, exhibits: list[Exhibit]) -> str:
    shown = [
        tables.judges_table(results),
        tables.responses_table(results),
        tables.sources_table(results),
        tables.acc_plus_table(results),
        tables.bins_table(results),
        tables.curation_table(results),
        tables.training_bins_table(results),
        tables.training_table(results),
        tables.left_out_table(results),
    ]
    said, tiles = sentences(results), _tiles(results)
    html = [markup.findings("Verdicts", said)] if said else []
    html += [markup.tiles(tiles)] if tiles else []
    html += [markup.figure(one.figure, one.name, one.caption, one.says, one.title) for one in exhibits]
    html += [markup.table(one) for one in shown if one]
    used = {key: results[key] for key in ("preferences", "reward_benchmark") if results.get(key)}
    html.append(markup.listing("Pairs", used))
    return markup.document(title, headline(results), html, wide=True)


def _tiles(results: Results) -> list[tuple[str, str, str]]:
    numbers = []
    for stage, judge in judges(results).items():
        value, interval = percent(judge["accuracy"]).split(" ", 1)
        numbers.append((f"Accuracy {STAGES[stage]}", f"{value} %", f"95 % interval {interval}"))
    if curation := results.get("curation"):
        numbers.append(("Pairs kept", f"{curation['kept']:,}", f"of {curation['eligible']:,}"))
        if flipped := curation.get("flipped"):
            below = f"in random subsets {100 * flipped['random']:.1f} %"
            numbers.append(("Wrong labels kept", f"{100 * flipped['kept']:.1f} %", below))
    return numbers
