"""Curves of trainings: losses, validation metric and mask ratio over epochs, phases shaded, as SVG and PNG.

The colours are those of Okabe and Ito, which people with colour blindness can distinguish, and lines also differ in
their dashes. The same log gives the same bytes. Only this folder imports matplotlib, at the first drawing.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec_cli.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
GREY, OTHERS = "#7F7F7F", ("#B8336A", "#999933", "#7B68C8", "#44AA99", "#A0785A")
LINES = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, GREY, *OTHERS)
"""As many as there are runs in one figure, each visible on white and black; six are those of Okabe and Ito."""
TINTS = ("#FBE7C6", "#D6E9F5", "#DDF0E6", "#F3DFEA", "#E8E8E8")
"""Backgrounds of masking phases, in the order in which they appear; phases without a mask stay white."""
PLAIN = "#FFFFFF"
INK, FAINT = "#333333", "#777777"
STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon", "text.parse_math"), False),
    **{"font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "legend.fontsize": 8, "savefig.dpi": 160},
    **{"axes.edgecolor": "#999999", "grid.color": "#DDDDDD", "grid.linewidth": 0.6, "lines.linewidth": 1.6},
    **{"axes.grid": True, "axes.axisbelow": True, "font.family": "DejaVu Sans", "svg.hashsalt": "genrec"},
}
ABOVE: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "xytext": (0, 3), "textcoords": "offset points"}
ABOVE |= {"ha": "center", "fontsize": 8, "color": FAINT}
"""Position and style of the names of phases: above the axes."""


@dataclass(frozen=True)
class Curve:
    """One run to draw: its log (one row per epoch) and the validation metric that selected its best epoch."""

    label: str
    rows: Sequence[Row]
    metric: str
    of_codes: bool = True
    """Whether its losses are per code, or else per item."""


def require_matplotlib() -> None:
    """Raise UsageError, with the line that installs it, if matplotlib is absent."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        hint = "pip install 'genrec-cli[report]'"
        raise UsageError("Figures need matplotlib, and it is not installed.", hint=hint) from None


def canvas(width: float, height: float) -> "Figure":
    """An empty figure, sizes in inches. It belongs to no window and no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


@contextmanager
def drawing(width: float, height: float, title: str | None = None) -> Iterator["Figure"]:
    """An empty figure to draw in with the style of this module, and a title at its top left."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure = canvas(width, height)
        yield figure
        if title is not None:
            figure.suptitle(title, fontweight="bold", fontsize=11, x=0.01, ha="left")


def save(figure: "Figure", folder: Path, name: str) -> list[str]:
    """Write ``name.svg`` and ``name.png``; return the names of the files."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with rc_context(STYLE):
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})
    return [f"{name}.svg", f"{name}.png"]


def training(curves: Sequence[Curve], title: str) -> "Figure":
    """Losses, validation metric and mask ratio over epochs.

    One run has its phases shaded. Several runs have a colour each, and their phases are strips below.
    """
    return _one(curves[0], title) if len(curves) == 1 else _overlaid(curves, title)


def column(rows: Sequence[Row], name: str) -> tuple[list[int], list[float]]:
    """The epochs at which a column was measured, and its values."""
    measured = [row for row in rows if row.get(name) is not None]
    return [row["epoch"] for row in measured], [row[name] for row in measured]


def phases(rows: Sequence[Row]) -> list[tuple[str, int, int, bool]]:
    """Each phase's name, its first and last epoch, and whether it masked."""
    spans = [(name, list(span)) for name, span in groupby(rows, key=itemgetter("phase"))]
    return [(name, s[0]["epoch"], s[-1]["epoch"], any(row["ratio"] > 0 for row in s)) for name, s in spans]


def phase_tints(curves: Sequence[Curve]) -> dict[str, str]:
    """A background for each phase, the same in all runs."""
    spans = [span for curve in curves for span in phases(curve.rows)]
    masked = list(dict.fromkeys(name for name, _, _, masks in spans if masks))
    return {name: PLAIN for name, *_ in spans} | dict(zip(masked, cycle(TINTS), strict=False))


def _one(curve: Curve, title: str) -> "Figure":
    with drawing(7.6, 7.2, title) as figure:
        losses, metric, ratio = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.6])
        for axes in (losses, metric, ratio):
            shade(axes, curve, named=axes is losses)
        dashed, dotted = (0, (5, 1.5)), (0, (1, 1.2))
        _line(losses, curve, "loss/next", label="next item, training", color=BLUE)
        _line(losses, curve, "loss/mask", label="masked codes, training", color=VERMILLION, linestyle=dashed)
        _line(losses, curve, "valid/loss", label="next item, validation", color="#444444", linestyle=dotted)
        losses.set_ylabel(_loss_unit([curve]))
        losses.legend(loc="upper right")
        _metric(metric, curve, BLUE, annotated=True)
        metric.set_ylabel(f"{curve.metric}, validation")
        epoch, value = column(curve.rows, "ratio")
        ratio.step(epoch, [100 * v for v in value], where="mid", color=INK, label="mask ratio")
        at, fraction = column(curve.rows, "loss/masked_fraction")
        if fraction:
            percents = [100 * v for v in fraction]
            ratio.plot(at, percents, "o", markersize=3, color=VERMILLION, label="really masked")
        ratio.set_ylabel("% of codes")
        ratio.set_ylim(bottom=0, top=None if max(value, default=0) > 0 else 1)
        ratio.legend(loc="upper right", ncols=2)
        epoch_axis(ratio, curve.rows[-1]["epoch"])
    return figure


