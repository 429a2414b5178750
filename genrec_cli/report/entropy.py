"""What a model of masked history learning is unsure about, and which items its policies hide.

Measured on sampled training histories with the weights of the best epoch, without dropout; the masks are drawn
under the run's own policies at their initial ratios, many times, so that a share is an expectation. How the
entropies came to be, phase by phase, is read from the log.

Legend: N packed items of all sampled histories, K digits, I items of the catalogue.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from genrec_cli.data.batch import Batch
from genrec_cli.engine.entropies import READ, measure
from genrec_cli.report.figures import (
    ABOVE,
    BLUE,
    FAINT,
    INK,
    LINES,
    SKY,
    STYLE,
    VERMILLION,
    Row,
    canvas,
    column,
    phases,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from genrec_cli.models.base import EntropyModel

DRAWS = 32
"""Masks drawn for each batch and policy."""
SEEN = 5
"""An item is named among the most masked only if the sample reads it so often."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
EDGES = (5, 10, 20, 50, 100)
"""Upper ends of the popularity bins, in training interactions; a last bin is open."""


@dataclass(frozen=True)
class Survey:
    """What was measured, for every reading of an item in the sample."""

    item_N: np.ndarray
    position_N: np.ndarray
    entropy_NK: np.ndarray
    """In nats; nan where an item has no such code (padding of text)."""
    hidden_N: Mapping[str, np.ndarray]
    """Phase -> the expected share of an item's codes, padding aside, that its policy hides."""


def survey(
    model: "EntropyModel",
    batches: Sequence[Batch],
    device: torch.device,
    policies: Mapping[str, Any],
    *,
    tick: Callable[[int], object] = lambda users: None,
) -> Survey:
    """Measure a trained model.

    Args:
        batches: histories on the host.
        policies: phase -> what chooses its masks, as the training loop has it.
        tick: told the number of histories done after each batch.
    """
    items, positions, entropies = [], [], []
    hidden: dict[str, list[np.ndarray]] = {name: [] for name in policies}
    for host in batches:
        batch = host.to(device)
        entropy_NK, real_NK = measure(model, batch), model.maskable(batch)
        codes_N = real_NK.sum(1).clamp_min(1)
        for name, sampler in policies.items():
            given = entropy_NK if sampler.by_entropy else None
            total_N = torch.zeros(len(batch.item_N), device=device)
            for _ in range(DRAWS):
                total_N += sampler.sample(batch.packing, real_NK, given).sum(1) / codes_N
            hidden[name].append((total_N / DRAWS).cpu().numpy())
        items.append(host.item_N.numpy())
        positions.append(host.packing.position_N.numpy())
        entropies.append(entropy_NK.where(real_NK, torch.nan).cpu().numpy())
        tick(host.packing.sequences)
    hidden_N = {name: np.concatenate(parts) for name, parts in hidden.items()}
    return Survey(*map(np.concatenate, (items, positions, entropies)), hidden_N)


@dataclass(frozen=True)
class Hidden:
    """How often one phase hides each item of the sample, and items by popularity."""

    item: np.ndarray
    """Item ids of the sample, ascending."""
    read: np.ndarray
    """How often each was read."""
    share: np.ndarray
    """The mean share of its codes that was hidden."""
    bins: list[str]
    """Training interactions, as words."""
    bin_fraction: np.ndarray
    """Mean over the readings of each bin's items."""
    overall: float


def hidden_items(found: Survey, phase: str, train_count_I: np.ndarray) -> Hidden:
    """Shares by item and by popularity bin; bins that the sample never reads are left out."""
    share_N = found.hidden_N[phase].astype(np.float64)
    item, which_N, read = np.unique(found.item_N, return_inverse=True, return_counts=True)
    share = np.bincount(which_N, weights=share_N) / read
    bin_N = np.searchsorted(EDGES, train_count_I[found.item_N - 1])
    names = [f"{low + 1}-{high}" for low, high in zip((0, *EDGES), EDGES, strict=False)] + [f"> {EDGES[-1]}"]
    readings = np.bincount(bin_N, minlength=len(names))
    bin_fraction = np.bincount(bin_N, weights=share_N, minlength=len(names))
    there = np.flatnonzero(readings)
    return Hidden(item, read, share, [names[b] for b in there], bin_fraction[there] / readings[there], share_N.mean())


