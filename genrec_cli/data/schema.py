"""The canonical tables: their columns, in one place, and their readers.

Written by ``preprocess`` (polars), read by everything else (pyarrow), so that ``train`` and ``evaluate``
run where only torch and pyarrow are.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from genrec_cli.errors import DataError

PADDING = 0
"""Item id of padding. Items count from 1; codes count from 0."""

SLICE = 2**16
"""Rows whose types are changed at a time: the texts of one piece of a column go up to 2 GiB."""

INTERACTIONS = pa.schema([("user", pa.uint32()), ("item", pa.uint32()), ("time", pa.int64())])
"""``data/interactions.parquet``: by user, then time, then original row. ``time`` is in seconds."""

ITEMS = pa.schema(
    [
        ("item", pa.uint32()),
        ("raw_id", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("attributes", pa.list_(pa.uint32())),
        ("train_count", pa.uint32()),
    ]
)
"""``data/items.parquet``: row i holds item i + 1. ``text`` is what encoders read; ``attributes`` are ids
of ``data/attributes.parquet``; ``train_count`` counts training interactions only."""

ATTRIBUTES = pa.schema([("attribute", pa.uint32()), ("name", pa.string())])
"""``data/attributes.parquet``: row a holds attribute a + 1, for example ``brand: Canon``."""

USERS = pa.schema(
    [
        ("user", pa.uint32()),
        ("raw_id", pa.string()),
        ("offset", pa.uint64()),
        ("length", pa.uint32()),
        ("train_end", pa.uint32()),
        ("valid_at", pa.int32()),
        ("test_at", pa.int32()),
    ]
)
"""``data/users.parquet``: row u holds user u + 1. Their items are ``interactions[offset : offset + length]``;
the first ``train_end`` are for training; ``valid_at`` and ``test_at`` are the positions of the two targets
within the user's items (-1: none); the history of a target is everything before it."""


def read_table(path: Path, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """Read a canonical table and check its columns and types. The error names file and column."""
    wanted = [schema.field(name) for name in columns] if columns else list(schema)
    try:
        found = pq.read_schema(path)
        for column in wanted:
            if column.name not in found.names:
                raise DataError(f"{path} has no column '{column.name}'.")
        return pq.read_table(path, columns=[c.name for c in wanted]).cast(pa.schema(wanted))
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet: {error}.", hint="Run the stage that made it again"
        ) from None


def write_table(table: pa.Table, path: Path, schema: pa.Schema) -> None:
    """Write a canonical table with exactly the schema's columns and types."""
    table = table.select(schema.names)
    parts = [table.slice(row, SLICE).cast(schema) for row in range(0, max(len(table), 1), SLICE)]
    pq.write_table(pa.concat_tables(parts), path, compression="zstd")
