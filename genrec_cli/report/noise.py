"""How many digits of its targets a training hid, epoch by epoch: whether the curriculum really shifted.

MDGR, arXiv 2601.19501: the mass of the distribution of mask counts moves from few to many digits.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from genrec_cli.report.figures import INK, STYLE, Row, canvas, column

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PREFIX = "loss/masked_"
"""Columns of the log: ``loss/masked_3`` is the share of targets of which three digits were hidden."""


def mask_counts(rows: Sequence[Row]) -> Mapping[int, list[float]]:
    """Number of masked digits -> its share of targets in each epoch; empty where the log tells none."""
    names = [name for row in rows for name in row if name.startswith(PREFIX) and name[len(PREFIX) :].isdigit()]
    numbers = sorted({int(name[len(PREFIX) :]) for name in names})
    return {number: column(rows, f"{PREFIX}{number}")[1] for number in numbers}


def over_epochs(rows: Sequence[Row], title: str) -> "Figure":
    """The shares as bands, few digits below, and the mean number as a line."""
    from matplotlib import colormaps, rc_context
    from matplotlib.ticker import MaxNLocator

    shares = mask_counts(rows)
    epoch, mean = column(rows, f"{PREFIX}digits")
    with rc_context(STYLE):
        figure = canvas(7.6, 3.8)
        axes = figure.subplots()
        shades = [colormaps["cividis"](1 - n / len(shares)) for n in range(len(shares))]
        bottom = [0.0] * len(epoch)
        for (number, values), shade in zip(shares.items(), shades, strict=True):
            axes.bar(epoch, values, width=1.0, bottom=bottom, color=shade, label=str(number), linewidth=0)
            bottom = [low + value for low, value in zip(bottom, values, strict=True)]
        axes.set_xlabel("epoch")
        axes.set_ylabel("share of targets")
        axes.set_ylim(0, 1)
        axes.set_xlim(0.5, max(epoch) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        number = axes.twinx()
        number.plot(epoch, mean, color=INK, marker=".", label="mean number")
        number.set_ylim(0, len(shares) + 0.5)
        number.set_ylabel("mean number of masked digits (line)")
        number.grid(visible=False)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", title="digits\nmasked")
        figure.suptitle(title, fontweight="bold", fontsize=11, x=0.01, ha="left")
    return figure
