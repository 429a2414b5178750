"""MovieLens (Harper and Konstan, TiiS 2015): ratings and films in the layouts of 100K, 1M, 10M, 20M, 25M and 32M.

* 100K: ``u.data`` (tabs, no header) and ``u.item`` (``|``, Latin-1, one flag per genre).
* 1M and 10M: ``ratings.dat`` and ``movies.dat`` (``::``, no header; the films of 1M in Latin-1).
* 20M and later: ``ratings.csv`` and ``movies.csv`` (header, UTF-8).

The files are read in a folder or in the zip file as downloaded. Fields of a film: ``title`` and ``categories``, its
genres. Columns of the log for filters: ``user_id``, ``item_id``, ``rating``, ``timestamp``.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl

from genrec_cli.config import Section
from genrec_cli.errors import DataError
from genrec_cli.sources.base import BadRows, RemoteFile, Source, Tables
from genrec_cli.sources.interactions import Columns, Record, first_rows, read_interactions
from genrec_cli.sources.lines import Block, read_blocks
from genrec_cli.sources.records import item_table
from genrec_cli.sources.row_filter import RowFilter
from genrec_cli.sources.separated import Separated

LOG = ["user_id", "item_id", "rating", "timestamp"]
_GENRES = """
    unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror Musical
    Mystery Romance Sci-Fi Thriller War Western
"""
GENRES = tuple(_GENRES.split())
"""The flags of ``u.item``, in order (``u.genre``)."""
NO_GENRE = ("unknown", "(no genres listed)")


class Layout(NamedTuple):
    """The names of the two files, and what separates their cells."""

    ratings: str
    films: str
    separator: str
    film_separator: str


LAYOUTS = (
    Layout("u.data", "u.item", "\t", "|"),
    Layout("ratings.dat", "movies.dat", "::", "::"),
    Layout("ratings.csv", "movies.csv", ",", ","),
)


class MovieLens(Source):
    """Ratings of films."""

    class Config(Section):
        """Settings of the source."""

        name: Literal["movielens"] = "movielens"
        """Name of the source."""
        size: Literal["100k", "1m", "10m", "20m", "25m", "32m"] = "100k"
        """Which data set to download; the layout of files is recognised by their names."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def files(self) -> list[RemoteFile]:
        """The zip file, with its public address."""
        from genrec_cli.sources import datasets

        return datasets.movielens_files(self.config.size)

    def expects(self) -> str:
        """Which files are read."""
        return "It reads " + ", or ".join(f"{layout.ratings} and {layout.films}" for layout in LAYOUTS)

    def paths(self, raw: Path) -> list[Path]:
        """The files of the layout, or the zip file."""
        layout = next((layout for layout in LAYOUTS if (raw / layout.ratings).is_file()), None)
        if layout is None:
            return sorted(raw.glob("ml-*.zip"))[:1]
        return [path for path in (raw / layout.ratings, raw / layout.films) if path.is_file()]

    def read(self, raw: Path, bad: BadRows, rows: RowFilter | None = None) -> Tables:
        """Read ratings and films. Raises a :class:`DataError` without ratings."""
        folder = _opened(raw)
        layout = next((layout for layout in LAYOUTS if (folder / layout.ratings).is_file()), None)
        if layout is None:
            raise DataError(f"{raw} holds no ratings of MovieLens.", hint=self.expects())
        ratings, films = folder / layout.ratings, folder / layout.films
        reader = _reader(ratings, layout.separator)
        if rows:
            rows.check(ratings, reader.columns(ratings), first_rows(ratings, reader))
        log = read_interactions(ratings, reader, Columns("user_id", "item_id", "timestamp", "s", rows), bad)
        if not films.is_file():
            return Tables(log, None)
        return Tables(log, item_table(_films(films, layout, bad), "item_id", films, bad).lazy())


class _Colons(Separated):
    """Cells that are separated by ``::``. A tab, which the files do not hold, takes its place before parsing."""

    def fast(self, block: Block, columns: Columns) -> pl.DataFrame | None:
        """See :class:`Separated`."""
        return super().fast(_tabs(block), columns)

    def records(self, blocks: Iterator[Block], *, one: bool = False) -> Iterator[Record]:
        """See :class:`Separated`."""
        return super().records((_tabs(block) for block in blocks), one=one)


def _tabs(block: Block) -> Block:
    return block._replace(content=block.content.replace(b"::", b"\t"))


def _opened(raw: Path) -> Path:
    """The folder with the files: ``raw`` itself, or the one in its zip file."""
    if any((raw / layout.ratings).is_file() for layout in LAYOUTS):
        return raw
    for archive in sorted(raw.glob("ml-*.zip"))[:1]:
        try:
            root = zipfile.Path(archive)
            inside = [root, *(path for path in root.iterdir() if path.is_dir())]
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{archive} cannot be read: {error}.", hint="Fetch the file again") from None
        for folder in inside:
            if any((folder / layout.ratings).is_file() for layout in LAYOUTS):
                return folder  # type: ignore[return-value]  # it has the methods of a path that readers use
    return raw


def _reader(path: Path, separator: str) -> Separated:
    if separator == "::":
        return _Colons(path, "\t", LOG)
    reader = Separated(path, separator, LOG if separator == "\t" else None)
    named = {"userId": "user_id", "movieId": "item_id"}
    reader.header = [named.get(name, name) for name in reader.header]
    return reader


def _films(path: Path, layout: Layout, bad: BadRows) -> Iterator[Record]:
    """One record per film: ``item_id, title, categories``."""
    if layout.film_separator == ",":
        for record in Separated(path, ",").records(read_blocks(path, bad)):
            values = record.values
            genres = _genres(str(values.get("genres") or "").split("|"))
            named = {"item_id": values.get("movieId"), "title": values.get("title"), "categories": genres}
            yield record._replace(values={} if record.reason else named)
        return
    for block in read_blocks(path, bad):
        for number, line in block.lines():
            cells = _text(line).split(layout.film_separator)
            if len(cells) < 3:
                yield Record(number, {}, "fewer than three cells")
                continue
            flags = zip(GENRES, cells[5:], strict=False)
            genres = cells[2].split("|") if layout.film_separator == "::" else [name for name, f in flags if f == "1"]
            yield Record(number, {"item_id": cells[0], "title": cells[1], "categories": _genres(genres)})


def _text(line: bytes) -> str:
    """A line in UTF-8 or, as in the older files, Latin-1, which accepts all bytes."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _genres(names: list[str]) -> list[str]:
    return [name.strip() for name in names if name.strip() and name.strip() not in NO_GENRE]
