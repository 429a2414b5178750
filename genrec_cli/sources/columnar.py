"""Parquet files, read batch by batch. Row n of the file counts as line n, from 1.

Integer columns stay integers: they need no parsing, no dictionary and no check of each value.
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
from genrec_cli.sources.interactions import EARLIEST, LATEST, LONGEST_ID, UNITS, Columns, Record, as_rows, checked

BATCH = 2**20
"""Rows per batch."""
MAX_BYTES = 2**28
"""Bytes of the texts that are expanded at a time."""
INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32)
"""Types whose values fit int64."""
BROKEN = (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException)
"""Errors of the two libraries; polars panics for dates that Python cannot represent."""


def parquet_columns(path: Path) -> list[str]:
    """The names of the columns of a file."""
    with _opened(path) as file:
        return list(file.schema_arrow.names)


def parquet_types(path: Path) -> pl.Schema:
    """The types of the columns of a file, as polars reads them."""
    with _opened(path) as file:
        frame = pl.from_arrow(file.schema_arrow.empty_table())
    assert isinstance(frame, pl.DataFrame)
    return frame.schema


def parquet_records(path: Path) -> Iterator[Record]:
    """Every row as a record."""
    with _opened(path) as file:
        rows = (row for batch in file.iter_batches(BATCH // 64) for row in _frame(batch).iter_rows(named=True))
        yield from (Record(line, values) for line, values in enumerate(rows, 1))


def parquet_interactions(path: Path, columns: Columns, bad: BadRows) -> Iterator[pl.DataFrame]:
    """The three columns, block by block; see :func:`genrec_cli.sources.interactions.checked`."""
    names, ids = columns.needed, list(dict.fromkeys(name for name in columns[:3] if name is not None))
    with _opened(path) as file:
        types = {name: file.schema_arrow.field(name).type for name in names}
    for name, kind in types.items():
        if pa.types.is_nested(kind):
            raise DataError(f"{path}: the column '{name}' holds {kind}, not one value per row.")
    texts = [name for name, kind in types.items() if pa.types.is_string(kind) or pa.types.is_large_string(kind)]
    first = 1
    with _opened(path, read_dictionary=texts) as file:  # holds a repeated long text once
        for frame in (part for batch in file.iter_batches(BATCH, columns=names) for part in _bounded(batch, ids)):
            bad.saw(path, frame.height)
            kept = columns.rows.keep(frame.select(columns.filtered)) if columns.rows else None
            good = _of_integers(frame, first, columns)
            if good is not None:
                good = good if kept is None else good.filter(kept)
            else:
                sides = {"user": columns.user, "item": columns.item}
                integers = [side for side, name in sides.items() if frame[name].dtype in INTEGERS]
                rows = as_rows(_as_texts(frame.select(ids), columns), columns._replace(rows=None), first)
                rows = rows if kept is None else rows.filter(kept)
                good = checked(rows, columns._replace(rows=None), path, bad, counted=True)
                good = good.cast(dict.fromkeys(integers, pl.Int64))  # as in the other blocks
            yield good
            first += frame.height


@contextmanager
def _opened(path: Path, **options: list[str]) -> Iterator[pq.ParquetFile]:
    """An open file; every error while it is read becomes a :class:`DataError`."""
    try:
        with pq.ParquetFile(path, **options) as file:
            yield file
    except (*BROKEN, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.") from None


def _frame(batch: pa.RecordBatch) -> pl.DataFrame:
    frame = pl.from_arrow(batch)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _bounded(batch: pa.RecordBatch, ids: list[str]) -> Iterator[pl.DataFrame]:
    """A batch in parts of about :data:`MAX_BYTES`, with the texts of ids cut just beyond the longest valid id."""
    columns, longest = {}, 1
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if isinstance(column, pa.DictionaryArray):
            texts = column.dictionary
            texts = pc.utf8_slice_codeunits(texts, 0, LONGEST_ID + 1) if name in ids else texts
            column = pa.DictionaryArray.from_arrays(column.indices, texts)
            longest = max(longest, pc.max(pc.binary_length(texts)).as_py() or 0)
        columns[name] = column
    step = min(BATCH, MAX_BYTES // longest)
    for start in range(0, batch.num_rows, step):
        yield _frame(pa.record_batch(columns).slice(start, step))


def _of_integers(frame: pl.DataFrame, first: int, columns: Columns) -> pl.DataFrame | None:
    """The fast path for valid blocks: integer ids and integer times in range, no nulls. None for any other block."""
    user, item = frame[columns.user], frame[columns.item]
    if any(side.null_count() or side.dtype not in INTEGERS for side in (user, item)):
        return None
    line = pl.int_range(first, first + frame.height, dtype=pl.Int64, eager=True)
    micros = line * 1_000_000
    if columns.time is not None:
        time, scale = frame[columns.time], UNITS[columns.unit]
        if time.null_count() or time.dtype not in INTEGERS or not len(time):
            return None
        time = time.cast(pl.Int64)
        if time.to_numpy().min() < EARLIEST * scale or time.to_numpy().max() > LATEST * scale:
            return None
        micros = time // (scale // 10**6) if scale > 10**6 else time * (10**6 // scale)
    return pl.DataFrame({"user": user.cast(pl.Int64), "item": item.cast(pl.Int64), "micros": micros, "row": line})


def _as_texts(frame: pl.DataFrame, columns: Columns) -> pl.DataFrame:
    """The same columns as texts, for the check of each value."""

    def text(name: str) -> pl.Expr:
        kind = frame.schema[name]
        if name == columns.time and kind.is_temporal():
            micros = pl.col(name).cast(pl.Datetime("us")).dt.epoch("us")
            return (micros / (10**6 / UNITS[columns.unit])).cast(pl.String)
        if name != columns.time and kind.is_float():  # pandas writes integer columns with nulls as floats
            value = pl.col(name).fill_nan(None)
            whole = value.cast(pl.Int64, strict=False)
            return pl.when(whole == value).then(whole.cast(pl.String)).otherwise(value.cast(pl.String)).alias(name)
        return pl.col(name).cast(pl.String)

    return frame.select(text(name) for name in frame.columns)
