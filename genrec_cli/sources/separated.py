"""CSV and TSV, plain or gzip: by columns where the whole file is sound, else record by record.

The careful reader (:mod:`csv`) knows the line of each record and the reason why one is bad; it takes quoted
line breaks and never holds a line longer than the limit.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl

from genrec_cli.sources.base import BadRows
from genrec_cli.sources.interactions import ROWS, Columns, as_rows, checked
from genrec_cli.sources.lines import LONGEST, decoded, read_blocks

ROWS_AT_A_TIME = 200_000


class Row(NamedTuple):
    """A record of the file: its first line and its cells, or the reason why it is bad."""

    line: int
    cells: list[str]
    reason: str | None = None


def header_of(path: Path, separator: str) -> list[str]:
    """Column names: the first record. Empty for an empty file."""
    return next(_rows(path, separator, BadRows()), Row(1, [])).cells


def separated_records(path: Path, separator: str, bad: BadRows) -> Iterator[tuple[int, dict[str, str]]]:
    """First line and cells by name of each record that is good."""
    rows = _rows(path, separator, bad)
    header = next(rows, Row(1, [])).cells
    for row in rows:
        if row.reason:
            bad.add(path, row.line, row.reason)
        else:
            yield row.line, dict(zip(header, row.cells, strict=True))


def separated_interactions(path: Path, separator: str, columns: Columns, bad: BadRows) -> pl.DataFrame:
    """The three columns; see :func:`genrec_cli.sources.interactions.checked`."""
    trial = BadRows()
    rows = _fast(path, separator, columns)
    if rows is not None:
        good = checked(rows, columns, path, trial)
        if not trial.count:
            return good
    slabs = [checked(slab, columns, path, bad) for slab in _slowly(path, separator, columns, bad)]
    return pl.concat(slabs)


def _fast(path: Path, separator: str, columns: Columns) -> pl.DataFrame | None:
    """All rows by the columnar parser, or None if it refuses the file or the careful one would."""
    trial = BadRows()
    if any(b"\0" in block.content for block in read_blocks(path, trial)) or trial.count:
        return None
    named = [name for name in columns[:3] if name is not None]
    try:
        found = pl.read_csv(path, separator=separator, columns=list(dict.fromkeys(named)), infer_schema=False)
    except (pl.exceptions.PolarsError, OSError):
        return None
    return as_rows(found, columns, first=2)


def _slowly(path: Path, separator: str, columns: Columns, bad: BadRows) -> Iterator[pl.DataFrame]:
    """The same record by record, with reasons, some at a time; at least one frame."""
    rows = _rows(path, separator, bad)
    header = next(rows, Row(1, [])).cells
    places = [None if name is None else header.index(name) for name in columns[:3]]
    held = []
    for row in rows:
        cells = [None if place is None or row.reason else row.cells[place] for place in places]
        held.append((row.line, *cells, row.reason))
        if len(held) == ROWS_AT_A_TIME:
            yield pl.DataFrame(held, schema=ROWS, orient="row")
            held = []
    yield pl.DataFrame(held, schema=ROWS, orient="row")


def _rows(path: Path, separator: str, bad: BadRows) -> Iterator[Row]:
    """Every record, the header first. A line that is no text is a bad row of its own."""
    taken: list[int] = []
    refused: list[Row] = []

    def lines() -> Iterator[str]:
        for block in read_blocks(path, bad):
            for number, line in block.lines():
                try:
                    text = decoded(line) + "\n"
                except ValueError as error:
                    refused.append(Row(number, [], str(error)))
                else:
                    taken.append(number)
                    yield text

    csv.field_size_limit(LONGEST)
    records = csv.reader(lines(), delimiter=separator, strict=True)
    width = None
    while True:
        taken.clear()
        try:
            cells, reason = next(records), None
        except StopIteration:
            yield from refused
            return
        except csv.Error as error:
            cells, reason = [], f"not a valid record ({error})"
        yield from refused
        refused.clear()
        width = width or len(cells)
        if reason is None and len(cells) != width:
            reason = "another number of columns than the header"
        yield Row(taken[0], cells, reason)
