"""The number of masked digits per target, epoch by epoch: whether the curriculum really shifted.

MDGR, arXiv 2601.19501: the mass of the distribution of mask counts moves from few to many digits.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from genrec_cli.report.figures import INK, Row, column, drawing, epoch_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PREFIX = "loss/masked_"
"""Columns of the log: ``loss/masked_3`` is the fraction of targets with three masked digits."""


def mask_counts(rows: Sequence[Row]) -> Mapping[int, list[float]]:
    """Number of masked digits -> fraction of targets per epoch; empty where the log has no such columns."""
    names = {name.removeprefix(PREFIX) for row in rows for name in row if name.startswith(PREFIX)}
    return {n: column(rows, f"{PREFIX}{n}")[1] for n in sorted(int(name) for name in names if name.isdigit())}


def over_epochs(rows: Sequence[Row], title: str) -> "Figure":
    """The fractions as bands, few digits below, and the mean number as a line."""
    from matplotlib import colormaps

    fractions = mask_counts(rows)
    epoch, mean = column(rows, f"{PREFIX}digits")
    with drawing(7.6, 3.8, title) as figure:
        axes = figure.subplots()
        bottom = [0.0] * len(epoch)
        for place, (count, values) in enumerate(fractions.items()):
            colour = colormaps["cividis"](1 - place / len(fractions))
            axes.bar(epoch, values, width=1.0, bottom=bottom, color=colour, label=str(count), linewidth=0)
            bottom = [low + value for low, value in zip(bottom, values, strict=True)]
        axes.set_ylabel("fraction of targets")
        axes.set_ylim(0, 1)
        epoch_axis(axes, max(epoch))
        line = axes.twinx()
        line.plot(epoch, mean, color=INK, marker=".", label="mean number")
        line.set_ylim(0, len(fractions) + 0.5)
        line.set_ylabel("mean number of masked digits (line)")
        line.grid(visible=False)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", title="digits\nmasked")
    return figure
