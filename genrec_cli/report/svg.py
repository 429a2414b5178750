"""Small charts as SVG text for the HTML report: bars with intervals, and lines. No library, no script, no font file.

Colours are those of ``report/figures.py``; text takes the colour of the page, so that dark pages and prints work.
"""

from collections.abc import Sequence
from html import escape
from itertools import cycle
from typing import NamedTuple

from genrec_cli.report.figures import LINES

AREA = 440
"""Width of the bars, without labels and values."""
LETTER, LABEL = 6.8, 250
"""Width of a letter, and the largest width of the labels of bars."""
ROW = 24
NARROW, TALL = 560, 300
"""The area of a line chart; its legend is to the right."""
DASHES = ("", "6 2", "2 2", "8 2 2 2")


class Bar(NamedTuple):
    """One bar: its value and 95 % interval (none if both ends are the value), and the group ``colour`` of the bar."""

    label: str
    value: float
    low: float
    high: float
    colour: int = 0


class Line(NamedTuple):
    """One line: its name, and x and y of its points."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers from below ``low`` to above ``high``."""
    span = (high - low) or abs(high) or 1.0
    high = max(high, low + span)
    size = 10.0 ** len(str(int(span / count))) if span / count >= 1 else 1.0
    while size > span / count:
        size /= 10
    step = next((m * size for m in (1, 2, 2.5, 5, 10) if span / (m * size) <= count), 10 * size)
    first = int(low // step)
    marks = [round(n * step, 10) for n in range(first, first + count + 4)]
    return [m for n, m in enumerate(marks) if n == 0 or marks[n - 1] < high]


def bars(rows: Sequence[Bar], title: str) -> str:
    """Horizontal bars from 0, each with its interval and its value as text."""
    marks = ticks(0, max([row.high for row in rows] or [1.0]))
    top, height = marks[-1] or 1.0, ROW * len(rows) + 28
    left = min(round(LETTER * max([len(row.label) for row in rows] or [0])) + 12, LABEL)

    def x(value: float) -> float:
        return round(left + AREA * max(value, 0.0) / top, 1)

    parts = [_text(x(m), height - 6, f"{m:g}", "middle") + _rule(x(m), 4, x(m), height - 22, "grid") for m in marks]
    for place, row in enumerate(rows):
        y, colour = ROW * place + 6, LINES[row.colour % len(LINES)]
        parts.append(_text(left - 8, y + 12, _short(row.label, 40), "end"))
        parts.append(f'<rect x="{left}" y="{y}" width="{round(x(row.value) - left, 1)}" height="14" fill="{colour}">')
        certain = row.low == row.high
        interval = "" if certain else f" ({row.low:.4f} to {row.high:.4f})"
        parts.append(f"<title>{escape(row.label)}: {row.value:.4f}{interval}</title></rect>")
        if not certain:
            parts.append(_rule(x(row.low), y + 7, x(row.high), y + 7, "interval"))
            parts += [_rule(x(end), y + 3, x(end), y + 11, "interval") for end in (row.low, row.high)]
        parts.append(_text(x(row.high) + 6, y + 12, f"{row.value:.4f}", "start"))
    return _svg(left + AREA + 70, height, title, parts)


def lines(series: Sequence[Line], title: str, *, x_label: str, y_label: str) -> str:
    """Lines with a legend to the right; lines of one colour differ in their dashes."""
    values = [y for line in series for y in line.y]
    last = max([x for line in series for x in line.x] or [1])
    marks_y, marks_x = ticks(min(values), max(values)), [m for m in ticks(0, last) if m == int(m)]
    low, high, right = marks_y[0], marks_y[-1], max(marks_x[-1], 1)

    def at(x: float, y: float) -> tuple[float, float]:
        return round(56 + (NARROW - 66) * x / right, 1), round(TALL - 36 - (TALL - 62) * (y - low) / (high - low), 1)

    height = max(TALL, 18 * len(series) + 24)
    parts = [_rule(*at(0, m), *at(right, m), "grid") + _text(50, at(0, m)[1] + 4, f"{m:g}", "end") for m in marks_y]
    parts += [_text(at(m, low)[0], TALL - 20, f"{m:g}", "middle") for m in marks_x]
    parts += [_text(NARROW / 2, TALL - 4, x_label, "middle"), _text(4, 11, y_label, "start")]
    for number, (line, colour) in enumerate(zip(series, cycle(LINES), strict=False)):
        dash = f' stroke-dasharray="{found}"' if (found := DASHES[number // len(LINES) % len(DASHES)]) else ""
        points = " ".join("{},{}".format(*at(x, y)) for x, y in zip(line.x, line.y, strict=True))
        style = f'fill="none" stroke="{colour}" stroke-width="1.8"{dash}'
        parts.append(f'<polyline points="{points}" {style}><title>{escape(line.label)}</title></polyline>')
        if len(line.x) == 1:
            x, y = at(line.x[0], line.y[0])
            parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
        y = 18 * number + 24
        parts.append(f'<line x1="{NARROW + 6}" y1="{y - 4}" x2="{NARROW + 28}" y2="{y - 4}" {style}/>')
        parts.append(_text(NARROW + 34, y, _short(line.label, 26), "start"))
    return _svg(NARROW + 200, height, title, parts)


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    size = f'viewBox="0 0 {width} {height}" style="max-width: {width}px"'
    head = f'<svg {size} role="img" aria-label="{escape(title, quote=True)}">'
    return f"{head}{''.join(parts)}</svg>"
