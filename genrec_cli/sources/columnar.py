"""Interactions of a Parquet file, some row groups at a time. The line of a row is its number from 1.

Whole numbers stay numbers: a column of integers needs no parsing, no dictionary and no look at each value.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from genrec_cli.errors import DataError
from genrec_cli.sources.base import BadRows
from genrec_cli.sources.interactions import EARLIEST, LATEST, Columns, checked

BATCH = 2**20
"""Rows at a time."""
WHOLE = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)
"""Types whose values are numbers of 64 bits with a sign."""
A_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def parquet_interactions(path: Path, columns: Columns, bad: BadRows) -> Iterator[pl.DataFrame]:
    """The three columns, block by block; see :func:`genrec_cli.sources.interactions.checked`."""
    named = list(dict.fromkeys(name for name in columns[:3] if name is not None))
    first = 1
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH, columns=named):
                found = pl.from_arrow(batch)
                assert isinstance(found, pl.DataFrame)
                line = pl.int_range(first, first + found.height, dtype=pl.Int64, eager=True).alias("line")
                good = _of_integers(found, line, columns)
                if good is None:
                    good = checked(_as_texts(found, line, columns), columns, path, bad)
                    whole = [to for to, name in (("user", columns.user), ("item", columns.item))
                             if found[name].dtype in WHOLE]  # fmt: skip
                    good = good.cast(dict.fromkeys(whole, pl.Int64))  # as in the other blocks
                yield good
                first += found.height
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None


def _of_integers(found: pl.DataFrame, line: pl.Series, columns: Columns) -> pl.DataFrame | None:
    """The block where nothing can be wrong with it: no nulls, ids of digits, whole times that a date can say."""
    ids = [found[columns.user], found[columns.item]]
    if any(side.null_count() or side.dtype not in WHOLE for side in ids):
        return None
    micros = line * 1_000_000
    if columns.time is not None:
        time, a_second = found[columns.time], A_SECOND[columns.unit]
        if time.null_count() or time.dtype not in WHOLE or not len(time):
            return None
        low, high = time.min(), time.max()
        if not (EARLIEST * a_second <= low <= high <= LATEST * a_second):  # type: ignore[operator]
            return None
        time = time.cast(pl.Int64)
        micros = time // (a_second // 10**6) if a_second > 10**6 else time * (10**6 // a_second)
    user, item = (each.cast(pl.Int64) for each in ids)
    return pl.DataFrame({"user": user, "item": item, "micros": micros, "row": line})


def _as_texts(found: pl.DataFrame, line: pl.Series, columns: Columns) -> pl.DataFrame:
    """Rows of any types as texts, for the careful look at each value."""

    def text(name: str | None, to: str) -> pl.Expr:
        if name is None:
            return pl.lit(None, pl.String).alias(to)
        if to == "time" and found.schema[name].is_temporal():
            moment = pl.col(name).cast(pl.Datetime("us")).dt.epoch("us")
            return (moment / (10**6 / A_SECOND[columns.unit])).cast(pl.String).alias(to)
        if to != "time" and found.schema[name].is_float():  # as pandas writes integers beside gaps
            number = pl.col(name).fill_nan(None)
            whole = number.cast(pl.Int64, strict=False)
            return pl.when(whole == number).then(whole.cast(pl.String)).otherwise(number.cast(pl.String)).alias(to)
        return pl.col(name).cast(pl.String).alias(to)

    return found.select(
        line,
        *(text(name, to) for name, to in zip(columns[:3], ("user", "item", "time"), strict=True)),
        pl.lit(None, pl.String).alias("reason"),
    )
