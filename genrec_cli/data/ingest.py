"""A log as integers on disk: users and items become integer labels while the rows are read.

Only the distinct ids are in memory. The rows go to a Parquet file of about ten bytes per row that every engine reads.
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
"""Columns of a log without rows."""


class Labels:
    """An integer label per id: texts are encoded as categories, integer ids are their own labels."""

    def __init__(self, name: str) -> None:
        self._type = pl.Categorical(pl.Categories.random(name))
        self._reference = pl.Series([], dtype=self._type)  # keeps the texts in memory
        self._integers = False

    def add(self, ids: pl.Series) -> pl.Series:
        """The label of each id, in no particular order."""
        self._integers = ids.dtype.is_integer()
        return ids if self._integers else ids.cast(self._type).to_physical().cast(pl.Int32)

    def texts(self, labels: np.ndarray) -> pl.Series:
        """The ids of labels, as texts."""
        if self._integers:
            return pl.Series(labels).cast(pl.String)
        return pl.Series(labels, dtype=pl.UInt32).cat.to(self._type).cast(pl.String)


@dataclass(frozen=True)
class IngestedLog:
    """The rows of a log: ``user, item`` (labels), ``time`` (seconds), ``fraction`` (microseconds) and ``row``."""

    path: Path
    rows: int
    users: Labels
    items: Labels
    order: tuple[str, ...]
    """Sort keys: ``row`` (the order of the file), or time, fraction and row where times are finer than seconds."""
    times_are_rows: bool
    """Whether every time is the number of its row."""

    @classmethod
    def of(cls, blocks: Iterable[pl.DataFrame], path: Path) -> "IngestedLog":
        """Read the blocks of a source (see :class:`genrec_cli.sources.base.Tables`) into a file."""
        users, items = Labels("user"), Labels("item")
        rows, fine, counted = 0, False, True
        with ExitStack() as stack:
            file: pq.ParquetWriter | None = None
            for chunk in _joined(blocks):
                seconds = chunk["micros"] // 1_000_000
                fraction = (chunk["micros"] - seconds * 1_000_000).cast(pl.Int32)
                ids = {"user": users.add(chunk["user"]), "item": items.add(chunk["item"])}
                columns = ids | {"time": seconds, "fraction": fraction, "row": chunk["row"]}
                table = pl.DataFrame(columns).to_arrow()
                fine = fine or bool((fraction != 0).any())
                counted = counted and bool((seconds == chunk["row"]).all())
                rows += len(table)
                file = file or stack.enter_context(pq.ParquetWriter(path, table.schema))
                file.write_table(table)
        return cls(path, rows, users, items, ("time", "fraction", "row") if fine else ("row",), counted)


def _joined(blocks: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Blocks concatenated to at least :data:`ROWS` rows; one empty block if there are none."""
    held: list[pl.DataFrame] = []
    written = False
    for block in blocks:
        held.append(block.select("user", "item", "micros", "row"))
        if sum(part.height for part in held) >= ROWS:
            yield pl.concat(held)
            held, written = [], True
    if held or not written:
        yield pl.concat(held) if held else pl.DataFrame(schema=EMPTY)
