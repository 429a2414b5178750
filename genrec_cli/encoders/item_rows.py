"""Rows of numbers from the user's file, one per item: a Parquet table with raw ids, or a NumPy array.

* ``FILE.parquet``: a column of raw ids and a column of lists of numbers of the same length; rows in any order.
* ``FILE.npy`` with a text file of raw ids: line i is the raw id of row i; rows in any order.
* ``FILE.npy`` alone: row i belongs to row i of ``items.parquet``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from genrec_cli import console
from genrec_cli.errors import DataError, UsageError

SUFFIXES = (".npy", ".parquet")
MALFORMED = (ValueError, TypeError, LookupError, SyntaxError, TokenError, EOFError, OSError, OverflowError)
MALFORMED_OR_LARGE = (*MALFORMED, MemoryError, RecursionError)
"""Exceptions of NumPy for a malformed header, or one that exceeds the file."""


@dataclass(frozen=True)
class ItemRows:
    """A file of rows and the names of its columns."""

    path: Path
    column: str
    """Column of the lists in a Parquet file; also the noun of messages."""
    id_columns: tuple[str, ...] = ("raw_id",)
    """Possible names of the column of raw ids; the first that exists is read."""
    ids: Path | None = None
    """Raw ids of the rows of a .npy file."""
    integers: bool = False
    """Whether only whole numbers are allowed."""

    def __post_init__(self) -> None:
        """Raises UsageError for a missing file, a folder, or another suffix."""
        if self.path.suffix not in SUFFIXES:
            raise UsageError(f"A file of {self.column} is a .npy or .parquet file, not '{self.path}'.")
        if self.ids and self.path.suffix != ".npy":
            raise UsageError("A list of ids goes with a .npy file; a Parquet file has a column of raw ids.")
        for file in filter(None, (self.path, self.ids)):
            if not exists(file, folder=False):
                raise UsageError(f"There is no file {file}.")

    def read(self, raw_ids: Sequence[str]) -> np.ndarray:
        """The rows in the order of ``raw_ids``. Rows of other items are dropped, with a message.

        Raises:
            DataError: not a matrix of numbers, a wrong number of rows, or an item twice or missing.
        """
        if self.path.suffix == ".parquet":
            file_ids, row_NC = self._parquet()
            return row_NC[self._rows_of(raw_ids, file_ids)]
        row_NC, file_ids = self._npy(), self._lines(self.ids) if self.ids else None
        rows, owner = (len(raw_ids), "items") if file_ids is None else (len(file_ids), f"lines in {self.ids}")
        if len(row_NC) != rows:
            raise DataError(f"{self.path} has {len(row_NC)} rows, but there are {rows} {owner}.")
        return row_NC if file_ids is None else row_NC[self._rows_of(raw_ids, file_ids)]

    def _npy(self) -> np.ndarray:
        try:
            array = np.lib.format.open_memmap(self.path, mode="r")
        except MALFORMED_OR_LARGE as error:
            raise DataError(f"{self.path} is not a NumPy array of numbers: {error}.") from None
        if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind not in ("iu" if self.integers else "fiu"):
            numbers = "whole numbers" if self.integers else "numbers"
            raise DataError(f"{self.path} must be a matrix of {numbers}, not {array.dtype} of shape {array.shape}.")
        return array

    def _lines(self, path: Path) -> pa.Array:
        try:
            return pa.array(path.read_text(encoding="utf-8").splitlines(), pa.string())
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from None

    def _parquet(self) -> tuple[pa.Array, np.ndarray]:
        """Raw ids and rows."""
        try:
            names = pq.read_schema(self.path).names
            id_column = next((name for name in self.id_columns if name in names), self.id_columns[0])
            for name in (id_column, self.column):
                if names.count(name) != 1:
                    many = "no column" if name not in names else f"{names.count(name)} columns"
                    raise DataError(f"{self.path} has {many} '{name}'; it has: {', '.join(names)}.")
            table = pq.read_table(self.path, columns=[id_column, self.column])
            ids = table[id_column].cast(pa.string()).combine_chunks()
            lists = table[self.column].combine_chunks()
            value_type = getattr(lists.type, "value_type", None)
            if self.integers and not (value_type and pa.types.is_integer(value_type)):
                raise DataError(f"{self.path}: '{self.column}' must hold lists of whole numbers, not {lists.type}.")
            lists = lists.cast(pa.list_(pa.int64() if self.integers else pa.float32()))
        except (pa.ArrowException, OSError) as error:
            hint = f"Columns: {self.id_columns[0]} (string), {self.column} (list of numbers)"
            raise DataError(f"{self.path}: {error}.", hint=hint) from None
        sizes = [entry["values"] for entry in pc.value_counts(pc.list_value_length(lists)).to_pylist()]
        if ids.null_count or len(sizes) != 1 or not sizes[0] or (self.integers and lists.flatten().null_count):
            lists_of = f"all lists of '{self.column}' need one length"
            raise DataError(f"{self.path}: nothing may be null and {lists_of}, not {sizes[:5]}.")
        return ids, lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, sizes[0])

    def _rows_of(self, raw_ids: Sequence[str], file_ids: pa.Array) -> np.ndarray:
        """The row of each raw id. Raises DataError for duplicate and missing ids."""
        file, counts = self.ids or self.path, pc.value_counts(file_ids)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        if len(twice):
            raise DataError(f"{file} holds {len(twice)} raw id(s) more than once: {_some(twice)}.")
        item_ids = pa.array(raw_ids, pa.string())
        row_I = pc.index_in(item_ids, value_set=file_ids)
        if row_I.null_count:
            missing = item_ids.filter(row_I.is_null())
            items = f"{len(missing)} of {len(item_ids)} items: {_some(missing)}"
            raise DataError(f"{file} has no {self.column} for {items}.")
        if extra := len(file_ids) - len(item_ids):
            console.say(f"{file}: {extra:,} rows belong to no item of these data and are dropped")
        return row_I.to_numpy()


def exists(path: Path, *, folder: bool) -> bool:
    """Whether the path is a folder or a regular file; false for a name that is too long for the file system."""
    try:
        return path.is_dir() if folder else path.is_file()
    except OSError:
        return False


def user_path(name: str) -> Path:
    """The path with ``~`` replaced by the home folder, if the user exists."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def _some(names: pa.Array) -> str:
    return ", ".join(names.slice(0, 5).to_pylist()) + (", ..." if len(names) > 5 else "")
