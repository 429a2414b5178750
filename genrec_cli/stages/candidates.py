"""Candidate items of ``recommend``: those of a file, those that fulfil a condition, or both.

A condition reads the columns of the item table, one column per kind of attribute (``brand``, ``category``), and the
columns of the file of candidates, for example stock and price of today.
"""

from pathlib import Path

import numpy as np
import polars as pl

from genrec_cli import console
from genrec_cli.artifacts import Artifact
from genrec_cli.config import did_you_mean
from genrec_cli.data.expression import matches
from genrec_cli.data.schema import ATTRIBUTES, ITEMS, read_table
from genrec_cli.errors import DataError
from genrec_cli.sources.candidates import read_candidates

OTHER = "attribute"
"""Column of the attributes without a kind before a colon."""


def kind_and_value() -> dict[str, pl.Expr]:
    """``kind`` and ``value`` of an attribute's ``name``: ``category: Hair: Dye`` is ``Hair: Dye`` of ``category``."""
    named = pl.col("name").str.contains(": ", literal=True)
    first, rest = (pl.col("name").str.splitn(": ", 2).struct[part] for part in (0, 1))
    return {"kind": pl.when(named).then(first).otherwise(pl.lit(OTHER)), "value": rest.fill_null(pl.col("name"))}


def candidate_rows(data: Artifact, path: Path | None, where: str | None) -> np.ndarray | None:
    """Rows of the candidates in the item table, ascending; None if all items are candidates.

    Raises:
        DataError: no item of the file is in the catalogue, or no item fulfils the condition.
        UsageError: the condition is none.
    """
    if path is None and where is None:
        return None
    items = item_columns(data) if where is not None else item_names(data)
    if path is not None:
        items = _joined(items, read_candidates(path), path)
    if where is not None:
        items = items.filter(matches(items.drop("row"), where))
        if items.is_empty():
            raise DataError(f"No {'candidate' if path else 'item'} fulfils --where {where!r}.")
    return items["row"].sort().to_numpy().astype(np.int64)


def item_names(data: Artifact) -> pl.DataFrame:
    """``row`` and ``raw_id`` of all items."""
    table = read_table(data.path / "items.parquet", ITEMS, ["raw_id"])
    return pl.DataFrame({"raw_id": pl.Series(table["raw_id"])}).with_row_index("row")


def item_columns(data: Artifact) -> pl.DataFrame:
    """``row``, the columns of the item table, and a column per kind of attribute: text, or a list of texts if an item
    has several of the kind."""
    table = read_table(data.path / "items.parquet", ITEMS)
    items = pl.DataFrame({name: pl.Series(table[name]) for name in ITEMS.names if name != "item"}).with_row_index("row")
    names = read_table(data.path / "attributes.parquet", ATTRIBUTES)
    kinds = pl.DataFrame({name: pl.Series(names[name]) for name in ATTRIBUTES.names}).select(
        attributes="attribute",
        **kind_and_value(),
    )
    pairs = items.select("row", "attributes").explode("attributes").join(kinds, on="attributes", maintain_order="left")
    items = items.drop("attributes")
    for (kind,), rows in sorted(pairs.partition_by("kind", as_dict=True).items()):
        if kind in items.columns:
            continue
        values = rows.group_by("row", maintain_order=True).agg(pl.col("value").alias(str(kind)))
        if values[str(kind)].list.len().max() == 1:
            values = values.with_columns(pl.col(str(kind)).list.first())
        items = items.join(values, on="row", how="left", maintain_order="left")
    return items


def _joined(items: pl.DataFrame, candidates: pl.DataFrame, path: Path) -> pl.DataFrame:
    """The items of the file with their columns in both tables; those of the file win."""
    unknown = candidates.join(items, on="raw_id", how="anti")
    if unknown.height == candidates.height:
        near = did_you_mean(unknown["raw_id"][0], items["raw_id"].head(10_000))
        message = f"{path} holds no item of the catalogue; the first is '{unknown['raw_id'][0]}'.{near}"
        raise DataError(message, hint=f"Items are named like '{items['raw_id'][0]}'")
    if unknown.height:
        first = unknown["raw_id"][0]
        console.warn(f"{unknown.height:,} candidate(s) are not in the catalogue and are left out: '{first}', ...")
    both = [name for name in candidates.columns if name in items.columns and name != "raw_id"]
    kept = candidates.drop("row", strict=False)
    return items.drop([name for name in both if name != "row"]).join(kept, on="raw_id", maintain_order="left")
