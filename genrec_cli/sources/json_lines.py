"""JSON lines, and other formats of one record per line, given a parser of single lines."""

import io
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from genrec_cli.errors import DataError
from genrec_cli.sources.base import BadRows
from genrec_cli.sources.interactions import Columns, Record, as_rows
from genrec_cli.sources.lines import Block, decoded, read_blocks

SAMPLE = 1_000
"""Records at the beginning of a file whose keys are its columns."""


def parse_json(line: str) -> Any:
    """One JSON object. Raises :class:`ValueError` with the reason."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not valid JSON") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


class JsonLines:
    """One record per line. ``parse`` gives the value of a line or raises :class:`ValueError` with the reason."""

    def __init__(self, parse: Callable[[str], Any] = parse_json) -> None:
        self.parse = parse

    def columns(self, path: Path) -> list[str]:
        """The keys of the first records that can be read, in order. Raises :class:`DataError` if none can be."""
        records = list(islice(self.records(read_blocks(path, BadRows())), SAMPLE))
        if records and all(record.reason for record in records):
            problem = f"{path}, line {records[0].line}: {records[0].reason}."
            raise DataError(problem, hint="Each line is one JSON object")
        return list(dict.fromkeys(key for record in records for key in record.values))

    def fast(self, block: Block, columns: Columns) -> pl.DataFrame | None:
        """The rows by polars, which reads only the needed keys; None for blank lines and lines that it refuses."""
        schema = dict.fromkeys(columns.needed, pl.String)
        try:
            frame = pl.read_ndjson(io.BytesIO(block.content), schema=schema)
        except pl.exceptions.PolarsError:
            return None
        return as_rows(frame, columns, block.first) if frame.height == block.height() else None

    def records(self, blocks: Iterator[Block], *, one: bool = False) -> Iterator[Record]:
        """Every line that is not blank; with ``one``, those of the first block."""
        for block in islice(blocks, 1 if one else None):
            for number, line in block.lines():
                try:
                    value = self.parse(decoded(line))
                    if not isinstance(value, dict):
                        raise ValueError(f"a {type(value).__name__}, not a dictionary")
                except ValueError as error:
                    yield Record(number, {}, str(error))
                else:
                    yield Record(number, value)
