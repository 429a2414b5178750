"""Entropies and masks against the planted labels of a generated shop: what a model finds hard, and what is masked.

An item of a history is noise, begins another intent, or follows the plan (``data/labels.py``). The question is whether
masks by entropy fall on changes of intent, which can be learned, or on noise, which cannot.

Legend: N packed items of all sampled histories.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from genrec_cli.data.labels import FIRST, NOISE, PLAN, TRANSITION, areas
from genrec_cli.report.entropy import Survey
from genrec_cli.report.figures import BLUE, INK, VERMILLION, Curve, Row, column, drawing, epoch_axis, shade

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DRAWS = 200
"""Draws of histories for an interval."""
SHOWN = {NOISE: ("noise", VERMILLION), TRANSITION: ("another intent", BLUE)}
KINDS = {**SHOWN, FIRST: ("first item", "#BBBBBB"), PLAN: ("follows the plan", "#E8E8E8")}
"""Kind -> its name and colour, from the bottom of a bar to its top."""
NAMES = {"noise": NOISE, "transition": TRANSITION}
ALL = "all items"


@dataclass(frozen=True)
class Area:
    """An AUC at the best epoch, with a percentile bootstrap interval of 95 % over histories."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Found:
    """The comparison: ``areas`` by name of the label; ``parts``: for all items and for each phase that masks, the
    fraction of items, or of masked codes, that is of each kind."""

    areas: Mapping[str, Area]
    parts: Mapping[str, Mapping[int, float]]

    def facts(self) -> dict[str, Any]:
        """For the manifest, which keeps the order of lists only: names in place of numbers."""
        parts = [
            {"codes": what} | {KINDS[kind][0]: part for kind, part in of.items()} for what, of in self.parts.items()
        ]
        return {"auc": [{"label": name} | vars(area) for name, area in self.areas.items()], "parts": parts}


def compare(survey: Survey, kind_N: np.ndarray, seed: int) -> Found:
    """Compare a survey with the kinds of its items."""
    score_N, history_N = np.nanmean(survey.entropy_NK, axis=1), np.cumsum(survey.position_N == 0) - 1
    generator, drawn = np.random.default_rng(seed), []
    for _ in range(DRAWS):
        count_H = np.bincount(generator.integers(0, history_N[-1] + 1, history_N[-1] + 1), minlength=history_N[-1] + 1)
        drawn.append(areas(score_N, kind_N, count_H[history_N]))
    found = {}
    for name, value in areas(score_N, kind_N).items():
        values = [known for draw in drawn if (known := draw[name]) is not None]
        if value is not None and values:
            found[name] = Area(value, *map(float, np.quantile(values, (0.025, 0.975))))
    codes_N = (~np.isnan(survey.entropy_NK)).sum(1)
    weights = {ALL: codes_N} | {phase: fraction_N * codes_N for phase, fraction_N in survey.masked_N.items()}
    return Found(found, {what: _parts(weight_N, kind_N) for what, weight_N in weights.items()})


def _parts(weight_N: np.ndarray, kind_N: np.ndarray) -> dict[int, float]:
    total = max(float(weight_N.sum()), 1e-12)
    return {kind: float(weight_N[kind_N == kind].sum() / total) for kind in KINDS}


def areas_by_phase(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The AUC at the last measured epoch of each phase: ``phase``, ``epoch``, and one value per label."""
    last: dict[str, Row] = {row["phase"]: row for row in rows if row.get("entropy/auc_noise") is not None}
    return [
        {"phase": phase, "epoch": row["epoch"]} | {name: row.get(f"entropy/auc_{name}") for name in NAMES}
        for phase, row in last.items()
    ]


def against_labels(found: Found, curve: Curve, title: str) -> "Figure":
    """AUC of the entropy over epochs, and what the masks of each phase fall on."""
    with drawing(10.4, 4.2, title) as figure:
        over, bars = figure.subplots(1, 2, width_ratios=[1.3, 1])
        shade(over, curve)
        over.axhline(0.5, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
        over.annotate("chance", (0.008, 0.5), xycoords=("axes fraction", "data"), va="top", fontsize=8, color=INK)
        for (name, kind), dash in zip(NAMES.items(), ("-", (0, (5, 1.5))), strict=True):
            epoch, value = column(curve.rows, f"entropy/auc_{name}")
            shown, colour = SHOWN[kind]
            area = found.areas.get(name)
            at_best = f": {area.value:.2f} ({area.low:.2f} to {area.high:.2f})" if area else ""
            style: dict[str, Any] = {"color": colour, "linestyle": dash, "marker": "." if len(epoch) <= 12 else ""}
            over.plot(epoch, value, label=f"{shown}{at_best}", **style)
        over.set_ylabel("AUC of the entropy against items of the plan")
        over.legend(loc="best", title="at the best epoch (95 % over histories)", alignment="left")
        over.margins(y=0.25)
        epoch_axis(over, curve.rows[-1]["epoch"])
        _bars(bars, found.parts)
    return figure


def _bars(axes: "Axes", parts: Mapping[str, Mapping[int, float]]) -> None:
    """One bar for all codes, and one for the masked codes of each phase."""
    bottom = np.zeros(len(parts))
    for kind, (name, colour) in KINDS.items():
        height = np.array([100 * of[kind] for of in parts.values()])
        axes.bar(range(len(parts)), height, 0.66, bottom=bottom, color=colour, label=name)
        for place, (low, high) in enumerate(zip(bottom, height, strict=True)):
            if high >= 4:  # a thinner part has no room for its number
                ink = "white" if kind in SHOWN else INK
                axes.annotate(f"{high:.0f}", (place, low + high / 2), ha="center", va="center", color=ink, fontsize=8)
        bottom += height
    names = ["all codes" if what == ALL else f"masked in\n'{what}'" for what in parts]
    axes.set_xticks(range(len(parts)), names)
    axes.set_ylim(0, 100)
    axes.set_ylabel("% of codes, by the label of their item")
    axes.grid(visible=False)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5))
