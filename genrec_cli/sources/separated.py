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

import numpy as np
import polars as pl

from genrec_cli.errors import DataError
from genrec_cli.sources.base import BadRows
from genrec_cli.sources.interactions import ROWS, Columns, as_rows, checked
from genrec_cli.sources.lines import LONGEST, Block, decoded, read_blocks

ROWS_AT_A_TIME = 200_000
UNCLOSED = "in a quote that is not closed"


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
        for slab in _slowly(chain([block], blocks), header, separator, columns, begins=block.first == 1):
            yield checked(slab, columns, path, bad)


def _fast(block: Block, header: list[str], separator: str, columns: Columns, path: Path) -> pl.DataFrame | None:
    """The rows of a block by the columnar parser, or None if it refuses the block or the careful one might."""
    content, begins = block.content, block.first == 1
    if b"\0" in content or not _regular(content, separator, len(header)):
        return None
    if begins and not content.partition(b"\n")[0].strip():
        return None
    places = sorted({header.index(name) for name in columns[:3] if name is not None})
    try:
        found = pl.read_csv(
            io.BytesIO(content), separator=separator, has_header=False, skip_rows=int(begins),
            columns=places, infer_schema=False,
        )  # fmt: skip
    except pl.exceptions.PolarsError:
        return None
    if found.height != block.count() - begins:  # blank lines, or line breaks within quotes
        return None
    found.columns = [header[place] for place in places]
    trial = BadRows()
    good = checked(as_rows(found, columns, first=block.first + begins), columns, path, trial)
    return None if trial.count else good


def _regular(content: bytes, separator: str, width: int) -> bool:
    """Whether each line is a record of ``width`` cells, with quotes only around cells or doubled within them."""
    if content.count(b'"') % 2 or content.count(b"\r") != content.count(b"\r\n"):
        return False
    byte_N = np.frombuffer(b"\n" + content + (b"" if content.endswith(b"\n") else b"\n"), np.uint8)
    line_end, comma, quote = b"\n"[0], ord(separator), b'"'[0]
    mark_N = (byte_N == comma) | (byte_N == line_end)
    quote_N = byte_N == quote
    if quote_N.any():
        place_Q = np.flatnonzero(quote_N)
        before, after = byte_N[place_Q[::2] - 1], byte_N[place_Q[1::2] + 1]
        if not (np.isin(before, (comma, line_end, quote)).all() and np.isin(after, (comma, *b"\r\n", quote)).all()):
            return False
        mark_N &= np.cumsum(quote_N, dtype=np.uint8) % 2 == 0
    marks = byte_N[mark_N][1:]
    record = [comma] * (width - 1) + [line_end]
    return len(marks) % width == 0 and bool((marks.reshape(-1, width) == record).all())


def _slowly(
    blocks: Iterator[Block], header: list[str], separator: str, columns: Columns, *, begins: bool
) -> Iterator[pl.DataFrame]:
    """The first block record by record, with reasons, some at a time, and as much more as its last record takes.

    ``begins``: the first record is the header.
    """
    places = [None if name is None else header.index(name) for name in columns[:3]]
    held = []
    for row in islice(_records(blocks, separator, width=len(header), one=True), int(begins), None):
        cells = [None if place is None or row.reason else row.cells[place] for place in places]
        held.append((row.line, *cells, row.reason))
        if len(held) == ROWS_AT_A_TIME:
            yield pl.DataFrame(held, schema=ROWS, orient="row")
            held = []
    yield pl.DataFrame(held, schema=ROWS, orient="row")


def _records(blocks: Iterator[Block], separator: str, *, width: int | None = None, one: bool = False) -> Iterator[Row]:
    """Every record, a header too; of the records that begin in the first block where there is to be ``one`` only.

    Each line of a bad record is a bad row of its own, and so is a line that is no text.
    """
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
            if one and not taken:  # the last record is whole
                return

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
            cells, reason = [], f"not a valid record ({error})" if len(taken) == 1 else UNCLOSED
        yield from refused
        refused.clear()
        width = width or len(cells)
        if reason is None and len(cells) != width:
            reason = "another number of columns than the header"
        for line in taken if reason else taken[:1]:
            yield Row(line, cells, reason)
