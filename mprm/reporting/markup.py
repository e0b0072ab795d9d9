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
h1 { margin: 0; font-size: 1.05rem; font-weight: 600; color: var(--muted); overflow-wrap: anywhere; }
h2 { margin: 0 0 .6rem; font-size: 1.1rem; }
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
table { border-collapse: collapse; width: 100%; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .7rem; text-align: right; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th { font-weight: 600; color: var(--muted); vertical-align: bottom; }
tbody tr:last-child > * { border-bottom: 0; }
th:first-child { padding-left: 0; text-align: left; white-space: normal; }
tbody th { font-weight: 400; color: var(--ink); }
.main > * { font-weight: 650 !important; }
pre { margin: .5rem 0 0; padding: .9rem; overflow-x: auto; background: var(--page); border-radius: .4rem; }
pre { font-size: .85rem; line-height: 1.5; }
summary { cursor: pointer; font-weight: 600; }
a { color: var(--blue); }
"""


def document(title: str, headline: str, parts: list[str]) -> str:
    """A whole page that needs nothing from outside: no script, no font, no image file. `parts` are HTML."""
    light = _variables(0) + "--page:#f4f5f7;"
    dark = _variables(1) + "--page:#111519;"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
:root {{ color-scheme: light dark; {light} }}
@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}
@media print {{ :root {{ {light} }} section {{ break-inside: avoid; }} }}
{CSS.strip()}
</style>
</head>
<body>
<main>
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


def figure(drawing: Figure, name: str, caption: str, description: str) -> str:
    """A card with the drawing, a caption, and the description as text alternative."""
    svg = inline_svg(drawing, name, description)
    return f"<section><figure>{svg}<figcaption>{escape(caption)}</figcaption></figure></section>\n"


def table(content: Table) -> str:
    """A card with one table."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in content.columns)
    body = "".join(_row(row, stressed=row[0] == content.main) for row in content.rows)
    note = f'<p class="note">{escape(content.note)}</p>' if content.note else ""
    grid = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<section><h2>{escape(content.title)}</h2><div class="scroll">{grid}</div>{note}</section>\n'


def _row(cells: tuple[str, ...], stressed: bool) -> str:
    opening = '<tr class="main">' if stressed else "<tr>"
    rest = "".join(f"<td>{escape(cell)}</td>" for cell in cells[1:])
    return f'{opening}<th scope="row">{escape(cells[0])}</th>{rest}</tr>'


def note(title: str, text: str) -> str:
    """A card that says why something is not shown."""
    return f'<section><h2>{escape(title)}</h2><p class="note">{escape(text)}</p></section>\n'


def listing(title: str, content: Any) -> str:
    """A card, folded, with a text or an object as it is."""
    text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False, default=str)
    return f"<section><details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details></section>\n"
