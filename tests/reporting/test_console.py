import io
from pathlib import Path

import pytest
from rich.console import Console

from mprm.reporting.collect import read_run
from mprm.reporting.console import print_run, print_table
from mprm.reporting.tables import Table


@pytest.fixture
def shown(run: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("NO_COLOR", "1")
    buffer = io.StringIO()
    print_run(read_run(run), Console(file=buffer, width=100))
    return buffer.getvalue()


def test_headline_values_are_there(shown: str) -> None:
    for text in (
        "bis-demo",
        "98 of 980 rollouts",
        "81.0 [79.5, 82.4]",
        "80.0 [78.5, 81.4]",
        "0.893 [0.882, 0.905]",
        "oracle (optimistic)",
        "baseline: position only",
        "55.1",
        "bars_diff",
    ):
        assert text in shown


def test_plain_text_within_100_columns(shown: str) -> None:
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_an_empty_run_prints(tmp_path: Path) -> None:
    buffer = io.StringIO()
    print_run(read_run(tmp_path), Console(file=buffer, width=100))
    assert "No subset has been selected yet" in buffer.getvalue()


def test_texts_are_no_markup() -> None:
    buffer = io.StringIO()
    print_table(Table("[red]t[/red]", ("[b]",), (("[/x] [0.1, 0.2]",),), "[i]"), Console(file=buffer))
    for text in ("[red]t[/red]", "[b]", "[/x] [0.1, 0.2]", "[i]"):
        assert text in buffer.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
@pytest.mark.parametrize(
    "name", ["Full", "BIS, alpha 0.2, objective Soft, 10 %", "bis-alpha0.2-ratio0.1-hard-chartworld_internvl"]
)
@pytest.mark.parametrize("columns", [1, 3, 7])
def test_every_cell_is_there_at_every_width(width: int, name: str, columns: int) -> None:
    heads = tuple(f"measure {number}" for number in range(columns))
    cells = tuple(f"0.{number}54 [0.{number}39, 0.{number}70]" for number in range(columns))
    buffer = io.StringIO()
    print_table(Table("All settings", ("setting", *heads), ((name, *cells),)), Console(file=buffer, width=width))
    lines = buffer.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    said = " ".join(lines)
    for number in range(columns):
        assert f"0.{number}54" in said
        assert f"[0.{number}39, 0.{number}70]" in said
        assert f" {number}" in said
    assert "".join(name.split()).startswith("".join(lines[2].split()[:1]))
