"""Your own data: an interactions file and an optional items file.

CSV, TSV, Parquet and JSON lines, the text formats also as gzip. Column names are options. All columns of the items
file except the id become text fields under their names.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import Field

from genrec_cli import console
from genrec_cli.config import Section
from genrec_cli.errors import DataError, refuse_special
from genrec_cli.sources.base import BadRows, Source, Tables
from genrec_cli.sources.columnar import parquet_columns, parquet_interactions, parquet_records, parquet_types
from genrec_cli.sources.interactions import Columns, Reader, Record, first_rows, read_interactions
from genrec_cli.sources.json_lines import JsonLines
from genrec_cli.sources.lines import read_blocks
from genrec_cli.sources.records import item_table
from genrec_cli.sources.row_filter import RowFilter
from genrec_cli.sources.separated import Separated

SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet", ".pq")
TIME = "timestamp"
"""Default time column; without it the order of the rows is the time."""
TITLE = "title"
MISSING = ("nan", "NaN", "<NA>")
"""Cells of an items file that hold no text: pandas prints a missing value so. Names such as None and NA are texts."""


class Logs(Source):
    """Files in general formats."""

    class Config(Section):
        name: Literal["logs"] = "logs"
        """Name of the source."""
        user_col: str = "user_id"
        """Column of the user in the interactions file."""
        item_col: str = "item_id"
        """Column of the item in the interactions file."""
        time_col: str | None = None
        """Column of the time. Default: timestamp if there is one, else the order of the rows is the time."""
        item_id_col: str = "item_id"
        """Column of the item in the items file."""
        time_unit: Literal["s", "ms", "us", "ns"] = "s"
        """Unit of times that are numbers, counted from 1970. Dates are read as ISO 8601, in UTC or with an offset."""
        title_col: str | None = None
        """Column of the title in the items file. Default: title."""
        list_separator: str | None = Field(None, min_length=1)
        """Text between the values of one cell of the items file, such as | in Action|Comedy. Default: one value."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, raw: Path, bad: BadRows, rows: RowFilter | None = None) -> Tables:
        """Read ``interactions.*`` and the optional ``items.*`` of a folder."""
        paths = {name: sorted(raw.glob(f"{name}.*")) for name in ("interactions", "items")}
        for name, found in paths.items():
            if len(found) > 1 or (name == "interactions" and not found):
                raise DataError(f"{raw} has to hold one file {name}.*, not {len(found)}.")
        return self.read_files(paths["interactions"][0], next(iter(paths["items"]), None), bad, rows)

    def read_files(self, interactions: Path, items: Path | None, bad: BadRows, rows: RowFilter | None = None) -> Tables:
        """Read the two files. Raises a :class:`DataError` for a missing column, with the columns of the file."""
        log = self._interactions(interactions, bad, rows)
        if items is None:
            return Tables(log, None)
        return Tables(log, item_table(self._records(items, bad), self.config.item_id_col, items, bad).lazy())

    def _interactions(self, path: Path, bad: BadRows, rows: RowFilter | None) -> Iterator[pl.DataFrame]:
        reader, present = opened(path)
        config = self.config
        time = config.time_col or (TIME if TIME in present else None)
        needed = {"--user-col": config.user_col, "--item-col": config.item_col, "--time-col": time}
        for option, column in needed.items():
            if column is not None:
                require(path, present, column, option)
        if time is None and set(present) - {config.user_col, config.item_col}:
            console.warn(
                f"{path} has no column '{TIME}': the order of its rows is used as time. "
                f"Its columns: {_listed(present)}; --time-col NAME names one."
            )
        columns = Columns(config.user_col, config.item_col, time, config.time_unit, rows)
        if rows:
            sample = parquet_types(path) if reader is None else first_rows(path, reader)
            rows.check(path, present, sample)
        if reader is None:
            return parquet_interactions(path, columns, bad)
        return read_interactions(path, reader, columns, bad)

    def _records(self, path: Path, bad: BadRows) -> Iterator[Record]:
        reader, present = opened(path)
        repeated = (name for name, count in Counter(filter(None, present)).items() if count > 1)
        config = self.config
        for name in (config.item_id_col, *repeated):
            require(path, present, name, "--item-id-col")
        if config.title_col is not None:
            require(path, present, config.title_col, "--title-col")
        records = parquet_records(path) if reader is None else reader.records(read_blocks(path, bad))
        return (record._replace(values=self._described(record.values)) for record in records)

    def _described(self, values: dict[str, Any]) -> dict[str, Any]:
        """A record without :data:`MISSING`, with its title under the name ``title``, and with lists where cells have
        several values."""
        title, separator = self.config.title_col or TITLE, self.config.list_separator
        values = {
            name: None if name != self.config.item_id_col and value in MISSING else value
            for name, value in values.items()
        }
        if separator is not None:
            whole = (self.config.item_id_col, title)
            values = {
                name: value.split(separator) if isinstance(value, str) and name not in whole else value
                for name, value in values.items()
            }
        if title == TITLE or title not in values:
            return values
        others = {name: value for name, value in values.items() if name not in (title, TITLE)}
        return {TITLE: values[title]} | others


def opened(path: Path) -> tuple[Reader | None, list[str]]:
    """The reader of a text file (None: it is Parquet) and the columns: a header, a schema, or keys of JSON objects."""
    kind = format_of(path)
    refuse_special(path)
    if not path.exists():
        raise DataError(f"There is no file {path}.")
    if kind in PARQUET:
        return None, parquet_columns(path)
    reader = JsonLines() if kind in JSON_LINES else Separated(path, SEPARATORS[kind])
    return reader, reader.columns(path)


def format_of(path: Path) -> str:
    """The ending of a file name without ``.gz``. Raises a :class:`DataError` for an unknown format."""
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    known = (*SEPARATORS, *PARQUET, *JSON_LINES)
    if ending not in known or (path.suffix == ".gz" and ending in PARQUET):
        raise DataError(f"{path}: the format '{ending}' is not known.", hint=f"Known: {', '.join(known)} (or .gz)")
    return ending


def require(path: Path, present: list[str], column: str, option: str) -> None:
    """Raise a :class:`DataError` with the names of the columns unless exactly one of them is ``column``."""
    if not present:
        raise DataError(f"{path} has no column '{column}'. Its columns: none: the file is empty.")
    if column not in present:
        problem = f"{path} has no column '{column}'. Its columns: {_listed(present)}."
        if len(present) == 1 and any(other in present[0] for other in ";\t|,"):
            raise DataError(problem, hint="Separate .csv by commas and .tsv by tabs")
        raise DataError(problem, hint=f"{option} NAME sets it")
    if present.count(column) > 1:
        raise DataError(f"{path} has {present.count(column)} columns '{column}'.", hint="Name each column once")


def _listed(names: list[str], limit: int = 30) -> str:
    """At most ``limit`` names of columns, at most 100 characters of each."""
    return ", ".join(name[:100] for name in names[:limit]) + (
        f" and {len(names) - limit:,} more" if len(names) > limit else ""
    )
