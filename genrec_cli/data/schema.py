"""The canonical tables: columns, reader and writer (pyarrow, so that ``train`` and ``evaluate`` need no polars)."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from genrec_cli.errors import DataError

SLICE = 2**16
"""Rows per cast: the texts of a chunk of a column have at most 2 GiB."""

INTERACTIONS = pa.schema([("user", pa.uint32()), ("item", pa.uint32()), ("time", pa.int64())])
"""``data/interactions.parquet``: by user, then time, then original row. ``time`` is in seconds."""

ITEMS = pa.schema(
    {"item": pa.uint32(), "raw_id": pa.string(), "title": pa.string(), "text": pa.string()}
    | {"attributes": pa.list_(pa.uint32()), "train_count": pa.uint32()}
)
"""``data/items.parquet``: row i holds item i + 1. ``text`` is the input of encoders; ``attributes`` are ids of
``data/attributes.parquet``; ``train_count`` counts training interactions only."""

ATTRIBUTES = pa.schema([("attribute", pa.uint32()), ("name", pa.string())])
"""``data/attributes.parquet``: row a holds attribute a + 1, for example ``brand: Canon``."""

USERS = pa.schema(
    {"user": pa.uint32(), "raw_id": pa.string(), "offset": pa.uint64(), "length": pa.uint32()}
    | {"train_end": pa.uint32(), "valid_at": pa.int32(), "test_at": pa.int32()}
)
"""``data/users.parquet``: row u holds user u + 1, whose items are ``interactions[offset : offset + length]``. The first
``train_end`` are for training; ``valid_at`` and ``test_at`` are the positions of the two targets among the items of
the user (-1: none); the history of a target is everything before it."""

SCHEMAS = {"interactions": INTERACTIONS, "users": USERS, "items": ITEMS, "attributes": ATTRIBUTES}


def read_table(path: Path, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """Read a canonical table and check its columns and types. The error names file and column."""
    wanted = [schema.field(name) for name in columns] if columns else list(schema)
    try:
        present = pq.read_schema(path).names
        for column in wanted:
            if column.name not in present:
                raise DataError(f"{path} has no column '{column.name}'.")
        return pq.read_table(path, columns=[c.name for c in wanted]).cast(pa.schema(wanted))
    except (pa.ArrowException, OSError) as error:
        hint = "Run the stage that made it again"
        raise DataError(f"{path} cannot be read as Parquet: {error}.", hint=hint) from None


def write_table(table: pa.Table, path: Path, schema: pa.Schema) -> None:
    """Write a canonical table with the columns and types of its schema."""
    table = table.select(schema.names)
    parts = [table.slice(row, SLICE).cast(schema) for row in range(0, max(len(table), 1), SLICE)]
    pq.write_table(pa.concat_tables(parts), path, compression="zstd")


def statistics(users: pa.Table, items: pa.Table, attributes: int) -> dict[str, Any]:
    """The statistics of a data set that its tables hold."""
    interactions = pc.sum(users["length"]).as_py()
    return {
        "users": len(users),
        "items": len(items),
        "interactions": interactions,
        "mean_length": interactions / len(users),
        "density": interactions / len(users) / len(items),
        "with_text": pc.mean(pc.not_equal(items["text"], "")).as_py(),
        "attributes": attributes,
        "valid_users": pc.sum(pc.greater_equal(users["valid_at"], 0)).as_py(),
        "test_users": pc.sum(pc.greater_equal(users["test_at"], 0)).as_py(),
    }