def most_hidden(hidden: Hidden, count: int = 10) -> np.ndarray:
    """Rows of the items with the highest shares among those read at least :data:`SEEN` times (or the most read)."""
    least = min(SEEN, int(np.sort(hidden.read)[-min(count, len(hidden.read))]))
    often = np.flatnonzero(hidden.read >= least)
    return often[np.argsort(-hidden.share[often], kind="stable")][:count]


# ---- figures ---------------------------------------------------------------------------------------------


def entropies(found: Survey, rows: Sequence[Row], codewords: int, title: str) -> "Figure":
    """Entropy over positions and digits: its distribution at the best epoch, and its means phase by phase."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        told = [row for row in rows if _has_means(row)]
        figure = canvas(9.2, 6.4 if told else 3.6)
        grid = figure.subplots(2 if told else 1, 2, sharex="col", sharey="row", squeeze=False, width_ratios=[1.25, 1])
        _bands(grid[0][0], _quantiles([found.entropy_NK[found.position_N == t] for t in _well_read(found.position_N)]))
        _boxes(grid[0][1], _quantiles(list(found.entropy_NK.T)))
        for axes in grid[0]:
            axes.axhline(log(codewords), color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
        uniform = f"uniform over {codewords:,} codewords"
        right = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
        grid[0][0].annotate(uniform, (1, log(codewords)), fontsize=8, color=FAINT, **right)
        grid[0][0].set_ylabel("entropy at the best epoch, nats")
        grid[0][0].legend(loc="lower right", ncols=3)
        if told:
            _by_phase(grid[1], told)
            grid[1][0].set_ylabel("mean entropy at the end\nof each phase, nats")
            grid[1][0].legend(loc="best")
        grid[-1][0].set_xlabel("position in the history (1: oldest that the model reads)")
        grid[-1][1].set_xlabel("digit of the semantic ID")
        figure.suptitle(title, fontweight="bold", fontsize=11, x=0.01, ha="left")
        return figure


def entropy_over_epochs(rows: Sequence[Row], title: str) -> "Figure":
    """Mean entropy over epochs, as a line and by position as a map, phases named above."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        told = [row for row in rows if _has_means(row)]
        figure = canvas(7.6, 5.4)
        line, heat = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2])
        epoch, value = column(told, "entropy/mean")
        line.plot(epoch, value, color=BLUE, marker="." if len(epoch) <= 12 else "")
        line.set_ylabel("mean, nats")
        longest = max(t + 1 for row in told for t, mean in enumerate(row["entropy/position"]) if mean is not None)
        map_TE = np.array([[_number(row["entropy/position"][t]) for row in told] for t in range(longest)])
        edges = np.array([epoch[0] - 0.5, *((a + b) / 2 for a, b in pairwise(epoch)), epoch[-1] + 0.5])
        # The first epochs are near the uniform distribution and would take all the colours.
        limits = {"vmin": np.nanmin(map_TE), "vmax": np.nanquantile(map_TE, 0.9)}
        rows_at = np.arange(longest + 1) + 0.5
        shown = heat.pcolormesh(edges, rows_at, map_TE, cmap="viridis", rasterized=True, **limits)
        heat.grid(visible=False)
        heat.set_ylabel("position in the history")
        heat.set_xlabel("epoch")
        figure.colorbar(shown, ax=heat, label="mean entropy, nats", pad=0.01, extend="max")
        for name, first, last, _ in phases(rows):
            line.annotate(name, ((first + last) / 2, 1), **ABOVE)
            for axes in (line, heat) if first > rows[0]["epoch"] else ():
                axes.axvline(first - 0.5, color="#AAAAAA", linewidth=0.8, linestyle=(0, (2, 2)))
        figure.suptitle(title, fontweight="bold", fontsize=11, x=0.01, ha="left")
        return figure


