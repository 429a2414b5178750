"""The table of items of ``preprocess``: ids, cold items, text fields and attributes, from the metadata of a source."""

import numpy as np
import polars as pl

from genrec_cli import console
from genrec_cli.data.text import clean
from genrec_cli.errors import DataError

DEFAULT_FIELDS = ("title", "price", "brand", "feature", "categories", "description")
"""Text fields of the papers, in their order; missing ones are reported."""
NAMED = 8
"""Fields outside of the texts that a message names."""


def numbered(name: str, raw_ids: pl.Series) -> pl.DataFrame:
    """``name`` (ids from 1) and ``raw_id``."""
    return pl.DataFrame({name: np.arange(1, len(raw_ids) + 1), "raw_id": raw_ids})


def with_cold_items(items: pl.DataFrame, metadata: pl.LazyFrame | None) -> pl.DataFrame:
    """The items and, after them, those that only the metadata have, in their order. Raises without metadata."""
    if metadata is None:
        raise DataError("There are no cold items to keep without metadata.", hint="Add --items FILE")
    cold = metadata.select("raw_id").collect().join(items, on="raw_id", how="anti", maintain_order="left")
    return numbered("item", pl.concat([items["raw_id"], cold["raw_id"]]))


def warn_without_titles(texts: pl.DataFrame, described: bool) -> None:
    """Warn if no item has a title. ``described``: whether there are metadata."""
    if texts["title"].fill_null("").ne("").any():
        return
    if not described:
        console.say("The items have no titles, since there is no items file: lists show raw ids.")
        return
    others = ", ".join(column.name for column in texts if column.name != "title")
    console.warn(f"The items have no titles: lists show raw ids. --title-col NAME names their column, of: {others}")


def describe(items: pl.DataFrame, metadata: pl.LazyFrame | None) -> tuple[pl.DataFrame, pl.Series, dict[str, int]]:
    """Per item its cleaned text fields (columns) and the names of its attributes; and two counts."""
    empty = pl.LazyFrame(schema={"raw_id": pl.String, "title": pl.String, "attributes": pl.List(pl.String)})
    records = (empty if metadata is None else metadata).collect()
    known = records.join(items, on="raw_id", how="semi")
    counts = {
        "items_without_metadata": items.height - known.height,
        "metadata_without_interactions": records.height - known.height,
    }
    if metadata is not None and known.is_empty():
        others = f"they look like '{records['raw_id'][0]}'" if records.height else "there is none"
        ours = items["raw_id"][0]
        console.warn(f"No item is described: the ids of the log look like '{ours}', in the items file {others}.")
    described = items.select("raw_id").join(known, on="raw_id", how="left", maintain_order="left").drop("raw_id")
    texts = described.drop("attributes")
    return texts.select(clean(column) for column in texts), described["attributes"], counts


def attribute_table(names: pl.Series, min_items: int) -> tuple[pl.DataFrame, pl.Series]:
    """``attribute, name`` (ids from 1, by first appearance) of the names of at least ``min_items`` items, and the list
    of ids per item.

    ``names``: per item a list such as ``["brand: Canon", "category: Lenses"]``, or null.
    """
    pairs = pl.DataFrame({"name": names}).with_row_index("place").explode("name").drop_nulls()
    pairs = pairs.with_columns(clean(pairs["name"])).unique(maintain_order=True)
    pairs = pairs.filter(pl.len().over("name") >= min_items)
    known = pairs.select("name").unique(maintain_order=True)
    known = known.select(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("attribute"), "name")
    lists = pairs.join(known, on="name", maintain_order="left").group_by("place").agg(attributes="attribute")
    places = pl.DataFrame({"place": pl.int_range(len(names), dtype=pl.UInt32, eager=True)})
    lists = places.join(lists, on="place", how="left", maintain_order="left")
    return known, lists.select(pl.col("attributes").fill_null([])).to_series()


def choose_fields(texts: pl.DataFrame, asked: tuple[str, ...] | None) -> tuple[list[str], list[str]]:
    """The text fields to join, and the absent (missing or empty) default ones."""
    present = [column.name for column in texts if column.fill_null("").ne("").any()]
    wanted = DEFAULT_FIELDS if asked is None else asked
    absent = [name for name in wanted if name not in present]
    if absent and asked is not None:
        raise DataError(
            f"There is no text field '{absent[0]}' in this data set.",
            hint=f"--fields {','.join(present)}" if present else "Give an items file, or leave --fields out",
        )
    if present and len(absent) == len(wanted):
        names = ",".join(present)
        console.warn(f"Item texts are empty: this data set has no {', '.join(absent)}. Try: --fields {names}")
    elif absent and present:
        console.say(f"This data set has no {', '.join(absent)}; item texts are made of the others.")
    if asked is None and (unread := [name for name in present if name not in wanted]):
        more = f" and {len(unread) - NAMED} more" if len(unread) > NAMED else ""
        console.say(f"Not in item texts: {', '.join(unread[:NAMED])}{more}; --fields A,B,... chooses the fields.")
    return [name for name in wanted if name in present], absent
