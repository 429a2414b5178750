"""Curves of trainings: losses, validation metric and mask ratio over epochs, phases shaded, as SVG and PNG.

Colours are those of Okabe and Ito, told apart by every common kind of colour vision, and lines differ in their
dashes too. The same log gives the same bytes. Only this folder imports matplotlib, and only when it draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec_cli.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
LINES = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, "#444444")
TINTS = ("#FBE7C6", "#D6E9F5", "#DDF0E6", "#F3DFEA", "#E8E8E8")
"""Backgrounds of masking phases, in the order in which they appear; phases without a mask stay white."""
PLAIN = "#FFFFFF"
INK, FAINT = "#333333", "#777777"
SIZES = {"font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "legend.fontsize": 8, "savefig.dpi": 160}
COLOURS = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
OFF = dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon", "text.parse_math"), False)
STYLE = SIZES | COLOURS | OFF | {"axes.edgecolor": "#999999", "grid.color": "#DDDDDD", "grid.linewidth": 0.6}
STYLE |= {"axes.grid": True, "axes.axisbelow": True, "lines.linewidth": 1.6}
STYLE |= {"font.family": "DejaVu Sans", "svg.hashsalt": "genrec"}
ABOVE = {"xycoords": ("data", "axes fraction"), "xytext": (0, 3), "textcoords": "offset points"}
ABOVE |= {"ha": "center", "fontsize": 8, "color": FAINT}
"""Where the name of a phase is written: above the axes."""


@dataclass(frozen=True)
class Curve:
    """One run to draw."""

    label: str
    rows: Sequence[Row]
    """Its log, one row an epoch."""
    metric: str
    """The validation metric that chose its best epoch."""
    of_codes: bool = True
    """Whether its losses are counted for each code, or else for each item."""


def require_matplotlib() -> None:
    """Raises UsageError, with the line that installs it, if matplotlib is absent."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError(
            "Figures need matplotlib, and it is not installed.", hint="pip install 'genrec-cli[report]'"
        ) from None


def canvas(width: float, height: float) -> "Figure":
    """An empty figure of so many inches. It belongs to no window and no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def save(figure: "Figure", folder: Path, name: str) -> list[str]:
    """Write ``name.svg`` and ``name.png``; returns the names of the files."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with rc_context(STYLE):
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})
    return [f"{name}.svg", f"{name}.png"]


def training(curves: Sequence[Curve], title: str) -> "Figure":
    """Losses, validation metric and mask ratio over epochs: one run with its phases shaded, or several overlaid.

    Overlaid runs have a colour each; their phases stand below, one strip a run.
    """
    from matplotlib import rc_context

    with rc_context(STYLE):
        return _one(curves[0], title) if len(curves) == 1 else _overlaid(curves, title)


def column(rows: Sequence[Row], name: str) -> tuple[list[int], list[float]]:
    """Epochs at which a column was measured, and its values."""
    pairs = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
    return [epoch for epoch, _ in pairs], [value for _, value in pairs]


def phases(rows: Sequence[Row]) -> list[tuple[str, int, int, bool]]:
    """Each phase's name, its first and last epoch, and whether it masked."""
    spans: list[tuple[str, int, int, bool]] = []
    for row in rows:
        masked = row["ratio"] > 0
        if spans and spans[-1][0] == row["phase"]:
            name, first, _, before = spans[-1]
            spans[-1] = (name, first, row["epoch"], before or masked)
        else:
            spans.append((row["phase"], row["epoch"], row["epoch"], masked))
    return spans


def phase_tints(curves: Sequence[Curve]) -> dict[str, str]:
    """A background for each phase, the same in all runs."""
    spans = [span for curve in curves for span in phases(curve.rows)]
    masked = list(dict.fromkeys(name for name, _, _, masks in spans if masks))
    return {name: PLAIN for name, *_ in spans} | dict(zip(masked, cycle(TINTS), strict=False))


def _one(curve: Curve, title: str) -> "Figure":
    figure = canvas(7.6, 7.2)
    losses, metric, ratio = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.6])
    tints = phase_tints([curve])
    for axes in (losses, metric, ratio):
        _shade(axes, curve, tints, named=axes is losses)
    for name, label, colour, dashes in (
        ("loss/next", "next item, training", BLUE, "-"),
        ("loss/mask", "masked codes, training", VERMILLION, (0, (5, 1.5))),
        ("valid/loss", "next item, validation", "#444444", (0, (1, 1.2))),
    ):
        epoch, value = column(curve.rows, name)
        if value:
            losses.plot(epoch, value, label=label, color=colour, linestyle=dashes, marker=_marker(epoch))
    losses.set_ylabel(_loss_unit([curve]))
    losses.legend(loc="upper right")
    _metric(metric, curve, BLUE)
    _annotate_best(metric, curve)
    metric.set_ylabel(f"{curve.metric}, validation")
    epoch, value = column(curve.rows, "ratio")
    ratio.step(epoch, [100 * v for v in value], where="mid", color=INK, label="mask ratio")
    epoch, value = column(curve.rows, "loss/masked_fraction")
    if value:
        ratio.plot(epoch, [100 * v for v in value], "o", markersize=3, color=VERMILLION, label="really masked")
    ratio.set_ylabel("% of codes")
    ratio.set_ylim(bottom=0, top=None if max(column(curve.rows, "ratio")[1], default=0) > 0 else 1)
    ratio.legend(loc="upper right", ncols=2)
    _epochs(ratio, [curve])
    figure.suptitle(title, fontweight="bold", fontsize=11, x=0.01, ha="left")
    return figure


