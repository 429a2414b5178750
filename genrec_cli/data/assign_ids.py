"""Dense ids and the order of the interactions.

Users and items get ids from 1 by first appearance (in the order of the file or, where times are finer than seconds, of
time). Interactions are sorted by user, then time, then row: ties in time keep the order of the file, unless they are
shuffled. Lazy frames only, with equal results on every engine.
"""

from collections.abc import Sequence
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl

from genrec_cli.data.engines import Engine
from genrec_cli.data.ingest import IngestedLog

EVENT = ["user", "item", "time"]
MOMENT = [*EVENT, "fraction"]
"""Columns that are equal in duplicate rows."""
PRIME = 2**31 - 1


def distinct(engine: Engine, log: IngestedLog, side: str) -> int:
    """Count of the distinct users or items of a log."""
    return len(engine.collect(engine.scan(log.path).group_by(side).agg(nw.len().alias("n")).select("n")))


def repeated(engine: Engine, log: IngestedLog) -> int:
    """Count of the rows with the user, item and time (to the microsecond) of an earlier row."""
    rows = engine.scan(log.path).select(*MOMENT)
    counts = engine.write_by_user(rows, lambda part: part.unique(MOMENT).select(n=nw.len()))
    return log.rows - int(engine.collect(engine.scan(counts).select(nw.col("n").sum()))["n"].item() or 0)


def without_repeated(engine: Engine, log: IngestedLog) -> Path:
    """The first row of each user, item and time."""
    order = list(log.order)
    return engine.write_by_user(engine.scan(log.path), lambda part: part.unique(MOMENT, keep="first", order_by=order))


def first_seen(engine: Engine, core: Path, side: str, order: Sequence[str]) -> np.ndarray:
    """The labels of the users or items of a log by first appearance: row i has the id i + 1."""
    rows = engine.scan(core)
    for key in order[:-1]:  # the rows with the lowest value of each key so far
        lowest = rows.group_by(side).agg(nw.col(key).min())
        rows = rows.join(lowest, on=[side, key], how="semi")
    first = rows.group_by(side).agg(*(nw.col(key).min() for key in order))
    return engine.collect(first.select(side, *order)).sort(*order)[side].to_numpy()


def ordered(
    engine: Engine, core: Path, users: np.ndarray, items: np.ndarray, order: Sequence[str], *, ties: int | None = None
) -> Path:
    """``user, item, time`` with ids, by user, then time, then row.

    Args:
        users, items: labels in the order of their ids; see :func:`first_seen`.
        ties: seed of a random order of the rows with equal user and exact time; None: the order of the file.
    """
    rows = engine.scan(core)
    for side, labels in (("user", users), ("item", items)):
        path = engine.scratch / f"{side}-ids.parquet"
        pl.DataFrame({side: labels, "id": np.arange(1, len(labels) + 1, dtype=np.int32)}).write_parquet(path)
        rows = rows.join(engine.scan(path), on=side).drop(side).rename({"id": side})
    keys = [key for key in order if key != "time"]
    if ties is not None:
        rows = rows.with_columns(_hashed(ties).alias("tie"))
        keys.insert(-1, "tie")
    rows = rows.select(*EVENT, *keys)
    return engine.write_by_user(rows, lambda part: part.sort("user", "time", *keys).select(*EVENT), len(users))


def _hashed(seed: int) -> nw.Expr:
    """A pseudo-random number per row: three rounds of squaring modulo a prime.

    Products stay below 2**62, so all engines compute equal values without their own hash functions.
    """
    value = nw.col("row")
    for shift in np.random.default_rng(seed).integers(PRIME, size=3).tolist():
        value = (value + shift) % PRIME
        value = value * value % PRIME
    return value
