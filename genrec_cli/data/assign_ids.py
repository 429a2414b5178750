"""From the rows of a log to dense ids in order: who is number 1, and which row comes first.

Users and items get ids from 1 in the order in which the rows first name them (in the order of the file or, where times
are finer than seconds, of time). Interactions are sorted by user, then time, then row, so ties in time keep the order
of the file, unless they are shuffled. Lazy frames only: the same on every engine.
"""

from collections.abc import Sequence
from pathlib import Path

import narwhals as nw
import numpy as np
import polars as pl

from genrec_cli.data.engines import Engine
from genrec_cli.data.ingest import Spool

EVENT = ["user", "item", "time"]
MOMENT = [*EVENT, "fraction"]
"""What rows share that are repetitions."""
PRIME = 2**31 - 1


def distinct(engine: Engine, spool: Spool, side: str) -> int:
    """How many users or items a log names."""
    return len(engine.collect(engine.scan(spool.path).group_by(side).agg(nw.len().alias("n")).select("n")))


def repeated(engine: Engine, spool: Spool) -> int:
    """Rows whose user, item and time, to the microsecond, another row before them has."""
    log = engine.scan(spool.path).select(*MOMENT)
    counts = engine.write_by_user(log, lambda rows: rows.unique(MOMENT).select(n=nw.len()))
    return spool.rows - int(engine.collect(engine.scan(counts).select(nw.col("n").sum()))["n"].item() or 0)


def without_repeated(engine: Engine, spool: Spool) -> Path:
    """The first row of each user, item and time."""
    log, by = engine.scan(spool.path), list(spool.by)
    return engine.write_by_user(log, lambda rows: rows.unique(MOMENT, keep="first", order_by=by))


def first_seen(engine: Engine, core: Path, side: str, by: Sequence[str]) -> np.ndarray:
    """The labels of the users or items of a log in order of first appearance: row i has the id i + 1."""
    rows = engine.scan(core)
    for key in by[:-1]:  # the rows that hold the least of each key so far
        least = rows.group_by(side).agg(nw.col(key).min())
        rows = rows.join(least, on=[side, key], how="semi")
    first = rows.group_by(side).agg(*(nw.col(key).min() for key in by))
    return engine.collect(first.select(side, *by)).sort(*by)[side].to_numpy()


def ordered(
    engine: Engine, core: Path, users: np.ndarray, items: np.ndarray, by: Sequence[str], *, ties: int | None = None
) -> Path:
    """``user, item, time`` with ids, by user, then time, then row.

    Args:
        users, items: labels in the order of their ids; see :func:`first_seen`.
        ties: seed of a random order of the rows that share user and exact time; None: they keep the order of the file.
    """
    rows = engine.scan(core)
    for side, labels in (("user", users), ("item", items)):
        rows = rows.join(engine.scan(_ids(engine, side, labels)), on=side).drop(side).rename({"id": side})
    order = [key for key in by if key != "time"]
    if ties is not None:
        rows = rows.with_columns(_hashed(ties).alias("tie"))
        order.insert(-1, "tie")
    return engine.write_by_user(
        rows.select(*EVENT, *order), lambda part: part.sort("user", "time", *order).select(*EVENT), len(users)
    )


def _hashed(seed: int) -> nw.Expr:
    """A number per row that looks random: three rounds of squaring modulo a prime.

    Products stay below 2**62, so every engine computes the same, without a hash function of its own.
    """
    number = nw.col("row")
    for shift in np.random.default_rng(seed).integers(PRIME, size=3).tolist():
        number = (number + shift) % PRIME
        number = number * number % PRIME
    return number


def _ids(engine: Engine, side: str, labels: np.ndarray) -> Path:
    path = engine.scratch / f"{side}-ids.parquet"
    pl.DataFrame({side: labels, "id": np.arange(1, len(labels) + 1, dtype=np.int32)}).write_parquet(path)
    return path
