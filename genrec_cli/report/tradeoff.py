"""The trade-off of a sweep of searches: a metric against users per second, one point per row of the table."""

from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise, product
from typing import TYPE_CHECKING, Any

from genrec_cli.report.figures import LINES, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
        labels: list[tuple[str, float, float, str]] = []
        for (name, points), colour in zip(series(rows, metric).items(), cycle(LINES), strict=False):
            last, speed, value = zip(*points, strict=True)
            axes.plot(speed, value, color=colour, marker="o", markersize=4, label=name or None)
            labels += [(word, x, y, colour) for word, x, y in zip(last, speed, value, strict=True)]
        axes.set_xscale("log")
        # The default formatters of a log scale write mathematics, and with text.parse_math off it is not parsed.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.09)
        axes.set_xlabel("users per second")
        axes.set_ylabel(metric)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best")
        _label(axes, labels)
    return figure


def _label(axes: "Axes", labels: Sequence[tuple[str, float, float, str]]) -> None:
    """Write each label at the first of its four corners, then farther away, where no other label, point or line is."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # places the axes
    pixels = [axes.transData.transform((x, y)) * 72 / figure.dpi for _, x, y, _ in labels]
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in pixels]
    for (one, other), (a, b) in zip(pairwise(labels), pairwise(pixels), strict=True):
        if one[3] == other[3]:  # two points of one line: small boxes along it
            spots = [a + (b - a) * part / 30 for part in range(31)]
            taken += [(x - 1, y - 1, x + 1, y + 1) for x, y in spots]
    for (word, x, y, colour), (px, py) in zip(labels, pixels, strict=True):
        width, height = 4.2 * len(word), 8.0  # of 7 point text
        for far, side in product((4, 12, 20), ((1, 1), (-1, 1), (1, -1), (-1, -1))):
            left = px + 4 if side[0] > 0 else px - 4 - width
            low = py + far if side[1] > 0 else py - far - height
            box = (left, low, left + width, low + height)
            if not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                break
        taken.append(box)
        where: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "color": colour}
        axes.annotate(word, (x, y), xytext=(box[0] - px, box[1] - py), **where)
