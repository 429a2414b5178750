"""A log as integers on disk: user and item of each row become numbers while the rows are read.

Only the distinct ids are held in memory. The rows go to a Parquet file of some ten bytes each, which can be read
any number of times by any engine.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

ROWS = 2**20
"""Rows of a row group."""
SIDES = ("user", "item")


class Labels:
    """Numbers for texts, from 0, given as the texts come in; what number a text gets means nothing."""

    def __init__(self, name: str) -> None:
        self._type = pl.Categorical(pl.Categories.random(name))
        self._hold = pl.Series([], dtype=self._type)  # the texts live as long as a series of them
        self.count = 0

    def add(self, texts: pl.Series) -> pl.Series:
        """The number of each text (Int32)."""
        numbers = texts.cast(self._type).to_physical()
        self.count = max(self.count, int(numbers.max()) + 1 if len(numbers) else 0)
        return numbers.cast(pl.Int32)

    def texts(self, numbers: np.ndarray) -> pl.Series:
        """The texts of numbers."""
        return pl.Series(numbers, dtype=pl.UInt32).cat.to(self._type).cast(pl.String)


@dataclass(frozen=True)
class Spool:
    """The rows of a log: ``user i32, item i32, time i64 (seconds), row i64`` and perhaps ``fraction i32``."""

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
        with pq.ParquetWriter(path, _numbered(pl.DataFrame(schema=_BLOCK), users, items).to_arrow().schema) as file:
            for slab in _slabs(blocks):
                table = _numbered(slab, users, items)
                fine = fine or bool((table["fraction"] != 0).any())
                counted = counted and bool((table["time"] == table["row"]).all())
                rows += table.height
                file.write_table(table.to_arrow())
        return cls(path, rows, users, items, ("time", "fraction", "row") if fine else ("row",), counted)


_BLOCK = {"user": pl.String, "item": pl.String, "micros": pl.Int64, "row": pl.Int64}


def _numbered(block: pl.DataFrame, users: Labels, items: Labels) -> pl.DataFrame:
    seconds = block["micros"] // 1_000_000
    fraction = (block["micros"] - seconds * 1_000_000).cast(pl.Int32)
    return pl.DataFrame(
        {"user": users.add(block["user"]), "item": items.add(block["item"]), "time": seconds, "fraction": fraction,
         "row": block["row"]}
    )  # fmt: skip


def _slabs(blocks: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Blocks joined until there are enough rows."""
    held: list[pl.DataFrame] = []
    for block in blocks:
        held.append(block.select(*_BLOCK))
        if sum(part.height for part in held) >= ROWS:
            yield pl.concat(held)
            held = []
    if held:
        yield pl.concat(held)
