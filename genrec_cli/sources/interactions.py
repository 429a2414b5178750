"""User, item and time of each row of a log: a columnar fast path, and record by record where that fails.

Readers give the rows as strings with line numbers and, for unreadable rows, a reason. :func:`checked` decides which
values are valid.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import polars as pl

from genrec_cli.sources.base import BadRows
from genrec_cli.sources.lines import Block, read_blocks

Unit = Literal["s", "ms", "us", "ns"]
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""Units of time per second."""
EARLIEST, LATEST = -62_135_596_800, 253_402_300_799
"""Seconds since 1970 of the first and last moment that a date can represent: years 1 to 9999."""
LONGEST_ID = 1_024
"""Bytes of the longest id of a user or an item. All distinct ids are held in memory."""
CHUNK = 200_000
"""Records per frame where they are read one by one."""
NO_MOMENT = "no time between the years 1 and 9999 (see --time-unit)"
ROWS = pl.Schema({"line": pl.Int64, "user": pl.String, "item": pl.String, "time": pl.String, "reason": pl.String})
"""The result of a reader: the line number, three texts, and why the line is bad (null: it is readable)."""
_ISO = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")


class Columns(NamedTuple):
    """Names of the three columns in a file; without ``time`` the order of the rows is the time."""

    user: str
    item: str
    time: str | None
    unit: Unit = "s"


class Record(NamedTuple):
    """A record of a file: its line, from 1, its values by name, and why it is bad (None: it is good)."""

    line: int
    values: dict[str, Any]
    reason: str | None = None


class Reader(Protocol):
    """A text format that is read in blocks of lines."""

    def columns(self, path: Path) -> list[str]:
        """The names of the columns in a file."""

    def fast(self, block: Block, columns: Columns) -> pl.DataFrame | None:
        """The rows (:data:`ROWS`) of a block by a columnar parser; None if a line of it needs :meth:`records`."""

    def records(self, blocks: Iterator[Block], *, one: bool = False) -> Iterator[Record]:
        """Every record; with ``one``, those that begin in the first block."""


def read_interactions(path: Path, reader: Reader, columns: Columns, bad: BadRows) -> Iterator[pl.DataFrame]:
    """The interactions of a text file, plain or gzip, block by block; see :func:`checked`."""
    blocks = read_blocks(path, bad)
    for block in blocks:
        rows = reader.fast(block, columns)
        if rows is not None:
            yield checked(rows, columns, path, bad)
            continue
        records = reader.records(chain([block], blocks), one=True)
        while chunk := list(islice(records, CHUNK)):
            yield checked(_frame(chunk, columns), columns, path, bad)


def checked(rows: pl.DataFrame, columns: Columns, path: Path, bad: BadRows) -> pl.DataFrame:
    """The good rows as ``user str, item str, micros i64, row i64``; the others are added to ``bad``.

    Good: user and item, stripped of blanks, are not empty, hold no NUL and are no longer than :data:`LONGEST_ID`; the
    time is a number of the unit (fractions and negative numbers too) or an ISO date, between the years 1 and 9999.
    """
    rows = rows.with_columns(pl.col("user", "item", "time").str.strip_chars())
    micros = pl.col("line") * 1_000_000 if columns.time is None else microseconds(rows["time"], columns.unit)
    rows = rows.with_columns(micros=micros)
    empty = {name: pl.col(name).fill_null("") == "" for name in ("user", "item", "time")}
    ids = ("user", "item")
    sizes = {name: pl.col(name).str.len_bytes() for name in ids}
    problem = pl.coalesce(
        "reason",
        *(_reason(empty[name], f"no {name}") for name in ids),
        *(_reason(pl.col(name).str.contains("\0", literal=True), f"a NUL in the {name}") for name in ids),
        *(_reason(size > LONGEST_ID, f"{name} longer than {LONGEST_ID:,} bytes") for name, size in sizes.items()),
        _reason(empty["time"] & pl.col("micros").is_null(), "no time"),
        _reason(pl.col("micros").is_null(), NO_MOMENT),
    )
    rows = rows.with_columns(reason=problem)
    if rows["reason"].null_count() < rows.height:
        value = pl.col("time").sort_by("line").first()
        reasons = rows.drop_nulls("reason").group_by("reason").agg(pl.col("line").min(), pl.len(), value).sort("line")
        for reason, line, count, time in reasons.iter_rows():
            bad.add(path, line, reason, count, value=time if reason == NO_MOMENT else None)
        rows = rows.filter(pl.col("reason").is_null())
    return rows.select("user", "item", "micros", row="line")


def microseconds(times: pl.Series, unit: Unit) -> pl.Series:
    """Microseconds since 1970 (UTC) of numbers in the given unit or ISO dates; null for anything else."""
    scale = UNITS[unit]
    low, high = max(-(2**63), EARLIEST * scale), min(2**63 - 1, LATEST * scale)
    whole = times.cast(pl.Int64, strict=False)
    exact = whole.set(~whole.is_between(low, high), None)  # before scaling, so that nothing overflows
    exact = exact // (scale // 10**6) if scale > 10**6 else exact * (10**6 // scale)
    if whole.null_count() == times.null_count():
        return exact
    number = times.cast(pl.Float64, strict=False)
    number = number.set(~number.is_between(low, high), None)
    fraction = (number * (10**6 / scale)).floor().cast(pl.Int64)
    texts = times.str.replace(r"(Z|[+-]00:?00)$", "").str.replace("T", " ", literal=True)
    dates = [texts.str.to_datetime(form, strict=False, time_unit="us").cast(pl.Int64) for form in _ISO]
    return exact.zip_with(whole.is_not_null(), pl.select(pl.coalesce(fraction, *dates)).to_series())


def _reason(condition: pl.Expr, text: str) -> pl.Expr:
    return pl.when(condition).then(pl.lit(text))


def as_rows(texts: pl.DataFrame, columns: Columns, first: int) -> pl.DataFrame:
    """The rows (see :data:`ROWS`) of a frame of texts whose row 0 is the line ``first``."""
    names = zip(columns[:3], ("user", "item", "time"), strict=True)
    values = [(pl.lit(None, pl.String) if name is None else pl.col(name)).alias(to) for name, to in names]
    lines = pl.int_range(first, first + texts.height, dtype=pl.Int64, eager=True).alias("line")
    return texts.select(lines, *values, pl.lit(None, pl.String).alias("reason"))


def _frame(records: Iterable[Record], columns: Columns) -> pl.DataFrame:
    """The rows of records."""
    rows = [
        (line, *(_text(values.get(name)) if name else None for name in columns[:3]), reason)
        for line, values, reason in records
    ]
    return pl.DataFrame(rows, schema=ROWS, orient="row")


def without_point(value: Any) -> Any:
    """A whole float as an integer (pandas writes the id 5 as 5.0 where a column has nulls); other values unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text(value: Any) -> str | None:
    """A value as polars gives it in a column of texts."""
    if value is None:
        return None
    plain = isinstance(value, str)
    text = value if plain else json.dumps(without_point(value), ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return "\0"
    return text
