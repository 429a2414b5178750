"""The lines of a sweep: a metric over the setting that varies last, with the deviation over seeds."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from genrec_cli.report.figures import LINES, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE = 20
"""The horizontal axis is logarithmic if the largest value is this many times the smallest."""
MARKS = ("o", "s", "^", "D", "v", "P", "X")


def number(word: str) -> float | None:
    """The number at the end of ``lr 0.001``; None without one."""
    try:
        return float(word.rpartition(" ")[2])
    except ValueError:
        return None


def lines(rows: Sequence[Mapping[str, Any]], metric: str, title: str) -> "Figure":
    """One line per group of rows whose names differ in the last part only; bars of the deviation with several seeds.

    Names that do not end with a number are places on the axis, and their points are not joined.
    """
    groups: dict[str, list[tuple[str, float, float]]] = {}
    for row in rows:
        if row[metric] is not None:
            name, _, last = row["row"].rpartition(", ")
            groups.setdefault(name, []).append((last, row[metric], row.get(f"{metric} sd") or 0.0))
    words = list(dict.fromkeys(last for points in groups.values() for last, _, _ in points))
    found = [number(word) for word in words]
    numbers = [value for value in found if value is not None]
    numeric = len(numbers) == len(words) and len(words) > 1
    place = dict(zip(words, numbers if numeric else range(len(words)), strict=True))
    with drawing(7.6, 4.6, title) as figure:
        axes = figure.subplots()
        for (name, points), colour, mark in zip(groups.items(), cycle(LINES), cycle(MARKS), strict=False):
            points = sorted(points, key=lambda point: place[point[0]])
            x, (_, y, sd) = [place[last] for last, _, _ in points], zip(*points, strict=True)
            style: dict[str, Any] = {"color": colour, "marker": mark, "markersize": 5, "capsize": 3, "elinewidth": 0.9}
            axes.errorbar(
                x, y, yerr=sd if any(sd) else None, linestyle="-" if numeric else "", label=name or None, **style
            )
        if numeric and min(numbers) > 0 and max(numbers) >= WIDE * min(numbers):
            axes.set_xscale("log")
        texts = [f"{value:g}" for value in numbers] if numeric else words
        long = not numeric and max(map(len, words), default=0) > 14
        axes.set_xticks(list(place.values()), texts, rotation=20 if long else 0, ha="right" if long else "center")
        axes.minorticks_off()
        axes.set_xlabel(words[0].rpartition(" ")[0] if numeric else "")
        axes.set_ylabel(f"{metric} (bars: deviation over seeds)" if max(r["n"] for r in rows) > 1 else metric)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best")
    return figure
