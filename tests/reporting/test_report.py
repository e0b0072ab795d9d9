"""The model of a report and its writers."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure as Drawing
from rich.console import Console

from mprm.reporting.report import (
    FOLDED_FROM,
    Card,
    Cards,
    Figure,
    Heading,
    Marked,
    Report,
    Table,
    Text,
    code,
    counts_table,
    html,
    markdown,
    print_report,
    print_table,
    write_figures,
    write_page,
    write_tables,
)
from mprm.reporting.style import PALETTE, styled

PICTURE = "data:image/webp;base64,UklGRg=="
VALUES = (("a|b", "1", "yes"), ("c", "2", "-"))
HOSTILE = "</pre><script>alert('x')</script>\"&[/red]"


class Balanced(HTMLParser):
    """Fails on a tag that is not closed in order; collects tags, ids, references and the visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value) for name, value in attrs if value is not None]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, *names: str) -> list[str]:
        return [value for name, value in self.attributes if name in names]


def drawing() -> Drawing:
    with styled():
        figure = Drawing(layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [1, 0], color=PALETTE["blue"][0], marker="o", label="a line")
        axes.set_title(HOSTILE)
        axes.legend()
    return figure


@pytest.fixture
def report() -> Report:
    numbers = Table("Numbers behind it", ("x", "y"), (("0", "1"),))
    return Report(
        f"Title {HOSTILE}",
        "The lead.",
        [
            Text("Verdicts", ["The first is stressed.", HOSTILE], "list"),
            Heading("A group"),
            Cards(
                "Examples", "A rule.", [Card("Found", [PICTURE], HOSTILE, [Marked("1 + 1", "below", 70, True)])], "six"
            ),
            Figure("one", "Figure one", drawing(), "Its caption.", f"What it shows: {HOSTILE}", numbers),
            Figure("two", "Figure two", drawing(), "Another.", "The same once more."),
            Table(
                "Values", ("name", "number", "words"), (("a|b", "1", "yes"), ("c", "2", "-")), "A note.", "c", "values"
            ),
            Table("Long", ("n",), tuple((str(n),) for n in range(FOLDED_FROM + 1)), name="long"),
            Text("No map", ["Because."]),
            code("Config", {"key": HOSTILE}),
            None,
            Table("Empty", ("n",), ()),
            Text("Nothing", [], "list"),
        ],
        contents=True,
    )


def test_a_page_is_whole_and_needs_nothing_from_outside(report: Report, tmp_path: Path) -> None:
    page = write_page(report, tmp_path / "report.html").read_text(encoding="utf-8")
    found = Balanced(page)
    ids, references = found.values("id"), found.values("href", "xlink:href", "src")
    assert len(ids) == len(set(ids))
    assert {reference.removeprefix("#") for reference in references} - {PICTURE} <= set(ids), "links lead to a place"
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(ids)
    assert not {"script", "link", "iframe"} & set(found.tags)
    assert set(re.findall(r"https?://[^/\"]+", page)) <= {"http://www.w3.org"}
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_a_page_shows_every_section_and_what_is_empty_not(report: Report) -> None:
    found = Balanced(html(report))
    for text in ("The lead.", "A group", "Its caption.", "Numbers of", "Because.", f"Long: {FOLDED_FROM + 1} rows"):
        assert (text in found.text) == (text != "Numbers of"), text
    assert found.text.count(HOSTILE) >= 4
    assert "Empty" not in found.text
    assert "Nothing" not in found.text
    assert found.tags.count("details") == 2
    assert found.values("href")[:4] == ["#six", "#one", "#two", "#values"]
    assert [value for value in found.values("class") if value == "main"] == ["main"]
    labels = found.values("aria-label")[1:]
    assert len(labels) == found.tags.count("figure") == found.tags.count("figcaption") == 2
    assert labels[0] == f"What it shows: {HOSTILE}"


def test_a_page_follows_the_reader_into_dark_mode(report: Report) -> None:
    page = html(report)
    assert "prefers-color-scheme: dark" in page
    in_figures = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "var(--blue)" in in_figures
    assert not any(light in in_figures for light, _ in PALETTE.values())


def test_the_same_report_is_the_same_page(report: Report) -> None:
    assert html(report) == html(report)


def test_markdown_has_all_that_the_page_has(report: Report) -> None:
    text = markdown(report)
    for part in (
        "- The first is stressed.",
        "![Figure one](one.svg)",
        "### Found",
        "1. 1 + 1 (below)",
        "Its caption.",
        f"What it shows: {HOSTILE}",
        "| name | number | words |\n| --- | ---: | ---: |\n| a\\|b | 1 | yes |",
        "A note.",
        "```\n{",
    ):
        assert part in text


def test_figures_and_tables_are_files(report: Report, tmp_path: Path) -> None:
    write_figures(report, tmp_path)
    write_tables(report, tmp_path)
    written = {path.name: path for path in tmp_path.iterdir()}
    assert set(written) == {"one.png", "one.svg", "two.png", "two.svg", "one.csv", "values.csv", "long.csv"}
    assert written["values.csv"].read_text() == "name,number,words\na|b,1,yes\nc,2,-\n"
    assert written["one.csv"].read_text() == "x,y\n0,1\n"
    before = {name: path.read_bytes() for name, path in written.items()}
    write_figures(report, tmp_path)
    assert {name: path.read_bytes() for name, path in written.items()} == before


def test_counts_are_sorted_and_none_are_left_out() -> None:
    table = counts_table("Left out", {"records": {"a": 1, "b": 2000}, "pairs": {"c": 0}})
    assert table.rows == (("records", "b", "2,000"), ("records", "a", "1"))


# ---- the terminal


def shown(report: Report | Table, width: int = 80) -> list[str]:
    buffer = io.StringIO()
    console = Console(file=buffer, width=width)
    print_table(report, console) if isinstance(report, Table) else print_report(report, console)
    return buffer.getvalue().splitlines()


def test_the_terminal_has_lead_tables_and_sentences_as_they_are(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    lines = shown(report)
    said = "\n".join(lines)
    assert "\x1b" not in said
    assert max(map(len, lines)) <= 80
    for text in ("The lead.", "The first is stressed.", "[/red]", "Values", "a|b", "A note."):
        assert text in said
    assert "Figure one" not in said


@pytest.mark.parametrize("width", [40, 80, 120])
def test_every_cell_is_there_at_every_width(width: int) -> None:
    for name in ("Full", "BIS, alpha 0.2, objective Soft, 10 %", "bis-alpha0.2-ratio0.1-hard-chartworld_internvl"):
        for columns in (1, 3, 7):
            heads = tuple(f"measure {number}" for number in range(columns))
            cells = tuple(f"0.{number}54 [0.{number}39, 0.{number}70]" for number in range(columns))
            lines = shown(Table("All settings", ("setting", *heads), ((name, *cells),)), width)
            assert max(map(len, lines)) <= width
            said = " ".join(lines)
            for number in range(columns):
                assert f"0.{number}54" in said
                assert f"[0.{number}39, 0.{number}70]" in said
                assert f" {number}" in said
            assert "".join(name.split()).startswith("".join(lines[2].split()[:1]))
