"""The trade-off of a sweep of searches: a metric against users per second, one point per row of the table."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from genrec_cli.report.figures import LINES, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPEED = "users_per_second"


def series(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, list[tuple[str, float, float]]]:
    """Group rows whose names differ in the last part only: name -> (last part, speed, metric)."""
    points: dict[str, list[tuple[str, float, float]]] = {}
    for row in rows:
        if row[SPEED] is not None and row[metric] is not None:
            name, _, last = row["row"].rpartition(", ")
            points.setdefault(name, []).append((last, row[SPEED], row[metric]))
    return points


def tradeoff(rows: Sequence[Mapping[str, Any]], metric: str, title: str) -> "Figure":
    """One line per series, each point labelled with the last part of its row's name."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    with drawing(7.6, 4.6, title) as figure:
        axes = figure.subplots()
        for (name, points), colour in zip(series(rows, metric).items(), cycle(LINES), strict=False):
            last, speed, value = zip(*points, strict=True)
            axes.plot(speed, value, color=colour, marker="o", markersize=4, label=name or None)
            for word, x, y in zip(last, speed, value, strict=True):
                axes.annotate(word, (x, y), xytext=(3, 4), textcoords="offset points", fontsize=7, color=colour)
        axes.set_xscale("log")
        # The default formatters of a log scale write mathematics, and with text.parse_math off it is not parsed.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("users per second")
        axes.set_ylabel(metric)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best")
    return figure
