"""Parquet files, some rows at a time. The line of a row is its number from 1.

Whole numbers stay numbers: a column of integers needs no parsing, no dictionary and no look at each value.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from genrec_cli.errors import DataError
from genrec_cli.sources.base import BadRows
from genrec_cli.sources.interactions import A_SECOND, EARLIEST, LATEST, LONGEST_ID, Columns, Record, as_rows, checked

BATCH = 2**20
"""Rows at a time."""
WHOLE = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)
"""Types whose values are numbers of 64 bits with a sign."""

BROKEN = (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException)
"""What the two libraries raise; polars panics at moments that Python cannot say."""


def parquet_columns(path: Path) -> list[str]:
    """The names of the columns in a file."""
    with _opened(path) as file:
        return list(file.schema_arrow.names)


def parquet_records(path: Path) -> Iterator[Record]:
    """Every row as a record."""
    with _opened(path) as file:
        line = 0
        for batch in file.iter_batches(BATCH // 64):
            yield from (
                Record(line, values) for line, values in enumerate(_frame(batch).iter_rows(named=True), line + 1)
            )
            line += batch.num_rows


def parquet_interactions(path: Path, columns: Columns, bad: BadRows) -> Iterator[pl.DataFrame]:
    """The three columns, block by block; see :func:`genrec_cli.sources.interactions.checked`."""
    named = list(dict.fromkeys(name for name in columns[:3] if name is not None))
    first = 1
    with _opened(path) as file:
        kinds = {name: file.schema_arrow.field(name).type for name in named}
    for name, kind in kinds.items():
        if pa.types.is_nested(kind):
            raise DataError(f"{path}: the column '{name}' holds {kind}, not one value per row.")
    texts = [name for name, kind in kinds.items() if pa.types.is_string(kind) or pa.types.is_large_string(kind)]
    with _opened(path, read_dictionary=texts) as file:  # a long text that many rows share is held once
        for found in (part for batch in file.iter_batches(BATCH, columns=named) for part in _bounded(batch)):
            good = _of_integers(found, first, columns)
            if good is None:
                sides = {"user": columns.user, "item": columns.item}
                whole = [to for to, name in sides.items() if found[name].dtype in WHOLE]
                good = checked(as_rows(_as_texts(found, columns), columns, first), columns, path, bad)
                good = good.cast(dict.fromkeys(whole, pl.Int64))  # as in the other blocks
            yield good
            first += found.height


@contextmanager
def _opened(path: Path, **options: list[str]) -> Iterator[pq.ParquetFile]:
    """A file; whatever is wrong with it becomes a :class:`DataError`."""
    try:
        with pq.ParquetFile(path, **options) as file:
            yield file
    except (*BROKEN, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.") from None


def _frame(batch: pa.RecordBatch) -> pl.DataFrame:
    found = pl.from_arrow(batch)
    assert isinstance(found, pl.DataFrame)
    return found


def _bounded(batch: pa.RecordBatch) -> Iterator[pl.DataFrame]:
    """A batch in parts of some 256 MB at the most, with texts cut where they are longer than an id may be."""
    columns, longest = {}, 1
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if isinstance(column, pa.DictionaryArray):
            texts = pc.utf8_slice_codeunits(column.dictionary, 0, LONGEST_ID + 1)
            column = pa.DictionaryArray.from_arrays(column.indices, texts)
            longest = max(longest, pc.max(pc.binary_length(texts)).as_py() or 0)
        columns[name] = column
    step = min(BATCH, 2**28 // longest)
    for at in range(0, batch.num_rows, step):
        yield _frame(pa.record_batch(columns).slice(at, step))


def _of_integers(found: pl.DataFrame, first: int, columns: Columns) -> pl.DataFrame | None:
    """The block where nothing can be wrong with it: no nulls, ids of digits, whole times that a date can say."""
    ids = [found[columns.user], found[columns.item]]
    if any(side.null_count() or side.dtype not in WHOLE for side in ids):
        return None
    line = pl.int_range(first, first + found.height, dtype=pl.Int64, eager=True)
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


def _as_texts(found: pl.DataFrame, columns: Columns) -> pl.DataFrame:
    """The same columns as texts, for the careful look at each value."""

    def text(name: str) -> pl.Expr:
        kind = found.schema[name]
        if name == columns.time and kind.is_temporal():
            moment = pl.col(name).cast(pl.Datetime("us")).dt.epoch("us")
            return (moment / (10**6 / A_SECOND[columns.unit])).cast(pl.String)
        if name != columns.time and kind.is_float():  # as pandas writes integers beside gaps
            number = pl.col(name).fill_nan(None)
            whole = number.cast(pl.Int64, strict=False)
            return pl.when(whole == number).then(whole.cast(pl.String)).otherwise(number.cast(pl.String)).alias(name)
        return pl.col(name).cast(pl.String)

    return found.select(text(name) for name in found.columns)
