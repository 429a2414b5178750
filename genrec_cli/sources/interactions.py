"""User, item and time of each row of a log: a columnar fast path, and record by record where that fails.

Readers give the rows as strings with line numbers and, for unreadable rows, a reason. :func:`checked` decides which
values are valid.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import polars as pl

from genrec_cli.sources.base import BadRows
from genrec_cli.sources.lines import Block, read_blocks
from genrec_cli.sources.row_filter import RowFilter

Unit = Literal["s", "ms", "us", "ns"]
UNITS: dict[Unit, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""Units of time per second."""
EARLIEST, LATEST = -62_135_596_800, 253_402_300_799
"""Seconds since 1970 of the first and last moment that a date can represent: years 1 to 9999."""
LONGEST_ID = 1_024
"""Bytes of the longest id of a user or an item. All distinct ids are held in memory."""
CHUNK = 200_000
"""Records per frame where they are read one by one."""
SAMPLE = 1_000
"""First records of a file, from which the types of the columns of a filter are read."""
OUT_OF_RANGE = "a number that is no time between the years 1 and 9999 (see --time-unit)"
IMPOSSIBLE = "a date or time that does not exist"
NO_TIME = "neither a number nor a date such as 2024-01-31 12:00:00+02:00"
BAD_TIMES = (OUT_OF_RANGE, IMPOSSIBLE, NO_TIME)
FILTERED = "where "
"""Before the names of the columns that a filter reads."""
ROWS = pl.Schema({"line": pl.Int64, "user": pl.String, "item": pl.String, "time": pl.String, "reason": pl.String})
"""The result of a reader: the line number, three texts, and why the line is bad (null: it is readable)."""
_ISO = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
_DATE = r"^\d{4}-\d{1,2}-\d{1,2}([T ]\d{1,2}(:\d{1,2}){1,2})?"
_OFFSET = r"^(.*[T ]\d{2}(?::\d{2}){1,2}(?:\.\d+)?) ?([+-])(\d{2}):?(\d{2})?$"
"""A date with a time and an offset from UTC: +02:00, -0530, +01."""


class Columns(NamedTuple):
    """Names of the three columns in a file; without ``time`` the order of the rows is the time."""

    user: str
    item: str
    time: str | None
    unit: Unit = "s"
    rows: RowFilter | None = None
    """Which rows to keep; it may read further columns."""

    @property
    def needed(self) -> list[str]:
        """The distinct names of all columns to read."""
        named = [self.user, self.item, *([] if self.time is None else [self.time])]
        return list(dict.fromkeys([*named, *self.filtered]))

    @property
    def filtered(self) -> tuple[str, ...]:
        """The columns that the filter reads."""
        return self.rows.columns if self.rows else ()


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


def first_rows(path: Path, reader: Reader) -> list[dict[str, Any]]:
    """The values of the first rows of a text file, from which the types of columns are read."""
    records = reader.records(read_blocks(path, BadRows()))
    return [record.values for record in islice(records, SAMPLE) if record.reason is None]


def checked(rows: pl.DataFrame, columns: Columns, path: Path, bad: BadRows, *, counted: bool = False) -> pl.DataFrame:
    """The good rows as ``user str, item str, micros i64, row i64``; the others are added to ``bad``.

    Rows that the filter leaves out are not checked; ``counted``: the lines are already in the counts of ``bad``.
    Good: user and item, stripped of blanks, are not empty, hold no NUL and are no longer than :data:`LONGEST_ID`; the
    time is a number of the unit (fractions and negative numbers too) or an ISO date, between the years 1 and 9999.
    """
    bad.saw(path, 0 if counted else rows.height)
    rows = _filtered(rows, columns).with_columns(pl.col("user", "item", "time").str.strip_chars())
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
        _reason(pl.col("micros").is_null() & (pl.col("time").cast(pl.Float64, strict=False).is_finite()), OUT_OF_RANGE),
        _reason(pl.col("micros").is_null() & pl.col("time").str.contains(_DATE), IMPOSSIBLE),
        _reason(pl.col("micros").is_null(), NO_TIME),
    )
    rows = rows.with_columns(reason=problem)
    if rows["reason"].null_count() < rows.height:
        value = pl.col("time").sort_by("line").first()
        reasons = rows.drop_nulls("reason").group_by("reason").agg(pl.col("line").min(), pl.len(), value).sort("line")
        for reason, line, count, time in reasons.iter_rows():
            given, hint = (time if reason in BAD_TIMES else None), unit_hint(time) if reason == OUT_OF_RANGE else None
            bad.add(path, line, reason, count, value=given, hint=hint)
        rows = rows.filter(pl.col("reason").is_null())
    return rows.select("user", "item", "micros", row="line")


