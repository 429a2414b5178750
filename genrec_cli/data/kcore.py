"""The k-core of a log: the largest part in which every user and every item has at least k interactions.

Removing a user can bring an item below k and vice versa, so the two filters alternate until nothing changes. It uses
only group_by, len and semi-joins, which every engine has.
"""

from pathlib import Path

import narwhals as nw

from genrec_cli.data.engines import Engine, height
from genrec_cli.errors import DataError


def k_core(engine: Engine, log: Path, k: int) -> Path:
    """The rows of the k-core, in any order. A repeated pair of user and item counts twice.

    Args:
        log: stored frame with ``user``, ``item`` and any further columns.
        k: least count of rows per user and per item; 0 and 1 keep all rows.

    Raises:
        DataError: no row is left; the message has the counts.
    """
    core, before = log, -1
    while k > 1 and height(core) not in (before, 0):
        before = height(core)
        frame = engine.scan(core)
        for side in ("user", "item"):
            enough = engine.write(frame.group_by(side).agg(n=nw.len()).filter(nw.col("n") >= k))
            frame = frame.join(engine.scan(enough), on=side, how="semi")
        core = engine.write(frame)
    if not height(core):
        raise _empty_core(engine, log, k)
    return core


def _empty_core(engine: Engine, log: Path, k: int) -> DataError:
    if not (rows := height(log)):
        return DataError("There is no interaction to work with.", hint="Look at the file and its bad lines")
    counts = [engine.scan(log).group_by(side).agg(n=nw.len()) for side in ("user", "item")]
    users, items = (engine.collect(count)["n"].to_numpy() for count in counts)
    return DataError(
        f"The {k}-core is empty: none of {rows:,} interactions of {len(users):,} users and {len(items):,} items is "
        f"left. The most active user has {users.max():,}, the most frequent item {items.max():,}.",
        hint=f"Choose a lower one, such as --k-core {max(0, min(k - 1, 2))}",
    )
