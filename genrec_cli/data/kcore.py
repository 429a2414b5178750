"""The k-core of a log: the largest part in which every user and every item has at least k interactions.

Removing a user can push an item below k and the other way round, so the two filters alternate until nothing
changes. Written with group_by, len and semi-joins only, so that it runs on any data frame engine.
"""

from pathlib import Path

import narwhals as nw

from genrec_cli.data.engines import Engine, height
from genrec_cli.errors import DataError


def k_core(engine: Engine, log: Path, k: int) -> Path:
    """The rows of the k-core, in any order. Rows are counted as they stand: a repeated pair counts twice.

    Args:
        log: kept frame of ``user``, ``item`` and any further columns; it is left as it is.
        k: least number of rows a user and an item; 0 and 1 keep everything.

    Raises:
        DataError: nothing is left; the message has the numbers.
    """
    core, before = log, -1
    while k > 1 and height(core) not in (before, 0):
        before = height(core)
        frame = engine.scan(core)
        for side in ("user", "item"):
            enough = engine.write(_counts(frame, side).filter(nw.col("n") >= k))
            frame = frame.join(engine.scan(enough), on=side, how="semi")
        core = engine.write(frame)
    if not height(core):
        raise _emptied(engine, log, k)
    return core


def _counts(frame: nw.LazyFrame, side: str) -> nw.LazyFrame:
    return frame.group_by(side).agg(nw.len().alias("n"))


def _emptied(engine: Engine, log: Path, k: int) -> DataError:
    rows = height(log)
    if not rows:
        return DataError("There is no interaction to work with.", hint="Look at the file and its bad lines")
    users, items = (engine.collect(_counts(engine.scan(log), side))["n"] for side in ("user", "item"))
    return DataError(
        f"The {k}-core is empty: none of {rows:,} interactions of {len(users):,} users and "
        f"{len(items):,} items is left. The busiest user has {users.max():,}, the most frequent item "
        f"{items.max():,}.",
        hint=f"Ask for less, such as --k-core {max(0, min(k - 1, 2))}",
    )
