"""What a sweep of searches trades: a metric against users a second, one point a row of the table."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from genrec_cli.report.figures import LINES, STYLE, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPEED = "users_per_second"


def series(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, list[tuple[str, float, float]]]:
    """Rows whose names differ in their last part only belong together: name -> (last part, speed, metric)."""
    found: dict[str, list[tuple[str, float, float]]] = {}
    for row in rows:
        if row[SPEED] is not None and row[metric] is not None:
            name, _, last = row["row"].rpartition(", ")
            found.setdefault(name, []).append((last, row[SPEED], row[metric]))
    return found


def tradeoff(rows: Sequence[Mapping[str, Any]], metric: str, title: str) -> "Figure":
    """Points joined by a line for each series, each point named by what varies along it."""
    from matplotlib import rc_context
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    with rc_context(STYLE):
        figure = canvas(7.6, 4.6)
        axes = figure.subplots()
        for (name, points), colour in zip(series(rows, metric).items(), cycle(LINES), strict=False):
            last, speed, value = zip(*points, strict=True)
            axes.plot(speed, value, color=colour, marker="o", markersize=4, label=name or None)
            for word, x, y in zip(last, speed, value, strict=True):
                axes.annotate(word, (x, y), xytext=(3, 4), textcoords="offset points", fontsize=7, color=colour)
        axes.set_xscale("log")
        # the own formatters of this scale write mathematics, and titles are data: nothing in them is to be run
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("users a second")
        axes.set_ylabel(metric)
        if len(axes.get_legend_handles_labels()[0]) > 0:
            axes.legend(loc="best")
        figure.suptitle(title, fontweight="bold", fontsize=11, x=0.01, ha="left")
    return figure
