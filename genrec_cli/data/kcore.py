"""The k-core of a log: the largest part in which every user and every item has at least k interactions.

Removing a user can push an item below k and the other way round, so the two filters alternate until nothing
changes. Written with group_by, len and semi-joins only, so that it runs on any data frame engine.
"""

import polars as pl

from genrec_cli.errors import DataError


def k_core(interactions: pl.LazyFrame, k: int) -> pl.DataFrame:
    """The rows of the k-core, in any order. Rows are counted as they stand: a repeated pair counts twice.

    Args:
        interactions: ``user``, ``item`` and any further columns.
        k: least number of rows a user and an item; 0 and 1 keep everything.

    Raises:
        DataError: nothing is left; the message has the numbers.
    """
    core = everything = interactions.collect()
    height = None
    while k > 1 and core.height != height:
        height = core.height
        for side in ("user", "item"):
            enough = core.lazy().group_by(side).agg(pl.len().alias("n")).filter(pl.col("n") >= k)
            core = core.lazy().join(enough, on=side, how="semi").collect()
    if not core.height:
        raise _emptied(everything, k)
    return core


def _emptied(log: pl.DataFrame, k: int) -> DataError:
    if not log.height:
        return DataError("There is no interaction to work with.", hint="Look at the file and its bad lines")
    users, items = (log.group_by(side).len()["len"] for side in ("user", "item"))
    return DataError(
        f"The {k}-core is empty: none of {log.height:,} interactions of {len(users):,} users and "
        f"{len(items):,} items is left. The busiest user has {users.max():,}, the most frequent item "
        f"{items.max():,}.",
        hint=f"Ask for less, such as --k-core {max(0, min(k - 1, 2))}",
    )
