"""The rows of a log: user, item and time of each, checked; fast by columns, and record by record where that fails.

Every reader brings the rows as strings with their line numbers and, for those it cannot read, a reason.
:func:`checked` is the one place that says which values are good.
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
A_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}

EARLIEST, LATEST = -62_135_596_800, 253_402_300_799
"""Seconds of the first and last moment that a date can say: years 1 to 9999."""
LONGEST_ID = 1_024
"""Bytes of the longest id of a user or an item. All distinct ids are held in memory."""
AT_A_TIME = 200_000
"""Records that are read one by one before they set_group a frame."""

NO_MOMENT = "no time between the years 1 and 9999 (see --time-unit)"

ROWS = pl.Schema({"line": pl.Int64, "user": pl.String, "item": pl.String, "time": pl.String, "reason": pl.String})
"""What readers bring: the line number, three texts, and why the line is bad (null: it can be read)."""


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
        ...

    def fast(self, block: Block, columns: Columns) -> pl.DataFrame | None:
        """The rows (:data:`ROWS`) of a block by a columnar parser; None if a line of it needs :meth:`records`."""
        ...

    def records(self, blocks: Iterator[Block], *, one: bool = False) -> Iterator[Record]:
        """Every record; with ``one``, those that begin in the first block."""
        ...


def read_interactions(path: Path, reader: Reader, columns: Columns, bad: BadRows) -> Iterator[pl.DataFrame]:
    """The interactions of a text file, plain or gzip, block by block; see :func:`checked`."""
    blocks = read_blocks(path, bad)
    for block in blocks:
        rows = reader.fast(block, columns)
        if rows is not None:
            yield checked(rows, columns, path, bad)
            continue
        records = reader.records(chain([block], blocks), one=True)
        while held := list(islice(records, AT_A_TIME)):
            yield checked(_frame(held, columns), columns, path, bad)


def checked(rows: pl.DataFrame, columns: Columns, path: Path, bad: BadRows) -> pl.DataFrame:
    """The good rows as ``user str, item str, micros i64, row i64``; the others are added to ``bad``.

    Good: user and item are texts that are not blank, hold no NUL and are no longer than :data:`LONGEST_ID`; the time is
    a whole or fractional number of the unit (it may be negative: before 1970) or an ISO date, between the years 1 and
    9999. Blanks around them are not part of them, as in files of items.
    """
    rows = rows.with_columns(pl.col("user", "item", "time").str.strip_chars())
    if columns.time is None:
        rows = rows.with_columns(micros=pl.col("line") * 1_000_000)
    else:
        rows = rows.with_columns(micros=microseconds(rows["time"], columns.unit))
    empty = {name: pl.col(name).fill_null("") == "" for name in ("user", "item", "time")}
    ids = ("user", "item")
    problem = pl.coalesce(
        "reason",
        *(_reason(empty[name], f"no {name}") for name in ids),
        *(_reason(pl.col(name).str.contains("\0", literal=True), f"a NUL in the {name}") for name in ids),
        *(
            _reason(pl.col(name).str.len_bytes() > LONGEST_ID, f"{name} longer than {LONGEST_ID:,} bytes")
            for name in ids
        ),
        _reason(empty["time"] & pl.col("micros").is_null(), "no time"),
        _reason(pl.col("micros").is_null(), NO_MOMENT),
    )
    rows = rows.with_columns(reason=problem)
    if rows["reason"].null_count() < rows.height:
        worst = pl.col("time").sort_by("line").first()
        reasons = rows.drop_nulls("reason").group_by("reason").agg(pl.col("line").min(), pl.len(), worst).sort("line")
        for reason, line, count, time in reasons.iter_rows():
            bad.add(path, line, reason, count, value=time if reason == NO_MOMENT else None)
        rows = rows.filter(pl.col("reason").is_null())
    return rows.select("user", "item", "micros", row="line")


def microseconds(times: pl.Series, unit: Unit) -> pl.Series:
    """Microseconds since 1970 (UTC) of numbers in the given unit or ISO dates; null for anything else."""
    a_second = A_SECOND[unit]
    low, high = (max(-(2**63), EARLIEST * a_second), min(2**63 - 1, LATEST * a_second))
    whole = times.cast(pl.Int64, strict=False)
    within = whole.is_between(low, high)
    exact = whole.set(~within, None)  # before scaling, so that nothing overflows
    exact = exact // (a_second // 10**6) if a_second > 10**6 else exact * (10**6 // a_second)
    if whole.null_count() == times.null_count():
        return exact
    number = times.cast(pl.Float64, strict=False)
    number = number.set(~number.is_between(low, high), None)
    fraction = (number * (10**6 / a_second)).floor().cast(pl.Int64)
    moments = times.str.replace(_UTC, "").str.replace("T", " ", literal=True)
    dates = [moments.str.to_datetime(form, strict=False, time_unit="us").cast(pl.Int64) for form in _ISO]
    others = pl.select(pl.coalesce(fraction, *dates)).to_series()
    return exact.zip_with(whole.is_not_null(), others)


_UTC = r"(Z|[+-]00:?00)$"
_ISO = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")


def _reason(condition: pl.Expr, text: str) -> pl.Expr:
    return pl.when(condition).then(pl.lit(text))


def as_rows(found: pl.DataFrame, columns: Columns, first: int) -> pl.DataFrame:
    """The rows (see :data:`ROWS`) of a frame of texts whose row 0 is the line ``first``."""
    texts = [
        (pl.lit(None, pl.String) if name is None else pl.col(name)).alias(to)
        for name, to in zip(columns[:3], ("user", "item", "time"), strict=True)
    ]
    lines = pl.int_range(first, first + found.height, dtype=pl.Int64, eager=True).alias("line")
    return found.select(lines, *texts, pl.lit(None, pl.String).alias("reason"))


def _frame(records: Iterable[Record], columns: Columns) -> pl.DataFrame:
    """The rows of records."""
    rows = [
        (line, *(_text(values.get(name)) if name else None for name in columns[:3]), reason)
        for line, values, reason in records
    ]
    return pl.DataFrame(rows, schema=ROWS, orient="row")


def without_point(value: Any) -> Any:
    """A whole float as an integer, any other value as it is: an id that was written beside gaps reads 5.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text(value: Any) -> str | None:
    """A value as polars gives it in a column of texts."""
    if value is None:
        return None
    plain = isinstance(value, str)
    text = value if plain else json.dumps(without_point(value), ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return "\0"
    return text
