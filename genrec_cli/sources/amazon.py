"""Amazon Reviews 2014 (McAuley et al.): ``reviews_*_5.json.gz`` and ``meta_*.json.gz`` of one category.

Reviews are strict JSON lines; metadata lines are Python literals. Other sources that write this layout are
read by :func:`read_amazon` too.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from genrec_cli.config import Section
from genrec_cli.errors import DataError
from genrec_cli.sources.base import BadRows, RemoteFile, Tables

TEXT_FIELDS = ("title", "price", "brand", "feature", "categories", "description")
"""Text fields of the metadata, in the order in which the papers join them."""


class Amazon2014:
    """One category of the 2014 reviews."""

    class Config(Section):
        name: Literal["amazon-2014"] = "amazon-2014"
        """Name of the source."""
        category: str
        """Category as in the file names, for example Beauty or Sports_and_Outdoors."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def files(self) -> list[RemoteFile]:
        """Reviews and metadata of the category, with their public addresses."""
        from genrec_cli.sources import catalog

        return catalog.files(self.config.category)

    def generate(self, folder: Path, progress: Callable[[float], None]) -> None:
        """Nothing: the files are downloaded."""

    def read(self, raw: Path, bad: BadRows) -> Tables:
        """See :func:`read_amazon`."""
        return read_amazon(raw, bad)


def read_amazon(raw: Path, bad: BadRows) -> Tables:
    """Read ``reviews_*.json[.gz]`` and, if there, ``meta_*.json[.gz]`` of a folder.

    Raises :class:`DataError` if a file is missing, there are several, or one is damaged. Bad lines go to
    ``bad``. An item described twice keeps its first line.
    """
    from genrec_cli.sources.interactions import Columns, read_interactions
    from genrec_cli.sources.json_lines import JsonLines
    from genrec_cli.sources.lines import read_blocks
    from genrec_cli.sources.literal import parse_literal
    from genrec_cli.sources.records import item_table

    reviews, metadata = only_file(raw, "reviews_"), only_file(raw, "meta_", needed=False)
    columns = Columns("reviewerID", "asin", "unixReviewTime")
    interactions = read_interactions(reviews, JsonLines(), columns, bad)
    if metadata is None:
        return Tables(interactions, None)
    records = JsonLines(parse_literal).records(read_blocks(metadata, bad))
    items = item_table(records, "asin", metadata, bad, fields=TEXT_FIELDS)
    return Tables(interactions, items.lazy())


def only_file(folder: Path, prefix: str, *, needed: bool = True) -> Path | None:
    """The one ``PREFIX*.json`` or ``PREFIX*.json.gz`` of a folder."""
    found = sorted(p for p in folder.glob(f"{prefix}*") if p.name.endswith((".json", ".json.gz")))
    if len(found) > 1:
        raise DataError(f"{folder} holds {len(found)} files {prefix}*: {', '.join(p.name for p in found)}.")
    if needed and not found:
        raise DataError(f"{folder} holds no {prefix}*.json or {prefix}*.json.gz.", hint="genrec download makes it")
    return found[0] if found else None