def _filtered(rows: pl.DataFrame, columns: Columns) -> pl.DataFrame:
    """The rows that the filter keeps, and those that cannot be read."""
    if not columns.rows:
        return rows
    texts = rows.select(pl.col(FILTERED + name).alias(name) for name in columns.filtered)
    values, unreadable = columns.rows.typed(texts)
    rows = rows.with_columns(reason=pl.coalesce("reason", unreadable))
    broken = rows["reason"].is_not_null()
    return pl.concat([rows.filter(broken), rows.filter(~broken).filter(columns.rows.keep(values.filter(~broken)))])


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
    dated = pl.select(pl.coalesce(fraction, _dates(times))).to_series()
    return exact.zip_with(whole.is_not_null(), dated)


def unit_hint(time: str) -> str | None:
    """The ``--time-unit`` by which a number that is too large for the present one is a date from 1980 to 2099."""
    for unit, scale in UNITS.items():
        if 315_532_800 <= float(time) / scale < 4_102_444_800:
            date = datetime.fromtimestamp(float(time) / scale, UTC).date()
            return f"--time-unit {unit}    reads {time} as {date}"
    return None


def _dates(times: pl.Series) -> pl.Series:
    """Microseconds since 1970 (UTC) of ISO dates, with an offset from UTC or without; null for anything else."""
    text = pl.col("time").str.replace(r" ?(Z|z|UTC|GMT)$", "")
    frame = pl.DataFrame({"time": times}).select(text.alias("text"), text.str.extract_groups(_OFFSET).alias("parts"))
    local, sign, hours, minutes = (pl.col("parts").struct.field(name) for name in ("1", "2", "3", "4"))
    hours, minutes = hours.cast(pl.Int64), minutes.cast(pl.Int64).fill_null(0)
    size = pl.when((hours <= 23) & (minutes <= 59)).then((hours * 60 + minutes) * 60_000_000)
    offset = pl.when(local.is_null()).then(0).when(sign == "-").then(-size).otherwise(size)
    date = pl.coalesce(local, "text").str.replace("T", " ", literal=True)
    moments = [date.str.to_datetime(form, strict=False, time_unit="us").cast(pl.Int64) for form in _ISO]
    micros = frame.select(pl.coalesce(moments) - offset).to_series()
    return micros.set(~micros.is_between(EARLIEST * 10**6, LATEST * 10**6), None)


def _reason(condition: pl.Expr, text: str) -> pl.Expr:
    return pl.when(condition).then(pl.lit(text))


def as_rows(texts: pl.DataFrame, columns: Columns, first: int) -> pl.DataFrame:
    """The rows (see :data:`ROWS`) of a frame of texts whose row 0 is the line ``first``."""
    names = zip(columns[:3], ("user", "item", "time"), strict=True)
    values = [(pl.lit(None, pl.String) if name is None else pl.col(name)).alias(to) for name, to in names]
    lines = pl.int_range(first, first + texts.height, dtype=pl.Int64, eager=True).alias("line")
    more = [pl.col(name).alias(FILTERED + name) for name in columns.filtered]
    return texts.select(lines, *values, pl.lit(None, pl.String).alias("reason"), *more)


def _frame(records: Iterable[Record], columns: Columns) -> pl.DataFrame:
    """The rows of records."""
    rows = [
        (
            line,
            *(_text(values.get(name)) if name else None for name in columns[:3]),
            reason,
            *(_text(values.get(name)) for name in columns.filtered),
        )
        for line, values, reason in records
    ]
    more = dict.fromkeys([FILTERED + name for name in columns.filtered], pl.String())
    return pl.DataFrame(rows, schema=pl.Schema({**ROWS, **more}), orient="row")


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
