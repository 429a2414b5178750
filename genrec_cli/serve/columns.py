"""The columns that a condition reads: those of the item table, and one per kind of attribute."""

from pathlib import Path

import polars as pl

from genrec_cli.data.schema import ATTRIBUTES, ITEMS, read_table

OTHER = "attribute"
"""Column of the attributes without a kind before a colon."""


def item_columns(data: Path) -> pl.DataFrame:
    """``raw_id``, ``title``, ``text``, ``train_count`` and a column per kind of attribute: a text, or a list of texts
    if an item has several of the kind. Row i is item i + 1."""
    items = _frame(data / "items.parquet", ["raw_id", "title", "text", "train_count", "attributes"]).with_row_index()
    names = _frame(data / "attributes.parquet", ["attribute", "name"])
    parts = pl.col("name").str.splitn(": ", 2)
    second = parts.struct[1]
    kinds = names.select(
        attributes="attribute",
        kind=pl.when(second.is_null()).then(pl.lit(OTHER)).otherwise(parts.struct[0]),
        value=second.fill_null(pl.col("name")),
    )
    pairs = items.select("index", "attributes").explode("attributes").drop_nulls()
    pairs = pairs.join(kinds, on="attributes", maintain_order="left")
    items = items.drop("attributes")
    for (kind,), rows in sorted(pairs.partition_by("kind", as_dict=True).items()):
        if kind in items.columns:
            continue
        values = rows.group_by("index", maintain_order=True).agg(pl.col("value").alias(str(kind)))
        if values[str(kind)].list.len().max() == 1:
            values = values.with_columns(pl.col(str(kind)).list.first())
        items = items.join(values, on="index", how="left", maintain_order="left")
    return items.drop("index")


def _frame(path: Path, columns: list[str]) -> pl.DataFrame:
    schema = ITEMS if path.name == "items.parquet" else ATTRIBUTES
    table = read_table(path, schema, columns)
    return pl.DataFrame({name: pl.Series(table[name]) for name in columns})
