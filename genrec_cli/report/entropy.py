"""The entropies of a model of masked history learning, and the items that its mask samplers mask.

Measured on sampled training histories with the weights of the best epoch, without dropout. The masks are drawn many
times by the run's mask samplers at their initial ratios, so that a fraction is an expectation. The entropies during
the training are read from the log.

Legend: N packed items of all sampled histories, K digits, I items of the catalogue.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from genrec_cli.data.batch import Batch
from genrec_cli.engine.entropies import READ, measure
from genrec_cli.report.figures import ABOVE, BLUE, FAINT, INK, LINES, Row, column, drawing, phases

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from genrec_cli.models.base import EntropyModel

DRAWS = 32
"""Masks drawn for each batch and sampler."""
MIN_READ = 5
"""An item is among the most masked only if the sample reads it so often."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
EDGES = (5, 10, 20, 50, 100)
"""Upper ends of the popularity bins, in training interactions; one more bin is above the last."""


@dataclass(frozen=True)
class Survey:
    """The measurements, one row per item of each sampled history.

    ``entropy_NK`` is in nats, and nan where an item has no such code (padding of text). ``masked_N`` maps a phase to
    the expected fraction of an item's codes, padding excluded, that its sampler masks.
    """

    item_N: np.ndarray
    position_N: np.ndarray
    entropy_NK: np.ndarray
    masked_N: Mapping[str, np.ndarray]


def survey(
    model: "EntropyModel",
    batches: Sequence[Batch],
    device: torch.device,
    samplers: Mapping[str, Any],
    *,
    tick: Callable[[int], object] = lambda users: None,
) -> Survey:
    """Measure a trained model.

    Args:
        batches: histories on the host.
        samplers: phase -> mask sampler of the phase.
        tick: called with the number of histories after each batch.
    """
    parts = []
    masked: dict[str, list[np.ndarray]] = {name: [] for name in samplers}
    for host in batches:
        batch = host.to(device)
        entropy_NK, real_NK = measure(model, batch), model.maskable(batch)
        codes_N = real_NK.sum(1).clamp_min(1)
        for name, sampler in samplers.items():
            given = entropy_NK if sampler.by_entropy else None
            total_N = torch.zeros(len(batch.item_N), device=device)
            for _ in range(DRAWS):
                total_N += sampler.sample(batch.packing, real_NK, given).sum(1) / codes_N
            masked[name].append((total_N / DRAWS).cpu().numpy())
        entropy_NK = entropy_NK.where(real_NK, torch.nan)
        parts.append((host.item_N.numpy(), host.packing.position_N.numpy(), entropy_NK.cpu().numpy()))
        tick(host.packing.sequences)
    item_N, position_N, value_NK = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Survey(item_N, position_N, value_NK, {name: np.concatenate(means) for name, means in masked.items()})


@dataclass(frozen=True)
class MaskStats:
    """How often one phase masks each item of the sample (ids ascending), and items by popularity.

    ``read`` counts the positions of each item in the sample, ``fraction`` is the mean masked fraction of its codes.
    ``bins`` names ranges of training interactions, and ``bin_fraction`` is the mean over the positions in a bin.
    """

    item: np.ndarray
    read: np.ndarray
    fraction: np.ndarray
    bins: list[str]
    bin_fraction: np.ndarray
    overall: float


def mask_stats(survey: Survey, phase: str, train_count_I: np.ndarray) -> MaskStats:
    """Masked fractions by item and by popularity bin; bins without a position in the sample are left out."""
    fraction_N = survey.masked_N[phase].astype(np.float64)
    item, index_N, read = np.unique(survey.item_N, return_inverse=True, return_counts=True)
    fraction = np.bincount(index_N, weights=fraction_N) / read
    bin_N = np.searchsorted(EDGES, train_count_I[survey.item_N - 1])
    names = [f"{low + 1}-{high}" for low, high in pairwise((0, *EDGES))] + [f"> {EDGES[-1]}"]
    count, total = np.bincount(bin_N), np.bincount(bin_N, weights=fraction_N)
    used = np.flatnonzero(count)
    bins = [names[b] for b in used]
    return MaskStats(item, read, fraction, bins, total[used] / count[used], float(fraction_N.mean()))


def most_masked(stats: MaskStats, count: int = 10) -> np.ndarray:
    """Rows of the items with the highest fractions among those read :data:`MIN_READ` times (or the most read)."""
    min_read = min(MIN_READ, int(np.sort(stats.read)[-min(count, len(stats.read))]))
    often = np.flatnonzero(stats.read >= min_read)
    return often[np.argsort(-stats.fraction[often], kind="stable")][:count]


