"""The HTML that every report is made of: one self-contained page, tables, figures. All texts are escaped here."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from matplotlib.figure import Figure

from mprm.reporting.style import PALETTE, inline_svg
from mprm.reporting.tables import Table

CSS = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); }
body { font: 16px/1.55 system-ui, "Segoe UI", Roboto, Arial, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
main.wide { max-width: 80rem; }
h1 { margin: 0; font-size: 1.05rem; font-weight: 600; color: var(--muted); overflow-wrap: anywhere; }
h2 { margin: 0 0 .6rem; font-size: 1.1rem; }
h2.group { margin: 2rem 0 .8rem; font-size: 1.3rem; }
p { margin: .5rem 0; }
.headline { margin: .5rem 0 1.5rem; font-size: 1.3rem; line-height: 1.45; text-wrap: pretty; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem; margin: 0 0 1.2rem; }
.tiles div, section { background: var(--card); border: 1px solid var(--grid); border-radius: .6rem; }
.tiles div { padding: .8rem 1rem; }
.tiles dt { font-size: .85rem; color: var(--muted); }
.tiles dd { margin: 0; font-size: 1.55rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.tiles dd small { display: block; font-size: .85rem; font-weight: 400; color: var(--muted); }
section { margin: 0 0 1.2rem; padding: 1.1rem 1.25rem; }
figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; }
figure svg text { font-family: "DejaVu Sans", Verdana, system-ui, sans-serif !important; }
figcaption, .note { margin-top: .6rem; font-size: .9rem; color: var(--muted); }
.scroll { overflow-x: auto; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin: 0 0 1.2rem; font-size: .92rem; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
.findings ul { margin: 0; padding-left: 1.2rem; }
.findings li { margin: .3rem 0; }
.findings li:first-child { font-weight: 650; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .7rem; text-align: right; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th { font-weight: 600; color: var(--muted); vertical-align: bottom; }
tbody tr:last-child > * { border-bottom: 0; }
th:first-child { padding-left: 0; text-align: left; white-space: normal; }
th:first-child { position: sticky; left: 0; background: var(--card); min-width: 11rem; }
tbody th { font-weight: 400; color: var(--ink); }
.words { text-align: left; }
tbody th, td { vertical-align: baseline; }
td.words { white-space: normal; min-width: 9rem; }
.main > * { font-weight: 650 !important; }
pre { margin: .5rem 0 0; padding: .9rem; overflow-x: auto; background: var(--page); border-radius: .4rem; }
pre { font-size: .85rem; line-height: 1.5; }
summary { cursor: pointer; font-weight: 600; }
a { color: var(--blue); }
"""


def document(title: str, headline: str, parts: list[str], wide: bool = False) -> str:
    """A whole page that needs nothing from outside: no script, no font, no image file. `parts` are HTML.

    Its content security policy has a browser refuse, and complain about, whatever it would fetch.
    """
    main = '<main class="wide">' if wide else "<main>"
    light = _variables(0) + "--page:#f4f5f7;"
    dark = _variables(1) + "--page:#111519;"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
:root {{ color-scheme: light dark; {light} }}
@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}
@media print {{
:root {{ {light} }}
section {{ break-inside: avoid; }}
nav {{ display: none; }}
details::details-content {{ content-visibility: visible; block-size: auto; }}
}}
{CSS.strip()}
</style>
</head>
<body>
{main}
<h1>{escape(title)}</h1>
<p class="headline">{escape(headline)}</p>
{"".join(parts)}</main>
</body>
</html>
"""


def _variables(mode: int) -> str:
    return "".join(f"--{name}:{colours[mode]};" for name, colours in PALETTE.items())


def tiles(numbers: list[tuple[str, str, str]]) -> str:
    """The few numbers to read first: (name, value, what stands below it)."""
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(below)}</small></dd></div>"
        for name, value, below in numbers
    )
    return f'<dl class="tiles">{rows}</dl>\n'


def figure(drawing: Figure, name: str, caption: str, description: str, title: str = "") -> str:
    """A card with the drawing, a caption, and the description as text alternative. The card's id is `name`."""
    svg = inline_svg(drawing, name, description)
    width = min(round(62 * drawing.get_figwidth()), 900)  # a narrow screen scrolls: it does not shrink the letters away
    framed = f'<div class="scroll"><div style="min-width:{width}px">{svg}</div></div>'
    head = f"<h2>{escape(title)}</h2>" if title else ""
    return f'<section id="{name}">{head}<figure>{framed}<figcaption>{escape(caption)}</figcaption></figure></section>\n'


def table(content: Table, name: str = "", folded: bool = False) -> str:
    """A card with one table, `folded` behind its title. The card's id is `name`."""
    words = [_is_words([row[place] for row in content.rows]) for place in range(len(content.columns))]
    looks = [' class="words"' if of_words else "" for of_words in words]
    named = zip(content.columns, looks, strict=True)
    head = "".join(f'<th scope="col"{look}>{escape(text)}</th>' for text, look in named)
    body = "".join(_row(row, looks, stressed=row[0] == content.main) for row in content.rows)
    note = f'<p class="note">{escape(content.note)}</p>' if content.note else ""
    grid = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    inside, title = f'<div class="scroll">{grid}</div>{note}', escape(content.title)
    opening = f'<section id="{name}">' if name else "<section>"
    if folded:
        return f"{opening}<details><summary>{title}: {len(content.rows)} rows</summary>{inside}</details></section>\n"
    return f"{opening}<h2>{title}</h2>{inside}</section>\n"


def _is_words(cells: list[str]) -> bool:
    """A column without a number in front is read from the left."""
    return any(cell != "-" for cell in cells) and all(cell == "-" or cell[:1].isalpha() for cell in cells)


def _row(cells: tuple[str, ...], looks: list[str], stressed: bool) -> str:
    opening = '<tr class="main">' if stressed else "<tr>"
    rest = "".join(f"<td{look}>{escape(cell)}</td>" for cell, look in zip(cells[1:], looks[1:], strict=True))
    return f'{opening}<th scope="row">{escape(cells[0])}</th>{rest}</tr>'


def contents(places: list[tuple[str, str]]) -> str:
    """Links to the cards of the page: (id, words)."""
    links = "".join(f'<a href="#{name}">{escape(words)}</a>' for name, words in places)
    return f'<nav aria-label="Contents">{links}</nav>\n'


def heading(words: str) -> str:
    """What the cards below it have in common."""
    return f'<h2 class="group">{escape(words)}</h2>\n'


def findings(title: str, sentences: list[str]) -> str:
    """A card of sentences, the first one stressed."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<section class="findings"><h2>{escape(title)}</h2><ul>{items}</ul></section>\n'


def note(title: str, text: str) -> str:
    """A card that says why something is not shown."""
    return f'<section><h2>{escape(title)}</h2><p class="note">{escape(text)}</p></section>\n'


def listing(title: str, content: Any) -> str:
    """A card, folded, with a text or an object as it is."""
    text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False, default=str)
    return f"<section><details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details></section>\n"
