"""A log as integers on disk: user and item of each row set_group numbers while the rows are read.

Only the distinct ids are held in memory. The rows go to a Parquet file of some ten bytes each, which can be read
any number of times by any engine.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

ROWS = 2**20
"""Rows of a row group."""
EMPTY = {"user": pl.String, "item": pl.String, "micros": pl.Int64, "row": pl.Int64}
"""What a log without a row looks like."""


class Labels:
    """A number for each id, given as the ids come in: texts are counted, whole numbers stay as they are."""

    def __init__(self, name: str) -> None:
        self._type = pl.Categorical(pl.Categories.random(name))
        self._hold = pl.Series([], dtype=self._type)  # the texts live as long as a series of them
        self._whole = False

    def add(self, ids: pl.Series) -> pl.Series:
        """The number of each id; what number a text gets means nothing."""
        self._whole = ids.dtype.is_integer()
        return ids if self._whole else ids.cast(self._type).to_physical().cast(pl.Int32)

    def texts(self, numbers: np.ndarray) -> pl.Series:
        """The ids of numbers, as texts."""
        if self._whole:
            return pl.Series(numbers).cast(pl.String)
        return pl.Series(numbers, dtype=pl.UInt32).cat.to(self._type).cast(pl.String)


@dataclass(frozen=True)
class Spool:
    """The rows of a log: ``user, item`` (whole numbers), ``time`` (seconds), ``fraction`` of it and ``row``."""

    path: Path
    rows: int
    users: Labels
    items: Labels
    by: tuple[str, ...]
    """Columns that say which row is first: ``row`` (the order of the file), or the exact time and then ``row``
    where times are finer than seconds (``fraction``: microseconds within the second)."""
    times_are_rows: bool
    """Whether every time is the number of its row."""

    @classmethod
    def of(cls, blocks: Iterable[pl.DataFrame], path: Path) -> "Spool":
        """Read the blocks of a source (see :class:`genrec_cli.sources.base.Tables`) into a file."""
        users, items = Labels("user"), Labels("item")
        rows, fine, counted = 0, False, True
        with ExitStack() as stack:
            file: pq.ParquetWriter | None = None
            for slab in _slabs(blocks):
                table = _numbered(slab, users, items)
                fine = fine or bool((table["fraction"] != 0).any())
                counted = counted and bool((table["time"] == table["row"]).all())
                rows += table.height
                file = file or stack.enter_context(pq.ParquetWriter(path, table.to_arrow().schema))
                file.write_table(table.to_arrow())
        return cls(path, rows, users, items, ("time", "fraction", "row") if fine else ("row",), counted)


def _numbered(block: pl.DataFrame, users: Labels, items: Labels) -> pl.DataFrame:
    seconds = block["micros"] // 1_000_000
    fraction = (block["micros"] - seconds * 1_000_000).cast(pl.Int32)
    ids = {"user": users.add(block["user"]), "item": items.add(block["item"])}
    return pl.DataFrame(ids | {"time": seconds, "fraction": fraction, "row": block["row"]})


def _slabs(blocks: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Blocks joined until there are enough rows; at least one."""
    held: list[pl.DataFrame] = []
    given = False
    for block in blocks:
        held.append(block.select("user", "item", "micros", "row"))
        if sum(part.height for part in held) >= ROWS:
            yield pl.concat(held)
            held, given = [], True
    if held or not given:
        yield pl.concat(held) if held else pl.DataFrame(schema=EMPTY)