def entropies(survey: Survey, rows: Sequence[Row], codewords: int, title: str) -> "Figure":
    """Entropy over positions and digits: its distribution at the best epoch, and its means phase by phase."""
    measured = [row for row in rows if _has_means(row)]
    with drawing(9.2, 6.4 if measured else 3.6, title) as figure:
        height = 2 if measured else 1
        grid = figure.subplots(height, 2, sharex="col", sharey="row", squeeze=False, width_ratios=[1.25, 1])
        length = max(int((np.bincount(survey.position_N) >= READ).sum()), 1)  # positions that enough histories reach
        _bands(grid[0][0], _quantiles([survey.entropy_NK[survey.position_N == t] for t in range(length)]))
        _boxes(grid[0][1], _quantiles(list(survey.entropy_NK.T)))
        for axes in grid[0]:
            axes.axhline(log(codewords), color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
        uniform = f"uniform over {codewords:,} codewords"
        right = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
        grid[0][0].annotate(uniform, (1, log(codewords)), fontsize=8, color=FAINT, **right)
        grid[0][0].set_ylabel("entropy at the best epoch, nats")
        grid[0][0].legend(loc="lower right", ncols=3)
        if measured:
            _by_phase(grid[1], measured)
            grid[1][0].set_ylabel("mean entropy at the end\nof each phase, nats")
            grid[1][0].legend(loc="best")
        for axes in grid[-1]:
            whole(axes.xaxis)
        grid[-1][0].set_xlabel("position in the history (1: oldest that the model reads)")
        grid[-1][1].set_xlabel("digit of the semantic ID")
    return figure


def entropy_over_epochs(rows: Sequence[Row], title: str) -> "Figure":
    """Mean entropy over epochs, as a line and by position as a map, phases named above."""
    measured = [row for row in rows if _has_means(row)]
    with drawing(7.6, 5.4, title) as figure:
        line, heat = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2])
        epoch, value = column(measured, "entropy/mean")
        line.plot(epoch, value, color=BLUE, marker="." if len(epoch) <= 12 else "")
        line.set_ylabel("mean, nats")
        map_TE = np.array([row["entropy/position"] for row in measured], dtype=np.float64).T
        map_TE = map_TE[: 1 + np.flatnonzero(~np.isnan(map_TE).all(1))[-1]]
        edges = np.array([epoch[0] - 0.5, *((a + b) / 2 for a, b in pairwise(epoch)), epoch[-1] + 0.5])
        # The first epochs are near the uniform distribution and would take all the colours.
        later = map_TE[:, -(-len(epoch) // 10) :] if len(epoch) > 1 else map_TE
        limits = {"vmin": np.nanmin(map_TE), "vmax": np.nanmax(later)}
        rows_at = np.arange(len(map_TE) + 1) + 0.5
        mesh = heat.pcolormesh(edges, rows_at, map_TE, cmap="viridis", rasterized=True, **limits)
        heat.grid(visible=False)
        heat.set_ylabel("position in the history")
        whole(heat.yaxis)
        whole(heat.xaxis)
        heat.set_xlabel("epoch")
        beyond = "max" if np.nanmax(map_TE) > limits["vmax"] else "neither"
        figure.colorbar(mesh, ax=heat, label="mean entropy, nats", pad=0.01, extend=beyond)
        for name, first, last, _ in phases(rows):
            line.annotate(name, ((first + last) / 2, 1), **ABOVE)
            for axes in (line, heat) if first > rows[0]["epoch"] else ():
                axes.axvline(first - 0.5, color="#AAAAAA", linewidth=0.8, linestyle=(0, (2, 2)))
    return figure


def whole(axis: "Axis") -> None:
    """Ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def masked(
    stats_of: Mapping[str, MaskStats], name_of: Callable[[int], str], title: str, *, random: Container[str] = ()
) -> "Figure":
    """Masked fractions by popularity for each phase, and the ten most masked items of the last phase.

    ``random`` are the phases whose masks are random: the title says that their most masked items are chance.
    """
    with drawing(10.4, 4.2, title) as figure:
        by_bin, top = figure.subplots(1, 2, width_ratios=[1, 1.05])
        width = 0.8 / len(stats_of)
        colours = cycle(LINES)  # as in the figure of entropies by phase
        for place, ((phase, stats), colour) in enumerate(zip(stats_of.items(), colours, strict=False)):
            at = np.arange(len(stats.bins)) + (place - (len(stats_of) - 1) / 2) * width
            by_bin.bar(at, 100 * stats.bin_fraction, width * 0.92, color=colour, label=phase)
            by_bin.axhline(100 * stats.overall, color=colour, linewidth=1.2, linestyle=(0, (3, 2)), zorder=0)
        by_bin.set_xticks(range(len(stats.bins)), stats.bins)
        by_bin.set_xlabel("training interactions of the item")
        by_bin.set_ylabel("codes masked, % (dashed: all items)")
        by_bin.grid(visible=False, axis="x")
        by_bin.set_title("By popularity", loc="left", fontsize=9)
        by_bin.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, ncols=4)
        rows = most_masked(stats)  # of the last masking phase, in its colour
        percents = 100 * stats.fraction[rows]
        top.barh(range(len(rows)), percents, color=colour, height=0.65)
        top.set_yticks(range(len(rows)), [_shortened(name_of(int(stats.item[row]))) for row in rows])
        top.invert_yaxis()
        top.grid(visible=False, axis="y")
        top.set_xlabel(f"codes masked in the phase '{phase}', %")
        which = "Masked most by chance (random masks)" if phase in random else "Masked most"
        top.set_title(f"{which}; in brackets: times read", loc="left", fontsize=9)
        beside: dict[str, Any] = {"xytext": (3, 0), "textcoords": "offset points", "va": "center"}
        for place, (row, percent) in enumerate(zip(rows, percents, strict=True)):
            top.annotate(f"{percent:.0f} ({stats.read[row]})", (percent, place), fontsize=7.5, color=INK, **beside)
        top.set_xlim(right=1.12 * float(percents.max()) or 1)
    return figure


def _has_means(row: Row) -> bool:
    return any(mean is not None for mean in row.get("entropy/position") or ())


def _quantiles(groups: Sequence[np.ndarray]) -> np.ndarray:
    """Quantiles of each group without its nan values, groups x 5; nan for a group of nan values alone."""
    values = (group[~np.isnan(group)] for group in groups)
    return np.stack([np.quantile(group, QUANTILES) if len(group) else np.full(5, np.nan) for group in values])


def _bands(axes: "Axes", quantile_T5: np.ndarray) -> None:
    (low, first, middle, third, high), at = quantile_T5.T, np.arange(len(quantile_T5)) + 1
    axes.fill_between(at, low, high, color=BLUE, alpha=0.15, linewidth=0, label="5 to 95 %")
    axes.fill_between(at, first, third, color=BLUE, alpha=0.3, linewidth=0, label="25 to 75 %")
    axes.plot(at, middle, color=BLUE, label="median")
    axes.set_xlim(0.5, len(middle) + 0.5)


def _boxes(axes: "Axes", quantile_K5: np.ndarray) -> None:
    (low, first, middle, third, high), at = quantile_K5.T, np.arange(len(quantile_K5)) + 1
    axes.vlines(at, low, high, color=BLUE, alpha=0.35, linewidth=1)
    axes.bar(at, third - first, bottom=first, width=0.7, color=BLUE, alpha=0.3)
    axes.plot(at, middle, "_", color=BLUE, markersize=7, markeredgewidth=1.8)
    axes.set_xlim(0.4, len(middle) + 0.6)
    axes.grid(visible=False, axis="x")


def _by_phase(pair: Sequence["Axes"], measured: Sequence[Row]) -> None:
    """A line for the last measured epoch of each phase."""
    last = {row["phase"]: row for row in measured}
    marks, dashes = ("o", "s", "^", "D"), ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (4, 1, 1, 1)))
    for (phase, row), colour, mark, dash in zip(last.items(), cycle(LINES), cycle(marks), cycle(dashes), strict=False):
        style: dict[str, Any] = {
            "color": colour,
            "marker": mark,
            "linestyle": dash,
            "label": f"{phase} (epoch {row['epoch']})",
        }
        for axes, values in zip(pair, (row["entropy/position"], row["entropy/digit"]), strict=True):
            points = [(place, value) for place, value in enumerate(values, 1) if value is not None]
            axes.plot(*zip(*points, strict=True), markersize=3, linewidth=1.2, **style)


def _shortened(title: str, length: int = 44) -> str:
    return title if len(title) <= length else title[: length - 1].rstrip() + "…"
