"""The table of a comparison: slices x protocols x metrics x sides, each side paired with the first, user by user."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from genrec_cli.engine import metrics
from genrec_cli.engine.compare import difference, holm
from genrec_cli.engine.protocols import LABELS, PROTOCOLS, Protocol


class Ranks(NamedTuple):
    """The targets' ranks under one side and protocol; row s is seed s, the columns are the same users on all sides."""

    above_SU: np.ndarray
    ties_SU: np.ndarray

    def of(self, rows: np.ndarray) -> "Ranks":
        """The same for some users."""
        return Ranks(self.above_SU[:, rows], self.ties_SU[:, rows])


Side = dict[Protocol, Ranks]
Slice = tuple[str, list[Side]]
"""A name, and the ranks of every side within it."""

SCHEMA = pa.schema(
    [
        ("slice", pa.string()),
        ("users", pa.int64()),
        ("metric", pa.string()),
        ("seen", pa.string()),
        ("run", pa.string()),
        ("seeds", pa.int64()),
    ]
    + [(name, pa.float64()) for name in ("value", "sd", "difference", "relative", "low", "high", "p", "p_holm")]
)
"""``seen``: the protocol, "kept" or "left_out"; ``sd`` is over seeds; ``difference`` is to the first run, with its 95 %
interval over users."""


def table(
    found: Sequence[Slice], names: Sequence[str], measures: Sequence[str], *, draws: int, seed: int
) -> list[dict[str, Any]]:
    """A row for each slice, metric, protocol and side; p-values adjusted over all of them (Holm)."""
    rows = [
        row
        for name, sides in found
        for metric in measures
        for protocol in PROTOCOLS
        for row in _rows(
            {"slice": name, "metric": metric, "seen": protocol},
            names,
            [metrics.per_user(*metrics.parse(metric), *side[protocol]) for side in sides],
            draws=draws,
            seed=seed,
        )
    ]
    tested = [row for row in rows if row["p"] is not None]
    for row, adjusted in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = float(adjusted)
    return rows


def _rows(
    cell: dict[str, Any], names: Sequence[str], value_SU: Sequence[np.ndarray], *, draws: int, seed: int
) -> Iterator[dict[str, Any]]:
    """One slice, metric and protocol: the baseline, then the others with their difference to it."""
    users = value_SU[0].shape[1]
    baseline_U = value_SU[0].mean(0)
    for number, (run_name, of_run_SU) in enumerate(zip(names, value_SU, strict=True)):
        seeds = len(of_run_SU)
        row: dict[str, Any] = dict.fromkeys(SCHEMA.names) | cell
        row |= {"users": users, "run": run_name, "seeds": seeds}
        if users:
            row["value"] = float(of_run_SU.mean())
            row["sd"] = float(of_run_SU.mean(1).std(ddof=1)) if seeds > 1 else None
        if users and number:
            gain = difference(of_run_SU.mean(0), baseline_U, draws=draws, seed=seed)
            base = float(baseline_U.mean())
            row |= {"difference": gain.mean, "low": gain.low, "high": gain.high, "p": gain.p}
            row["relative"] = gain.mean / base if base else None
        yield row


def shown(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows for people; what is the same or empty everywhere is left out."""
    head = ["slice", "users", "metric", "protocol", "run", "value"]
    body = [[row["slice"], row["users"], row["metric"], LABELS[row["seen"]], row["run"], row["value"]] for row in rows]
    if any(row["sd"] is not None for row in rows):
        head.append("sd over seeds")
        body = [[*cells, row["sd"]] for cells, row in zip(body, rows, strict=True)]
    if any(row["p"] is not None for row in rows):
        head += ["difference", "relative", "95 % over users", "p", "p, Holm"]
        body = [[*cells, *_tested(row)] for cells, row in zip(body, rows, strict=True)]
    return head, body


def _tested(row: dict[str, Any]) -> list[str | None]:
    if row["p"] is None:
        return [None] * 5
    relative = None if row["relative"] is None else f"{row['relative']:+.1%}"
    interval = f"{row['low']:+.4f} to {row['high']:+.4f}"
    return [f"{row['difference']:+.4f}", relative, interval, f"{row['p']:.4f}", f"{row['p_holm']:.4f}"]
