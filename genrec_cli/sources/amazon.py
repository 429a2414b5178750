"""Amazon Reviews 2014 (McAuley et al.): ``reviews_*_5.json.gz`` and ``meta_*.json.gz`` of one category.

Reviews are strict JSON lines; metadata lines are Python literals. :func:`read_amazon` also reads other sources that
write this layout.
"""

from pathlib import Path
from typing import Literal

from genrec_cli.config import Section
from genrec_cli.errors import DataError
from genrec_cli.sources.base import BadRows, RemoteFile, Source, Tables

TEXT_FIELDS = ("title", "price", "brand", "feature", "categories", "description")
"""Text fields of the metadata, in the order in which the papers join them."""


class Amazon2014(Source):
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

    def read(self, raw: Path, bad: BadRows) -> Tables:
        """See :func:`read_amazon`."""
        return read_amazon(raw, bad)


def read_amazon(raw: Path, bad: BadRows) -> Tables:
    """Read ``reviews_*.json[.gz]`` and the optional ``meta_*.json[.gz]`` of a folder.

    Bad lines go to ``bad``. An item that is described twice keeps its first line.

    Raises:
        DataError: the reviews are missing, there are several files of a kind, or a file is damaged.
    """
    from genrec_cli.sources.interactions import Columns, read_interactions
    from genrec_cli.sources.json_lines import JsonLines
    from genrec_cli.sources.lines import read_blocks
    from genrec_cli.sources.literal import parse_literal
    from genrec_cli.sources.records import item_table

    reviews, metadata = _find_file(raw, "reviews_"), _find_file(raw, "meta_")
    if reviews is None:
        raise DataError(f"{raw} holds no reviews_*.json or reviews_*.json.gz.", hint="Run genrec download")
    columns = Columns("reviewerID", "asin", "unixReviewTime")
    interactions = read_interactions(reviews, JsonLines(), columns, bad)
    if metadata is None:
        return Tables(interactions, None)
    records = JsonLines(parse_literal).records(read_blocks(metadata, bad))
    return Tables(interactions, item_table(records, "asin", metadata, bad, fields=TEXT_FIELDS).lazy())


def _find_file(folder: Path, prefix: str) -> Path | None:
    """The only ``PREFIX*.json`` or ``PREFIX*.json.gz`` of a folder, or None."""
    found = sorted(p for p in folder.glob(f"{prefix}*") if p.name.endswith((".json", ".json.gz")))
    if len(found) > 1:
        raise DataError(f"{folder} holds {len(found)} files {prefix}*: {', '.join(p.name for p in found)}.")
    return found[0] if found else None
