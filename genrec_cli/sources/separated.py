"""CSV and TSV, plain or gzip, block by block: by columns where a block is sound, else record by record.

The careful reader (:mod:`csv`) knows the line of each record and the reason why one is bad; it takes quoted
line breaks and never holds a line longer than the limit.
"""

import csv
import io
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import polars as pl

from genrec_cli.errors import DataError
from genrec_cli.sources.base import BadRows
from genrec_cli.sources.interactions import ROWS, Columns, as_rows, checked
from genrec_cli.sources.lines import LONGEST, Block, decoded, read_blocks

ROWS_AT_A_TIME = 200_000


class Row(NamedTuple):
    """A record of the file: its first line and its cells, or the reason why it is bad."""

    line: int
    cells: list[str]
    reason: str | None = None


def header_of(path: Path, separator: str) -> list[str]:
    """Column names: the first record. Empty for an empty file; a :class:`DataError` if it cannot be read."""
    header = next(_records(read_blocks(path, BadRows()), separator), Row(1, []))
    if header.reason:
        raise DataError(f"{path}: the header cannot be read: {header.reason}.", hint="Save the file as UTF-8")
    return header.cells


def separated_records(path: Path, separator: str, bad: BadRows) -> Iterator[tuple[int, dict[str, str]]]:
    """First line and cells by name of each record that is good."""
    rows = _records(read_blocks(path, bad), separator)
    header = next(rows, Row(1, [])).cells
    for row in rows:
        if row.reason:
            bad.add(path, row.line, row.reason)
        else:
            yield row.line, dict(zip(header, row.cells, strict=True))


def separated_interactions(path: Path, separator: str, columns: Columns, bad: BadRows) -> Iterator[pl.DataFrame]:
    """The three columns, block by block; see :func:`genrec_cli.sources.interactions.checked`."""
    header = header_of(path, separator)
    blocks = read_blocks(path, bad)
    for block in blocks:
        good = _fast(block, header, separator, columns, path)
        if good is not None:
            yield good
            continue
        # A record may go on into the next block only where there are quotes.
        rest = chain([block], blocks) if b'"' in block.content else iter([block])
        for slab in _slowly(rest, header, separator, columns, begins=block.first == 1):
            yield checked(slab, columns, path, bad)


def _fast(block: Block, header: list[str], separator: str, columns: Columns, path: Path) -> pl.DataFrame | None:
    """The rows of a block by the columnar parser, or None if it refuses the block or the careful one might."""
    if b"\0" in block.content or block.content.count(b'"') % 2:
        return None
    begins = block.first == 1
    if begins and not block.content.partition(b"\n")[0].strip():
        return None
    named = list(dict.fromkeys(name for name in columns[:3] if name is not None))
    try:
        found = pl.read_csv(
            io.BytesIO(block.content), separator=separator, has_header=False, skip_rows=int(begins),
            columns=[header.index(name) for name in named], new_columns=named, infer_schema=False,
        )  # fmt: skip
    except pl.exceptions.PolarsError:
        return None
    if found.height != block.count() - begins:  # blank lines, or line breaks within quotes
        return None
    trial = BadRows()
    good = checked(as_rows(found, columns, first=block.first + begins), columns, path, trial)
    return None if trial.count else good


def _slowly(
    blocks: Iterator[Block], header: list[str], separator: str, columns: Columns, *, begins: bool
) -> Iterator[pl.DataFrame]:
    """The same record by record, with reasons, some at a time. ``begins``: the first record is the header."""
    places = [None if name is None else header.index(name) for name in columns[:3]]
    held = []
    for row in islice(_records(blocks, separator, width=len(header)), int(begins), None):
        cells = [None if place is None or row.reason else row.cells[place] for place in places]
        held.append((row.line, *cells, row.reason))
        if len(held) == ROWS_AT_A_TIME:
            yield pl.DataFrame(held, schema=ROWS, orient="row")
            held = []
    yield pl.DataFrame(held, schema=ROWS, orient="row")


def _records(blocks: Iterator[Block], separator: str, *, width: int | None = None) -> Iterator[Row]:
    """Every record, a header too. A line that is no text is a bad row of its own."""
    taken: list[int] = []
    refused: list[Row] = []

    def lines() -> Iterator[str]:
        for block in blocks:
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
