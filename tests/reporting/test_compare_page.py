import io
import shutil
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from mprm.metrics.estimate import Difference
from mprm.reporting.compare import Comparison, compare, run_folders
from mprm.reporting.compare_page import print_comparison, write_comparison
from mprm.reporting.verdicts import Verdict, questions, verdict
from mprm.runs.sweep_state import SweepJob

FIGURES = ("comparison", "heatmap", "ratio", "learning", "sources", "maps", "mean_mc", "overlap")
TABLES = ("settings", "verdicts", "by_source", "composition", "cost", "unfinished")


Measured = partial(Difference, seeds=(0, 1), resamples=1000)


@pytest.fixture(scope="module")
def written(many_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with its report."""
    runs = Path(shutil.copytree(many_runs, tmp_path_factory.mktemp("written") / "runs"))
    comparison = known(runs)
    write_comparison(runs, comparison, answers(comparison))
    return runs


def known(runs: Path) -> Comparison:
    points = (
        SweepJob(overrides="x=1", label="BIS at 7 %", name="a", state="failed", reason="the <loss> is nan"),
        *(SweepJob(overrides=f"y={n}", label=f"seed {n}", name=f"b{n}", state="waiting") for n in range(9)),
    )
    return compare(run_folders(runs), points)


def answers(comparison: Comparison) -> list[Verdict]:
    return [verdict(question, [Measured("auc", 0.02, 0.01, 0.03)]) for question in questions(comparison)]


def test_every_figure_and_table_is_on_the_page_and_a_file_of_its_own(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert page.count("<svg ") == len(FIGURES)
    assert all(f'<section id="{name}">' in page and f'href="#{name}"' in page for name in (*FIGURES, *TABLES))
    for name in FIGURES:
        assert (written / "report" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "</svg>" in (written / "report" / f"{name}.svg").read_text()
    assert all((written / "report" / f"{name}.csv").read_text().count("\n") > 1 for name in TABLES)
    names = {path.name for path in (written / "report").iterdir()}
    data = {"learning.csv", "mean_mc.csv", "overlap.csv"}
    both = {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")} | {f"{name}.csv" for name in TABLES}
    assert names == both | data | {"report.md"}


def test_the_main_table_and_figure_lie_beside_the_page(written: Path) -> None:
    for kind in ("png", "svg"):
        assert (written / f"comparison.{kind}").read_bytes() == (written / "report" / f"comparison.{kind}").read_bytes()
    assert "| Full |" in (written / "comparison.md").read_text()
    assert (written / "comparison.csv").read_text().startswith("benchmark,annotations,selector,alpha,ratio")


def test_verdicts_come_before_everything_else_and_texts_are_escaped(written: Path) -> None:
    page = (written / "report.html").read_text()
    places = [page.index(text) for text in ("Full has the highest mean AUC, 0.900", 'class="tiles"', "<svg ")]
    assert places == sorted(places)
    assert "the &lt;loss&gt; is nan" in page
    assert "<loss>" not in page
    markdown = (written / "report" / "report.md").read_text()
    assert "- Full has the highest mean AUC, 0.900" in markdown
    assert "![Learning curves](learning.svg)" in markdown
    assert "| BIS at 7 % | failed | the <loss> is nan |" in markdown


def test_columns_of_words_are_read_from_the_left_and_long_tables_are_folded(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert '<td class="words">failed</td>' in page
    assert "<td>0.900" in page
    assert "<summary>" not in page
    many = tuple(SweepJob(overrides=f"y={n}", label=f"seed {n}", name=None, state="waiting") for n in range(50))
    comparison = Comparison((), {}, many)
    assert "Not in this comparison: 50 rows</summary>" in write_comparison(written.parent, comparison).read_text()


def test_the_same_runs_give_the_same_bytes(written: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(written, tmp_path / "runs"))
    (runs / "report" / "old.svg").write_text("of a setting that is gone")
    comparison = known(runs)
    write_comparison(runs, comparison, answers(comparison))
    for path in written.glob("report/*"):
        assert (runs / "report" / path.name).read_bytes() == path.read_bytes(), path.name
    assert not (runs / "report" / "old.svg").exists()
    assert (runs / "report.html").read_bytes() == (written / "report.html").read_bytes()


def test_a_run_of_the_name_report_is_not_overwritten(many_runs: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(many_runs, tmp_path / "runs"))
    (runs / "full-0").rename(runs / "report")
    with pytest.raises(ValueError, match="report is a run folder"):
        write_comparison(runs, compare(run_folders(runs)))
    assert (runs / "report" / "results.json").exists()


def test_one_setting_is_a_page_without_what_needs_two(many_runs: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for seed in (0, 1):
        shutil.copytree(many_runs / f"bis-0.2-0.5-{seed}", runs / f"bis-{seed}")
    page = write_comparison(runs, compare(run_folders(runs))).read_text()
    assert page.count("<svg ") == 5
    assert not any(
        f'<section id="{name}">' in page for name in ("heatmap", "ratio", "overlap", "verdicts", "unfinished")
    )


def test_nothing_finished_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("seed: 0\n")
    comparison = compare(run_folders(tmp_path))
    buffer = io.StringIO()
    print_comparison(comparison, Console(file=buffer, width=100))
    assert "Left out: a (not finished" in buffer.getvalue()
    assert "No run has results yet." in write_comparison(tmp_path, comparison).read_text()


def test_the_terminal_stresses_the_best_and_folds_what_waits(written: Path) -> None:
    comparison = known(written)
    buffer = io.StringIO()
    print_comparison(
        comparison, Console(file=buffer, width=160, force_terminal=True, color_system="standard"), answers(comparison)
    )
    lines = buffer.getvalue().splitlines()
    bold = [line for line in lines if "\x1b[1m" in line and "0.900" in line]
    assert len(bold) == 1
    assert "Full" in bold[0]
    assert any(line.startswith("Full has the highest mean AUC") for line in lines)
    assert "Failed: BIS at 7 %: the <loss> is nan" in lines
    assert "Not finished: 9 waiting" in lines
