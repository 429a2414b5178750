"""Amazon Reviews of one category: the layouts of 2014, 2018 and 2023 (McAuley Lab).

* 2014 (McAuley et al., SIGIR 2015): ``reviews_C_5.json.gz`` (JSON lines) and ``meta_C.json.gz`` (Python literals).
* 2018 (Ni et al., EMNLP 2019): ``C_5.json.gz`` and ``meta_C.json.gz``, both JSON lines.
* 2023 (Hou et al., arXiv 2403.03952): ``C.jsonl.gz`` (times in milliseconds) and ``meta_C.jsonl.gz``; reviews of all
  users, and items that are variants of each other have one ``parent_asin``.

:func:`read_amazon` also reads other sources that write the layout of 2014.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from genrec_cli.config import Section
from genrec_cli.errors import DataError
from genrec_cli.sources.base import BadRows, RemoteFile, Source, Tables

if TYPE_CHECKING:
    from genrec_cli.sources.row_filter import RowFilter

TEXT_FIELDS = ("title", "price", "brand", "feature", "categories", "description")
"""Text fields of the metadata, in the order in which the papers join them."""


class Layout(NamedTuple):
    """Names of files and of fields in one edition of the reviews."""

    reviews: str
    """Pattern of the names of the reviews; the metadata begin with ``meta_``."""
    user: str
    item: str
    time: str
    unit: Literal["s", "ms"]
    literals: bool = False
    """Whether the metadata are Python literals instead of JSON."""


LAYOUTS = {
    "amazon-2014": Layout("reviews_*", "reviewerID", "asin", "unixReviewTime", "s", literals=True),
    "amazon-2018": Layout("*_5.json*", "reviewerID", "asin", "unixReviewTime", "s"),
    "amazon-2023": Layout("*.jsonl*", "user_id", "parent_asin", "timestamp", "ms"),
}
ENDINGS = (".json", ".json.gz", ".jsonl", ".jsonl.gz")


class _Amazon(Source):
    """One category; subclasses name the layout."""

    layout: ClassVar[str]

    class Config(Section):
        """Settings of a category."""

        category: str
        """Category as in the file names, for example Beauty or Sports_and_Outdoors."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def files(self) -> list[RemoteFile]:
        """Reviews and metadata of the category, with their public addresses."""
        from genrec_cli.sources import datasets

        return datasets.files(self.layout, self.config.category)

    def paths(self, raw: Path) -> list[Path]:
        """The reviews and the metadata of a folder."""
        found = find_file(raw, LAYOUTS[self.layout].reviews), find_file(raw, "meta_*")
        return [path for path in found if path is not None]

    def expects(self) -> str:
        """Which files are read."""
        return f"It reads {LAYOUTS[self.layout].reviews} and, if there is one, meta_*"

    def read(self, raw: Path, bad: BadRows, rows: "RowFilter | None" = None) -> Tables:
        """See :func:`read_amazon`."""
        return read_amazon(raw, bad, rows, layout=self.layout)


class Amazon2014(_Amazon):
    """One category of the 2014 reviews."""

    layout = "amazon-2014"

    class Config(_Amazon.Config):
        name: Literal["amazon-2014"] = "amazon-2014"
        """Name of the source."""


class Amazon2018(_Amazon):
    """One category of the 2018 reviews."""

    layout = "amazon-2018"

    class Config(_Amazon.Config):
        name: Literal["amazon-2018"] = "amazon-2018"
        """Name of the source."""


class Amazon2023(_Amazon):
    """One category of the 2023 reviews."""

    layout = "amazon-2023"

    class Config(_Amazon.Config):
        name: Literal["amazon-2023"] = "amazon-2023"
        """Name of the source."""


def read_amazon(raw: Path, bad: BadRows, rows: "RowFilter | None" = None, *, layout: str = "amazon-2014") -> Tables:
    """Read the reviews and the optional metadata of a folder, in one of :data:`LAYOUTS`.

    Bad lines go to ``bad``. An item that is described twice keeps its first line.

    Raises:
        DataError: the reviews are missing, there are several files of a kind, or a file is damaged.
    """
    from genrec_cli.sources.interactions import Columns, first_rows, read_interactions
    from genrec_cli.sources.json_lines import JsonLines, parse_json
    from genrec_cli.sources.lines import read_blocks
    from genrec_cli.sources.literal import parse_literal
    from genrec_cli.sources.records import item_table

    names = LAYOUTS[layout]
    reviews, metadata = find_file(raw, names.reviews), find_file(raw, "meta_*")
    if reviews is None:
        kind = names.reviews.removesuffix("*") + (".json or .json.gz" if layout == "amazon-2014" else "[.gz]")
        raise DataError(f"{raw} holds no {kind}.", hint="Run genrec download")
    if rows:
        rows.check(reviews, JsonLines().columns(reviews), first_rows(reviews, JsonLines()))
    columns = Columns(names.user, names.item, names.time, names.unit, rows)
    interactions = read_interactions(reviews, JsonLines(), columns, bad)
    if metadata is None:
        return Tables(interactions, None)
    parse: Callable[[str], Any] = parse_literal if names.literals else parse_json
    records = JsonLines(parse).records(read_blocks(metadata, bad))
    described = (record._replace(values=_described(record.values)) for record in records)
    return Tables(interactions, item_table(described, names.item, metadata, bad, fields=TEXT_FIELDS).lazy())


def _described(values: Mapping[str, Any]) -> dict[str, Any]:
    """A record of metadata under the names of 2014: ``category``, ``features``, ``store`` and ``details`` are later."""
    details = values.get("details")
    brand = details.get("Brand") if isinstance(details, dict) else None
    later = {
        "brand": values.get("brand") or brand or values.get("store"),
        "feature": values.get("feature") or values.get("features"),
        "categories": values.get("categories") or values.get("category") or values.get("main_category"),
    }
    kept = {name: value for name, value in values.items() if name not in ("category", *later)}
    return kept | {name: value for name, value in later.items() if value}


def find_file(folder: Path, pattern: str) -> Path | None:
    """The only file of a folder with this pattern and an ending of :data:`ENDINGS`, or None."""
    found = sorted(path for path in folder.glob(pattern) if path.name.endswith(ENDINGS))
    if not pattern.startswith("meta_"):
        found = [path for path in found if not path.name.startswith("meta_")]
    if len(found) > 1:
        raise DataError(f"{folder} holds {len(found)} files {pattern}: {', '.join(p.name for p in found)}.")
    return found[0] if found else None