def _overlaid(curves: Sequence[Curve], title: str) -> "Figure":
    figure = canvas(8.6, 7.6 + 0.22 * len(curves))
    heights = [3, 3, 1.5, 0.3 + 0.3 * len(curves)]
    losses, metric, ratio, strip = figure.subplots(4, 1, sharex=True, height_ratios=heights)
    tints = phase_tints(curves)
    any_mask = False
    for curve, colour in zip(curves, cycle(LINES), strict=False):
        epoch, value = column(curve.rows, "loss/next")
        losses.plot(epoch, value, color=colour, label=curve.label, marker=_marker(epoch))
        epoch, value = column(curve.rows, "loss/mask")
        any_mask |= bool(value)
        losses.plot(epoch, value, color=colour, linestyle=(0, (4, 2)), linewidth=1.1)
        _metric(metric, curve, colour)
        epoch, value = column(curve.rows, "ratio")
        if max(value) > 0:
            ratio.step(epoch, [100 * v for v in value], where="mid", color=colour)
    _strips(strip, curves, tints)
    losses.set_ylabel(_loss_unit(curves) + ("\n(dashed: masked codes)" if any_mask else ""))
    names = list(dict.fromkeys(curve.metric for curve in curves))
    metric.set_ylabel(f"{' or '.join(names)}, validation\n(star: best)")
    ratio.set_ylabel("mask ratio, %")
    ratio.set_ylim(bottom=0)
    _epochs(strip, curves)
    bold = {"alignment": "left", "title_fontproperties": {"weight": "bold", "size": 11}}
    columns = 2 if max(len(curve.label) for curve in curves) > 24 else 4
    figure.legend(loc="outside upper left", ncols=columns, title=title, **bold)
    return figure


def _strips(axes: "Axes", curves: Sequence[Curve], tints: Mapping[str, str]) -> None:
    """The phases of each run as a bar."""
    longest = max(row["epoch"] for curve in curves for row in curve.rows)
    for place, (curve, colour) in enumerate(zip(curves, cycle(LINES), strict=False)):
        for name, first, last, _ in phases(curve.rows):
            bar = {"height": 0.7, "color": tints[name], "edgecolor": "#BBBBBB", "linewidth": 0.6}
            axes.barh(place, last - first + 1, left=first - 0.5, **bar)
            if (last - first + 1) / longest > 0.012 * len(name):  # otherwise the name would not fit in its bar
                axes.text((first + last) / 2, place, name, ha="center", va="center", fontsize=7, color=INK)
        axes.plot([0.5], [place], "s", color=colour, markersize=6, clip_on=False)
    axes.set_yticks([])
    axes.set_ylim(len(curves) - 0.5, -0.5)
    axes.set_ylabel("phases", labelpad=14)
    axes.grid(visible=False)


def _shade(axes: "Axes", curve: Curve, tints: Mapping[str, str], *, named: bool) -> None:
    for name, first, last, _ in phases(curve.rows):
        axes.axvspan(first - 0.5, last + 0.5, color=tints[name], linewidth=0, zorder=0)
        if first > curve.rows[0]["epoch"]:
            axes.axvline(first - 0.5, color="#AAAAAA", linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        if named:
            axes.annotate(name, ((first + last) / 2, 1), **ABOVE)


def _metric(axes: "Axes", curve: Curve, colour: str) -> None:
    """A run's validation metric, a star at its best epoch."""
    epoch, value = column(curve.rows, f"valid/{curve.metric}")
    axes.plot(epoch, value, color=colour, marker=_marker(epoch))
    if value:
        best = max(range(len(value)), key=lambda place: value[place])
        axes.plot(epoch[best], value[best], "*", color=colour, markersize=11, markeredgecolor="white", zorder=5)


def _annotate_best(axes: "Axes", curve: Curve) -> None:
    epoch, value = column(curve.rows, f"valid/{curve.metric}")
    if not value:
        return
    best = max(range(len(value)), key=lambda place: value[place])
    side, shift = ("right", -4) if epoch[best] > (epoch[0] + epoch[-1]) / 2 else ("left", 4)
    where = {"xytext": (shift, -18), "textcoords": "offset points", "ha": side, "fontsize": 8}
    box = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1}
    axes.annotate(f"best {value[best]:.4f}, epoch {epoch[best]}", (epoch[best], value[best]), bbox=box, **where)


def _epochs(axes: "Axes", curves: Sequence[Curve]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(0.5, max(row["epoch"] for curve in curves for row in curve.rows) + 0.5)


def _loss_unit(curves: Sequence[Curve]) -> str:
    return "loss, nats a code" if all(curve.of_codes for curve in curves) else "loss, nats"


def _marker(epoch: Sequence[int]) -> str:
    """A dot at each point where there are few: a line through one or two is easily overlooked."""
    return "." if len(epoch) <= 12 else ""