def masked(found: Mapping[str, Hidden], name_of: Callable[[int], str], title: str) -> "Figure":
    """Which items are hidden: the share of their codes by popularity for each phase, and the ten most hidden."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure = canvas(10.4, 4.2)
        by_bin, top = figure.subplots(1, 2, width_ratios=[1, 1.05])
        width = 0.8 / len(found)
        for place, ((phase, hidden), colour) in enumerate(
            zip(found.items(), cycle((SKY, VERMILLION, *LINES)), strict=False)
        ):
            at = np.arange(len(hidden.bins)) + (place - (len(found) - 1) / 2) * width
            by_bin.bar(at, 100 * hidden.bin_fraction, width * 0.92, color=colour, label=phase)
            by_bin.axhline(100 * hidden.overall, color=colour, linewidth=1.2, linestyle=(0, (3, 2)), zorder=0)
        by_bin.set_xticks(range(len(hidden.bins)), hidden.bins)
        by_bin.set_xlabel("training interactions of the item")
        by_bin.set_ylabel("codes masked, % (dashed: all items)")
        by_bin.grid(visible=False, axis="x")
        by_bin.set_title("By popularity", loc="left", fontsize=9)
        by_bin.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, ncols=4)
        rows = most_hidden(hidden)  # of the last masking phase, in its colour
        top.barh(range(len(rows)), 100 * hidden.share[rows], color=colour, height=0.65)
        top.set_yticks(range(len(rows)), [_shortened(name_of(int(hidden.item[row]))) for row in rows])
        top.invert_yaxis()
        top.grid(visible=False, axis="y")
        top.set_xlabel(f"codes masked in the phase '{phase}', %")
        top.set_title("Masked most (in brackets: times read)", loc="left", fontsize=9)
        for place, row in enumerate(rows):
            percent = 100 * hidden.share[row]
            beside = {"xytext": (3, 0), "textcoords": "offset points", "va": "center"}
            top.annotate(f"{percent:.0f} ({hidden.read[row]})", (percent, place), fontsize=7.5, color=INK, **beside)
        top.set_xlim(right=112 * float(hidden.share[rows].max()) or 1)
        figure.suptitle(title, fontweight="bold", fontsize=11, x=0.01, ha="left")
        return figure


def _has_means(row: Row) -> bool:
    return any(mean is not None for mean in row.get("entropy/position") or ())


def _well_read(position_N: np.ndarray) -> range:
    """Positions from the first on that enough histories of the sample reach."""
    return range(max(int((np.bincount(position_N) >= READ).sum()), 1))


def _quantiles(groups: Sequence[np.ndarray]) -> np.ndarray:
    """Quantiles of each group, groups x 5; nan is left out, and all that a group of nothing else has."""
    there = (group[~np.isnan(group)] for group in groups)
    return np.stack([np.quantile(group, QUANTILES) if len(group) else np.full(5, np.nan) for group in there])


def _bands(axes: "Axes", quantile_T5: np.ndarray) -> None:
    low, first, middle, third, high = quantile_T5.T
    at = np.arange(len(middle)) + 1
    axes.fill_between(at, low, high, color=BLUE, alpha=0.15, linewidth=0, label="5 to 95 %")
    axes.fill_between(at, first, third, color=BLUE, alpha=0.3, linewidth=0, label="25 to 75 %")
    axes.plot(at, middle, color=BLUE, label="median")
    axes.set_xlim(0.5, len(middle) + 0.5)


def _boxes(axes: "Axes", quantile_K5: np.ndarray) -> None:
    low, first, middle, third, high = quantile_K5.T
    at = np.arange(len(middle)) + 1
    axes.vlines(at, low, high, color=BLUE, alpha=0.35, linewidth=1)
    axes.bar(at, third - first, bottom=first, width=0.7, color=BLUE, alpha=0.3)
    axes.plot(at, middle, "_", color=BLUE, markersize=7, markeredgewidth=1.8)
    axes.grid(visible=False, axis="x")


def _by_phase(pair: Sequence["Axes"], told: Sequence[Row]) -> None:
    """A line for the last measured epoch of each phase."""
    last = {row["phase"]: row for row in told}
    marks, dashes = ("o", "s", "^", "D"), ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (4, 1, 1, 1)))
    for (phase, row), colour, mark, dash in zip(last.items(), cycle(LINES), cycle(marks), cycle(dashes), strict=False):
        for axes, values in zip(pair, (row["entropy/position"], row["entropy/digit"]), strict=True):
            at = [place + 1 for place, value in enumerate(values) if value is not None]
            shown = [value for value in values if value is not None]
            style = {"color": colour, "marker": mark, "markersize": 3, "linestyle": dash, "linewidth": 1.2}
            axes.plot(at, shown, label=f"{phase} (epoch {row['epoch']})", **style)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _shortened(title: str, most: int = 44) -> str:
    return title if len(title) <= most else title[: most - 1].rstrip() + "…"
