"""The table of a comparison: slices x protocols x metrics x sides, each side paired with the first per user."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from genrec_cli.engine import metrics
from genrec_cli.engine.compare import difference, holm
from genrec_cli.engine.protocols import LABELS, PROTOCOLS, Protocol


class Ranks(NamedTuple):
    """Ranks of the targets of one side and protocol: a row per seed, a column per user (the same for all sides)."""

    above_SU: np.ndarray
    ties_SU: np.ndarray

    def of(self, rows: np.ndarray) -> "Ranks":
        """The ranks of some users."""
        return Ranks(self.above_SU[:, rows], self.ties_SU[:, rows])


Side = dict[Protocol, Ranks]
Slice = tuple[str, list[Side]]
"""A name, and the ranks of every side within it."""
NUMBERS = ("value", "sd", "difference", "relative", "low", "high", "p", "p_holm")
SCHEMA = pa.schema(
    [("slice", pa.string()), ("users", pa.int64())]
    + [(name, pa.string()) for name in ("metric", "seen", "run")]
    + [("seeds", pa.int64()), *((name, pa.float64()) for name in NUMBERS)]
)
"""``seen``: the protocol; ``sd``: standard deviation over seeds; ``difference``: to the first run, with its 95 %
interval over users (``low``, ``high``)."""


def table(
    slices: Sequence[Slice], names: Sequence[str], measures: Sequence[str], *, draws: int, seed: int
) -> list[dict[str, Any]]:
    """One row per slice, metric, protocol and side; p-values are adjusted over all of them (Holm)."""
    rows: list[dict[str, Any]] = []
    for name, sides in slices:
        for metric in measures:
            for protocol in PROTOCOLS:
                cell = {"slice": name, "metric": metric, "seen": protocol}
                value_SU = [metrics.per_user(*metrics.parse(metric), *side[protocol]) for side in sides]
                rows += _rows(cell, names, value_SU, draws=draws, seed=seed)
    tested = [row for row in rows if row["p"] is not None]
    for row, adjusted in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = float(adjusted)
    return rows


def _rows(
    cell: dict[str, Any], names: Sequence[str], value_SU: Sequence[np.ndarray], *, draws: int, seed: int
) -> Iterator[dict[str, Any]]:
    """One slice, metric and protocol: the baseline, then the other sides with their difference to it."""
    users, baseline_U = value_SU[0].shape[1], value_SU[0].mean(0)
    for number, (run, run_SU) in enumerate(zip(names, value_SU, strict=True)):
        row: dict[str, Any] = dict.fromkeys(SCHEMA.names) | cell | {"users": users, "run": run, "seeds": len(run_SU)}
        if users:
            row["value"] = float(run_SU.mean())
            row["sd"] = float(run_SU.mean(1).std(ddof=1)) if len(run_SU) > 1 else None
        if users and number:
            gain = difference(run_SU.mean(0), baseline_U, draws=draws, seed=seed)
            base = float(baseline_U.mean())
            row |= {"difference": gain.mean, "low": gain.low, "high": gain.high, "p": gain.p}
            row["relative"] = gain.mean / base if base else None
        yield row


def shown(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows for people. Columns that are empty everywhere are left out."""
    head = ["slice", "users", "metric", "protocol", "run", "value"]
    body = [[row["slice"], row["users"], row["metric"], LABELS[row["seen"]], row["run"], row["value"]] for row in rows]
    if any(row["sd"] is not None for row in rows):
        head.append("sd over seeds")
        body = [[*cells, row["sd"]] for cells, row in zip(body, rows, strict=True)]
    if any(row["p"] is not None for row in rows):
        head += ["difference", "relative", "95 % over users", "p", "p, Holm"]
        body = [[*cells, *_tested(row)] for cells, row in zip(body, rows, strict=True)]
    return head, body


def tables(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[str], list[list[Any]]]]:
    """Titles, columns and rows for a terminal: one table of all users; of slices, one per metric and protocol."""
    if len({row["slice"] for row in rows}) == 1:
        head, body = shown(rows)
        yield f"{rows[0]['users']:,} users", head[2:], [cells[2:] for cells in body]
        return
    for metric, protocol in dict.fromkeys((row["metric"], row["seen"]) for row in rows):
        head, body = shown([row for row in rows if (row["metric"], row["seen"]) == (metric, protocol)])
        yield f"{metric}, {LABELS[protocol]}", [*head[:2], *head[4:]], [[*cells[:2], *cells[4:]] for cells in body]


def _tested(row: dict[str, Any]) -> list[str | None]:
    if row["p"] is None:
        return [None] * 5
    relative = None if row["relative"] is None else f"{row['relative']:+.1%}"
    interval = f"{row['low']:+.4f} to {row['high']:+.4f}"
    return [f"{row['difference']:+.4f}", relative, interval, f"{row['p']:.4f}", f"{row['p_holm']:.4f}"]
