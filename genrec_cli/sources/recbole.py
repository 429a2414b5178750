"""RecBole's atomic files: tables of tab-separated cells with typed headers, such as ``user_id:token``.

``NAME.inter`` holds the interactions, ``NAME.item`` the items; ``NAME.user`` is not read. The types are those of
https://recbole.io/docs/user_guide/data/atomic_files.html: ``token`` (text), ``float``, and ``token_seq`` and
``float_seq``, whose values are separated by blanks. :func:`typed` writes such a file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import polars as pl

from genrec_cli.config import Section
from genrec_cli.errors import DataError
from genrec_cli.sources.base import BadRows, Source, Tables
from genrec_cli.sources.interactions import Columns, Record, first_rows, read_interactions
from genrec_cli.sources.lines import read_blocks
from genrec_cli.sources.records import item_table
from genrec_cli.sources.row_filter import RowFilter
from genrec_cli.sources.separated import Separated

TYPES = ("token", "token_seq", "float", "float_seq")
TITLES = ("title", "item_name", "movie_title", "name")
"""Names that a column of titles has in published files, in order of preference."""


class RecBole(Source):
    """Atomic files."""

    class Config(Section):
        """Names of the columns."""

        name: Literal["recbole"] = "recbole"
        """Name of the source."""
        user_col: str = "user_id"
        """Column of the user."""
        item_col: str = "item_id"
        """Column of the item, in both files."""
        time_col: str | None = None
        """Column of the time. Default: timestamp if there is one, else the order of the rows is the time."""
        time_unit: Literal["s", "ms", "us", "ns"] = "s"
        """Unit of the times, counted from 1970."""
        title_col: str | None = None
        """Column of the title. Default: title, item_name, movie_title or name, the first that there is."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def expects(self) -> str:
        """Which files are read."""
        return "It reads one NAME.inter and, if there is one, NAME.item"

    def paths(self, raw: Path) -> list[Path]:
        """The two files."""
        return [path for path in (_only(raw, ".inter"), _only(raw, ".item")) if path is not None]

    def read(self, raw: Path, bad: BadRows, rows: RowFilter | None = None) -> Tables:
        """Read interactions and items. Raises a :class:`DataError` for a header without types or a missing column."""
        path, items = _only(raw, ".inter"), _only(raw, ".item")
        if path is None:
            raise DataError(f"{raw} holds no file of interactions.", hint=self.expects())
        config, (reader, _) = self.config, _typed_reader(path)
        time = config.time_col or ("timestamp" if "timestamp" in reader.header else None)
        for name in (config.user_col, config.item_col, time):
            if name is not None:
                _require(path, reader.header, name)
        if rows:
            rows.check(path, reader.header, first_rows(path, reader))
        columns = Columns(config.user_col, config.item_col, time, config.time_unit, rows)
        log = read_interactions(path, reader, columns, bad)
        if items is None:
            return Tables(log, None)
        return Tables(log, item_table(self._items(items, bad), config.item_col, items, bad).lazy())

    def _items(self, path: Path, bad: BadRows) -> Iterator[Record]:
        reader, types = _typed_reader(path)
        present = reader.header
        title = self.config.title_col or next((name for name in TITLES if name in present), None)
        for name in (self.config.item_col, title):
            if name is not None:
                _require(path, present, name)
        for record in reader.records(read_blocks(path, bad)):
            values: dict[str, Any] = {} if title is None or record.reason else {"title": record.values[title]}
            for name, value in record.values.items():
                if name not in (title, "title"):
                    values[name] = value.split() if types[name].endswith("_seq") else value
            yield record._replace(values=values)


def typed(frame: pl.DataFrame, types: dict[str, str], path: Path) -> None:
    """Write the columns of a frame as an atomic file; ``types`` is the type of each. Lists are joined by blanks.

    Tabs, line breaks and quotes within texts become blanks, as the format has no way to write them.
    """
    columns = []
    for name, kind in types.items():
        column = pl.col(name)
        if kind.endswith("_seq") and frame.schema[name] == pl.List(pl.String):
            words = pl.element().str.replace_all(r"\s+", "_")
            column = column.list.eval(words).list.join(" ")
        text = column.cast(pl.String).fill_null("").str.replace_all(r'[\s"]+', " ").str.strip_chars()
        columns.append(text.alias(f"{name}:{kind}"))
    frame.select(columns).write_csv(path, separator="\t", quote_style="never")


def _typed_reader(path: Path) -> tuple[Separated, dict[str, str]]:
    """The reader of a file, with plain names, and the type of each column."""
    reader = Separated(path, "\t")
    types: dict[str, str] = {}
    for cell in reader.header:
        name, colon, kind = cell.strip().rpartition(":")
        if not colon or kind not in TYPES:
            raise DataError(
                f"{path}: the column '{cell[:100]}' has no type.",
                hint=f"Write NAME:TYPE, separated by tabs; types: {', '.join(TYPES)}",
            )
        if name in types:
            raise DataError(f"{path} has two columns '{name}'.", hint="Name each column once")
        types[name] = kind
    if not types:
        raise DataError(f"{path} is empty.", hint="Its first line names the columns, such as user_id:token")
    reader.header = list(types)
    return reader, types


def _require(path: Path, present: list[str], name: str) -> None:
    if name not in present:
        raise DataError(
            f"{path} has no column '{name}'. Its columns: {', '.join(present)}.",
            hint="--user-col, --item-col, --time-col and --title-col name the columns",
        )


def _only(folder: Path, ending: str) -> Path | None:
    """The only file of a folder with this ending, or None."""
    found = sorted(folder.glob(f"*{ending}"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{folder} holds {len(found)} files *{ending}: {names}.", hint="Keep one of them in the folder")
    return found[0] if found else None
