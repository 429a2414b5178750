"""The HTML report: sections of text, charts and sortable tables in one file that makes no request.

The content security policy of the page forbids every request, so no data can leave it by mistake.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from genrec_cli import console

STYLE = """
:root { color-scheme: light dark; --ink: #222; --faint: #666; --line: #ddd; --paper: #fff; --band: #f6f6f4 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --faint: #a8a8a8; --line: #444; --paper: #1b1b1d; --band: #242427 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1080px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.5rem } h3 { font-size: 1rem; margin-top: 1.5rem }
p { max-width: 75ch } nav a { margin-right: 1rem } a { color: inherit }
.scroll { overflow-x: auto } svg { display: block; width: 100%; min-width: 480px; font: 12px system-ui, sans-serif }
svg text { fill: var(--ink) } svg .grid { stroke: var(--line) } svg .interval { stroke: var(--ink); stroke-width: 1.3 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; margin: .5rem 0 1rem }
th, td { padding: .25rem .6rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap }
th { white-space: normal; vertical-align: bottom; min-width: 4ch } th.number { text-align: right }
td.long { white-space: normal; min-width: 20ch; max-width: 60ch } td.number { text-align: right }
tbody tr:nth-child(even) { background: var(--band) }
th:first-child, td:first-child:not(.long) { position: sticky; left: 0; background: var(--paper) }
tbody tr:nth-child(even) td:first-child { background: var(--band) }
th button { all: unset; cursor: pointer; font-weight: 600 } th button:focus-visible { outline: 2px solid }
th[aria-sort=ascending] button::after { content: " ▲" } th[aria-sort=descending] button::after { content: " ▼" }
footer, .note { color: var(--faint) }
@media print { nav { display: none } body { max-width: none; margin: 0; font-size: 11px } table { font-size: 9px }
  h2, h3 { break-after: avoid } svg, tr { break-inside: avoid } .scroll { overflow: visible }
  th:first-child, td:first-child { position: static } svg { min-width: 0 }
  th button::after { content: "" !important } th, td { white-space: normal } }
"""
SCRIPT = """
for (const button of document.querySelectorAll('th button')) button.onclick = () => {
  const th = button.parentNode, body = th.closest('table').tBodies[0], at = th.cellIndex;
  const up = th.getAttribute('aria-sort') !== 'ascending', sign = up ? 1 : -1;
  for (const other of th.parentNode.cells) other.removeAttribute('aria-sort');
  th.setAttribute('aria-sort', up ? 'ascending' : 'descending');
  const key = row => row.cells[at].dataset.v ?? row.cells[at].textContent;
  const empty = row => row.cells[at].textContent === '-';
  body.append(...[...body.rows].sort((a, b) => empty(a) - empty(b) ||
    sign * key(a).localeCompare(key(b), 'en', {numeric: false}) * (isNaN(key(a)) || isNaN(key(b)) ? 1 : 0) ||
    sign * (key(a) - key(b) || 0)));
};
addEventListener('beforeprint', () => { for (const part of document.querySelectorAll('details')) part.open = true; });
"""
"""Sorts a table by a column: numbers by value, other cells by text, empty cells last."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True)
class Table:
    """Columns and rows. A pair (text, number) is shown as the text and sorted by the number."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    chart: str = ""
    """SVG text of the same numbers."""
    folded: bool = False
    """Whether the table is closed until a click; long tables below a chart are."""


@dataclass(frozen=True)
class Part:
    """A section of the page."""

    title: str
    note: str = ""
    tables: Sequence[Table] = field(default_factory=tuple)


def page(title: str, parts: Sequence[Part], footer: str) -> str:
    """The whole file."""
    links = "".join(f'<a href="#part{n}">{escape(part.title)}</a>' for n, part in enumerate(parts))
    body = "".join(_part(n, part) for n, part in enumerate(parts))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        f"<nav>{links}</nav>\n<main>{body}</main>\n<footer><p>{escape(footer)}</p></footer>\n"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _part(number: int, part: Part) -> str:
    note = f'<p class="note">{escape(part.note)}</p>' if part.note else ""
    return (
        f'<section><h2 id="part{number}">{escape(part.title)}</h2>{note}{"".join(map(_table, part.tables))}</section>'
    )


def _table(table: Table) -> str:
    head = "".join(_head(name, [row[n] for row in table.rows]) for n, name in enumerate(table.columns))
    numeric = [any(_is_number(value) for value in column) for column in zip(*table.rows, strict=True)]
    rows = "".join(f"<tr>{''.join(map(_cell, row, numeric))}</tr>\n" for row in table.rows)
    body = (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>'
    )
    if table.folded:
        summary = "The table of this figure" if table.chart else "All rows"
        body = f"<details><summary>{summary} ({len(table.rows)})</summary>{body}</details>"
    title = f"<h3>{escape(table.title)}</h3>" if table.title else ""
    chart = f'<div class="scroll" tabindex="0">{table.chart}</div>' if table.chart else ""
    return f"{title}{chart}{body}\n"


def _head(name: str, values: Sequence[Any]) -> str:
    kind = ' class="number"' if any(_is_number(value) for value in values) else ""
    return f'<th scope="col"{kind}><button type="button">{escape(name)}</button></th>'


def _is_number(value: Any) -> bool:
    key = value[1] if isinstance(value, tuple) else value
    return isinstance(key, (int, float)) and not isinstance(key, bool)


def _cell(value: Any, numeric: bool) -> str:
    text, key = value if isinstance(value, tuple) else (console.cell(value), value)
    text = escape(console.printable(text))
    if _is_number(value):
        return f'<td class="number" data-v="{key!r}">{text}</td>'
    if numeric and value is None:
        return f'<td class="number">{text}</td>'
    return f'<td class="long">{text}</td>' if len(text) > 60 else f"<td>{text}</td>"
