"""CSV and TSV, plain or gzip, block by block: a columnar parser for regular blocks, :mod:`csv` for the others.

:mod:`csv` reads record by record. It gives the line of each record and the reason why one is bad, and it accepts line
breaks within quotes.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from genrec_cli.errors import DataError
from genrec_cli.sources.base import BadRows
from genrec_cli.sources.interactions import Columns, Record, as_rows
from genrec_cli.sources.lines import LONGEST, Block, decoded, read_blocks

UNCLOSED = "in a quote that is not closed"


_Row: TypeAlias = tuple[int, list[str], str | None]
"""A record of the file: its first line, its cells, and the reason if it is bad."""


class Separated:
    """A file whose first record is the header, or one without a header whose columns are given.

    Raises a :class:`DataError` if the header cannot be read.
    """

    def __init__(self, path: Path, separator: str, header: Sequence[str] | None = None) -> None:
        self.separator, self.line, self.header = separator, 0, list(header or ())
        if header is not None:
            return
        self.line, self.header, reason = next(self._rows(read_blocks(path, BadRows())), (1, [], None))
        if reason:
            raise DataError(f"{path}: the header cannot be read: {reason}.", hint="Save the file as UTF-8")

    def columns(self, path: Path) -> list[str]:
        """The cells of the header; empty for an empty file."""
        return self.header

    def fast(self, block: Block, columns: Columns) -> pl.DataFrame | None:
        """The rows of a block by the columnar parser, or None if one of the two parsers might refuse a line of it."""
        content, header_rows = block.content, int(block.first == self.line)
        if block.first < self.line or b"\0" in content or not _regular(content, self.separator, len(self.header)):
            return None
        places = sorted({self.header.index(name) for name in columns.needed})
        options: dict[str, Any] = {
            "separator": self.separator,
            "has_header": False,
            "skip_rows": header_rows,
            "infer_schema": False,
        }
        try:
            frame = pl.read_csv(io.BytesIO(content), columns=places, **options)
        except pl.exceptions.PolarsError:
            return None
        if frame.height != block.height() - header_rows:  # blank lines, or line breaks within quotes
            return None
        frame.columns = [self.header[place] for place in places]
        return as_rows(frame, columns, first=block.first + header_rows)

    def records(self, blocks: Iterator[Block], *, one: bool = False) -> Iterator[Record]:
        """Every record after the header; with ``one``, those that begin in the first block."""
        for line, cells, reason in self._rows(blocks, width=len(self.header), one=one):
            if line != self.line:
                yield Record(line, {} if reason else dict(zip(self.header, cells, strict=True)), reason)

    def _rows(self, blocks: Iterator[Block], *, width: int | None = None, one: bool = False) -> Iterator[_Row]:
        """Every record, including the header. Each line of a bad record and each line that is not text is a bad row."""
        taken: list[int] = []
        refused: list[_Row] = []

        def lines() -> Iterator[str]:
            for block in blocks:
                for number, line in block.lines():
                    try:
                        text = decoded(line) + "\n"
                    except ValueError as error:
                        refused.append((number, [], str(error)))
                    else:
                        taken.append(number)
                        yield text
                if one and not taken:  # the last record is whole
                    return

        csv.field_size_limit(LONGEST)
        records = csv.reader(lines(), delimiter=self.separator, strict=True)
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
                reason = "another count of columns than the header"
            for line in taken if reason else taken[:1]:
                yield line, cells, reason


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