def _overlaid(curves: Sequence[Curve], title: str) -> "Figure":
    with drawing(8.6, 7.6 + 0.22 * len(curves)) as figure:
        heights = [3, 3, 1.5, 0.3 + 0.3 * len(curves)]
        losses, metric, ratio, strip = figure.subplots(4, 1, sharex=True, height_ratios=heights)
        any_mask = False
        for curve, colour in zip(curves, cycle(LINES), strict=False):
            _line(losses, curve, "loss/next", color=colour, label=curve.label)
            thin = {"linestyle": (0, (4, 2)), "linewidth": 1.1, "marker": ""}
            any_mask |= _line(losses, curve, "loss/mask", color=colour, **thin)
            _metric(metric, curve, colour)
            epoch, value = column(curve.rows, "ratio")
            if max(value) > 0:
                ratio.step(epoch, [100 * v for v in value], where="mid", color=colour)
        _strips(strip, curves)
        losses.set_ylabel(_loss_unit(curves) + ("\n(dashed: masked codes)" if any_mask else ""))
        names = list(dict.fromkeys(curve.metric for curve in curves))
        metric.set_ylabel(f"{' or '.join(names)}, validation\n(star: best)")
        ratio.set_ylabel("mask ratio, %")
        ratio.set_ylim(bottom=0)
        epoch_axis(strip, max(curve.rows[-1]["epoch"] for curve in curves))
        bold: dict[str, Any] = {"alignment": "left", "title_fontproperties": {"weight": "bold", "size": 11}}
        columns = 2 if max(len(curve.label) for curve in curves) > 24 else 4
        figure.legend(loc="outside upper left", ncols=columns, title=title, **bold)
    return figure


def _line(axes: "Axes", curve: Curve, name: str, **style: Any) -> bool:
    """Plot a column of the log over epochs; whether it holds a value. Few points get dots: short lines are missed."""
    epoch, value = column(curve.rows, name)
    if value:
        axes.plot(epoch, value, **{"marker": "." if len(curve.rows) <= 12 else "", **style})
    return bool(value)


def _strips(axes: "Axes", curves: Sequence[Curve]) -> None:
    """The phases of each run as a bar."""
    tints = phase_tints(curves)
    longest = max(curve.rows[-1]["epoch"] for curve in curves)
    style: dict[str, Any] = {"height": 0.7, "edgecolor": "#BBBBBB", "linewidth": 0.6}
    for place, (curve, colour) in enumerate(zip(curves, cycle(LINES), strict=False)):
        for name, first, last, _ in phases(curve.rows):
            axes.barh(place, last - first + 1, left=first - 0.5, color=tints[name], **style)
            if (last - first + 1) / longest > 0.012 * len(name):  # otherwise the name would not fit in its bar
                axes.text((first + last) / 2, place, name, ha="center", va="center", fontsize=7, color=INK)
        axes.plot([0.5], [place], "s", color=colour, markersize=6, clip_on=False)
    axes.set_yticks([])
    axes.set_ylim(len(curves) - 0.5, -0.5)
    axes.set_ylabel("phases", labelpad=14)
    axes.grid(visible=False)


def shade(axes: "Axes", curve: Curve, *, named: bool = True) -> None:
    """Colour the background by the phases of a run, with their names above."""
    tints = phase_tints([curve])
    for name, first, last, _ in phases(curve.rows):
        axes.axvspan(first - 0.5, last + 0.5, color=tints[name], linewidth=0, zorder=0)
        if first > curve.rows[0]["epoch"]:
            axes.axvline(first - 0.5, color="#AAAAAA", linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        if named:
            axes.annotate(name, ((first + last) / 2, 1), **ABOVE)


def _metric(axes: "Axes", curve: Curve, colour: str, *, annotated: bool = False) -> None:
    """The validation metric of a run, with a star at its best epoch."""
    if not _line(axes, curve, f"valid/{curve.metric}", color=colour):
        return
    epoch, value = column(curve.rows, f"valid/{curve.metric}")
    best = max(range(len(value)), key=value.__getitem__)
    axes.plot(epoch[best], value[best], "*", color=colour, markersize=11, markeredgecolor="white", zorder=5)
    if annotated:
        side, shift = ("right", -4) if epoch[best] > (epoch[0] + epoch[-1]) / 2 else ("left", 4)
        where: dict[str, Any] = {"xytext": (shift, -18), "textcoords": "offset points", "ha": side, "fontsize": 8}
        box = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1}
        axes.annotate(f"best {value[best]:.4f}, epoch {epoch[best]}", (epoch[best], value[best]), bbox=box, **where)


def epoch_axis(axes: "Axes", last: int) -> None:
    """Label the x axis with whole epochs up to the last one."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(0.5, last + 0.5)


def _loss_unit(curves: Sequence[Curve]) -> str:
    return "loss, nats per code" if all(curve.of_codes for curve in curves) else "loss, nats"
