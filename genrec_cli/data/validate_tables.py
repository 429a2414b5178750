"""The check of data tables from outside.

Interactions are read batch by batch, users and items are columns in memory; no check loops over rows. A failed check is
one error with the place and the expected value.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from genrec_cli.data.histories import POSITIONS, USER
from genrec_cli.data.schema import ATTRIBUTES, INTERACTIONS, ITEMS, SCHEMAS, USERS
from genrec_cli.errors import DataError

DERIVED = {"users": ("user", "offset", "length"), "items": ("item", "title", "text", "attributes", "train_count")}
"""Optional columns: they follow from the others, or they are empty by default."""
BATCH = 2**20
HINT = "docs/data.md, Tables, describes the columns"


@dataclass(frozen=True)
class ValidTables:
    """Checked tables. ``user_U`` has the records of :data:`genrec_cli.data.histories.USER`."""

    interactions: Path
    users: pa.Table
    items: pa.Table
    attributes: pa.Table
    user_U: np.ndarray
    times: bool
    """Whether the column ``time`` holds times, not positions."""


def check_tables(paths: dict[str, Path]) -> ValidTables:
    """Check the tables and add their optional columns.

    Args:
        paths: ``interactions``, ``users``, ``items`` and optional ``attributes``: Parquet files, or folders of them.

    Raises:
        DataError: a column is missing or has a wrong type, ids are not 1, 2, 3, ..., rows are not in order, or the
            tables are inconsistent.
    """
    users, items = _read(paths["users"], "users"), _read(paths["items"], "items")
    attributes = ATTRIBUTES.empty_table()
    if "attributes" in paths:
        attributes = _read(paths["attributes"], "attributes")
        _ids(attributes, "attribute", paths["attributes"])
    items = _check_items(items, len(attributes), paths["items"])
    length_U, times = _check_interactions(paths["interactions"], len(users), len(items))
    user_U = _check_users(users, length_U, paths["users"])
    columns = {"user": np.arange(1, len(users) + 1), "raw_id": users["raw_id"]}
    columns |= {name: user_U[name] for name in USER.names or ()}
    return ValidTables(paths["interactions"], pa.table(columns, USERS), items, attributes, user_U, times)


def check_train_counts(items: pa.Table, train_count_I: np.ndarray, path: Path) -> pa.Table:
    """The items with the counts of their training interactions; a given column must be equal to them."""
    if "train_count" in items.column_names:
        _equal(items["train_count"].to_numpy(), train_count_I, "train_count", "training interactions", path)
        items = items.drop_columns("train_count")
    return items.append_column("train_count", pa.array(train_count_I, pa.uint32())).select(ITEMS.names)


def parts(path: Path) -> list[Path]:
    """The Parquet files of a table: itself, or those of a folder by name."""
    found = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not found or not all(part.is_file() for part in found):
        raise DataError(f"There is no Parquet file {path}, and no folder of them.", hint=HINT)
    return found


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.") from None


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """``user, item, time`` of the interactions, batch by batch, in the types of their schema."""
    for part in parts(path):
        with _opened(part) as file:
            _require(file.schema_arrow.names, "interactions", part)
            for batch in file.iter_batches(BATCH, columns=INTERACTIONS.names):
                yield from _typed(pa.Table.from_batches([batch]), "interactions", part).to_batches()


def _read(path: Path, name: str) -> pa.Table:
    """A table with those columns of its schema that it has."""
    tables = []
    for part in parts(path):
        with _opened(part) as file:
            present = _require(file.schema_arrow.names, name, part)
            tables.append(_typed(file.read(columns=present), name, part))
    try:
        table = pa.concat_tables(tables).combine_chunks()
    except pa.ArrowInvalid:
        raise DataError(f"The files of {path} have different columns.") from None
    for column in table.column_names:
        if table[column].null_count and column not in ("title", "text", "attributes"):
            raise DataError(f"{path}: the column '{column}' has {table[column].null_count:,} null(s).", hint=HINT)
    if name in ("users", "items"):
        if len(pc.unique(table["raw_id"])) < len(table):
            counts = pc.value_counts(table["raw_id"])
            repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
            raise DataError(f"{path}: {len(repeated):,} raw id(s) occur more than once, such as '{repeated[0]}'.")
        _ids(table, name[:-1], path)
    return table


def _require(present: list[str], name: str, path: Path) -> list[str]:
    """The columns of the schema that a file has. Raises for a missing column that is not optional."""
    for column in SCHEMAS[name].names:
        if column not in present and column not in DERIVED.get(name, ()):
            raise DataError(f"{path} has no column '{column}'; it has: {', '.join(present)}.", hint=HINT)
        if present.count(column) > 1:
            raise DataError(f"{path} has {present.count(column)} columns '{column}'.", hint="Name each column once")
    return [column for column in SCHEMAS[name].names if column in present]


def _typed(table: pa.Table, name: str, path: Path) -> pa.Table:
    for column in table.column_names:
        wanted, values = SCHEMAS[name].field(column).type, table[column]
        try:
            if column == "time" and (pa.types.is_timestamp(values.type) or pa.types.is_date(values.type)):
                values = values.cast(pa.timestamp("s"), safe=False)  # Spark writes microseconds
            table = table.set_column(table.column_names.index(column), column, values.cast(wanted))
        except pa.ArrowException as error:
            raise DataError(f"{path}: the column '{column}' is not {wanted}: {error}.", hint=HINT) from None
    return table


def _ids(table: pa.Table, column: str, path: Path) -> None:
    """Check that ids, if given, are 1, 2, 3, ... in this order."""
    if column in table.column_names:
        _equal(table[column].to_numpy(), np.arange(1, len(table) + 1), column, "ids from 1 without a gap", path)


def _equal(found: np.ndarray, expected: np.ndarray, column: str, what: str, path: Path) -> None:
    wrong = np.flatnonzero(found != expected)
    if len(wrong):
        row = int(wrong[0])
        problem = f"'{column}' is {found[row]}, and by the {what} it must be {expected[row]}"
        raise DataError(f"{path}, row {row + 1}: {problem} ({len(wrong):,} such row(s)).", hint=HINT)


def _check_interactions(path: Path, users: int, items: int) -> tuple[np.ndarray, bool]:
    """Check ids and order by user and time; return ``length_U`` and whether ``time`` holds times."""
    length_U, row, last, positions = np.zeros(users, np.int64), 0, (0, 0), 0
    for batch in read_batches(path):
        if any(column.null_count for column in batch.columns):
            raise DataError(f"{path} has nulls after row {row:,}.", hint=HINT)
        user, item, time = (batch.column(name).to_numpy().astype(np.int64) for name in INTERACTIONS.names)
        step = np.diff(user, prepend=last[0])
        earlier = (step == 0) & (np.diff(time, prepend=last[1]) < 0)
        _refuse(earlier, path, row, "the time is before that of the row above; sort the rows of a user by time")
        _refuse((step < 0) | (step > 1), path, row, "users must be in the order 1, 2, 3, ...; user is", user)
        _refuse(user < 1, path, row, "users go from 1; user is", user)
        _refuse(user > users, path, row, f"there are {users:,} users; user is", user)
        _refuse((item < 1) | (item > items), path, row, f"items go from 1 to {items:,}; item is", item)
        positions += int(np.isin(time[step > 0], (0, 1)).sum())
        length_U += np.bincount(user - 1, minlength=users)
        row, last = row + len(user), (int(user[-1]), int(time[-1]))
    if last[0] != users or not users:
        raise DataError(f"{path} ends with user {last[0]:,}, and there are {users:,} users.", hint=HINT)
    return length_U, positions < POSITIONS * users


def _refuse(wrong: np.ndarray, path: Path, row: int, why: str, value: np.ndarray | None = None) -> None:
    if wrong.any():
        first = int(wrong.argmax())
        shown = "" if value is None else f" {value[first]}"
        raise DataError(f"{path}, row {row + first + 1:,}: {why}{shown}.", hint=HINT)


def _check_users(users: pa.Table, length_U: np.ndarray, path: Path) -> np.ndarray:
    user_U = np.empty(len(users), USER)
    user_U["length"], user_U["offset"] = length_U, np.cumsum(length_U) - length_U
    for name in ("length", "offset"):
        if name in users.column_names:
            _equal(users[name].to_numpy(), user_U[name], name, "interactions", path)
    end_U, valid_U, test_U = (users[n].to_numpy().astype(np.int64) for n in ("train_end", "valid_at", "test_at"))
    _refuse(end_U > length_U, path, 0, "the training part is longer than the items of the user; train_end is", end_U)
    for name, at_U, min_U in (("valid_at", valid_U, end_U), ("test_at", test_U, np.maximum(end_U, valid_U + 1))):
        wrong = (at_U != -1) & ((at_U < np.maximum(min_U, 1)) | (at_U >= length_U))
        _refuse(wrong, path, 0, f"a target comes after the training part and is not the first item; {name} is", at_U)
        user_U[name] = at_U
    user_U["train_end"] = end_U
    return user_U


def _check_items(items: pa.Table, attributes: int, path: Path) -> pa.Table:
    """The items with their optional columns; ids of attributes are checked."""
    columns = {"item": pa.array(np.arange(1, len(items) + 1), pa.uint32()), "raw_id": items["raw_id"]}
    for name in ("title", "text", "attributes"):
        given = items[name].combine_chunks() if name in items.column_names else None
        columns[name] = pa.nulls(len(items), ITEMS.field(name).type) if given is None else given
    columns["text"] = pc.fill_null(columns["text"], "")
    columns["attributes"] = pc.fill_null(columns["attributes"], pa.scalar([], columns["attributes"].type))
    ids = pc.list_flatten(columns["attributes"])
    if len(ids) and (ids.null_count or pc.min(ids).as_py() < 1 or pc.max(ids).as_py() > attributes):
        raise DataError(
            f"{path}: 'attributes' holds ids from {pc.min(ids)} to {pc.max(ids)}, and there are {attributes:,} "
            "attributes, counted from 1.",
            hint="Give the table of attributes too, or leave the column out",
        )
    counts = {"train_count": items["train_count"]} if "train_count" in items.column_names else {}
    return pa.table(columns | counts)
