"""Your own vectors: a NumPy array or a Parquet table, aligned with the items by their raw ids.

* ``FILE.parquet``: columns ``raw_id`` (string) and ``vector`` (list of numbers), rows in any order.
* ``FILE.npy`` with ``ids`` (a text file, one raw id a line, row by row): rows in any order.
* ``FILE.npy`` alone: row i belongs to row i of ``items.parquet``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from genrec_cli.config import Section
from genrec_cli.errors import DataError, UsageError
from genrec_cli.files import sha256_file

SUFFIXES = (".npy", ".parquet")


class VectorsConfig(Section):
    """``[encoder]`` of vectors."""

    name: Literal["vectors"] = "vectors"
    path: str = Field("", exclude=True)
    """The .npy or .parquet file. Its hash, not its path, is part of the key."""
    ids: str | None = Field(None, exclude=True)
    """Raw ids of the rows of a .npy file, one a line. Its hash, not its path, is part of the key."""


class VectorsEncoder:
    """Reads vectors instead of computing them."""

    Config = VectorsConfig
    frozen: ClassVar[bool] = True
    label = "vectors"

    def __init__(self, config: VectorsConfig) -> None:
        self.config = config
        self.facts: dict[str, object] = {}
        self.path = Path(config.path).expanduser()
        self.ids = Path(config.ids).expanduser() if config.ids else None
        if self.path.suffix not in SUFFIXES:
            raise UsageError(
                f"The encoder 'vectors' needs a .npy or .parquet file, not '{config.path}'.",
                hint="genrec tokenize --encoder FILE.parquet",
            )
        if self.ids and self.path.suffix != ".npy":
            raise UsageError("encoder.ids goes with a .npy file; a Parquet file has its own column 'raw_id'.")
        for file in filter(None, (self.path, self.ids)):
            if not file.is_file():
                raise UsageError(f"There is no file {file}.")

    def external(self) -> Mapping[str, str]:
        """Hashes of the files."""
        ids = {"encoder/ids": sha256_file(self.ids)} if self.ids else {}
        return {"encoder/vectors": sha256_file(self.path), **ids}

    def encode(self, texts: Sequence[str], raw_ids: Sequence[str]) -> np.ndarray:
        """``vec_ID`` in the order of ``raw_ids``; rows of other items are left out.

        Raises:
            DataError: not a matrix of numbers, a wrong number of rows, a raw id twice or missing.
        """
        if self.path.suffix == ".parquet":
            found, vec_ND = _read_parquet(self.path)
        else:
            vec_ND = _read_npy(self.path)
            found = _read_lines(self.ids) if self.ids else None
            rows, owner = (len(raw_ids), "items") if found is None else (len(found), f"lines in {self.ids}")
            if len(vec_ND) != rows:
                raise DataError(f"{self.path} has {len(vec_ND)} rows, but there are {rows} {owner}.")
        if found is not None:
            vec_ND = vec_ND[_rows_of(raw_ids, found, self.ids or self.path)]
        return np.ascontiguousarray(vec_ND, dtype=np.float32)


def _read_npy(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} is not a NumPy array of numbers: {error}.") from None
    if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind not in "fiu":
        raise DataError(f"{path} must be a matrix of numbers, not {array.dtype} of shape {array.shape}.")
    return array


def _read_lines(path: Path) -> pa.Array:
    try:
        return pa.array(path.read_text(encoding="utf-8").splitlines(), pa.string())
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from None


def _read_parquet(path: Path) -> tuple[pa.Array, np.ndarray]:
    """Raw ids and ``vec_ND``."""
    try:
        names = pq.read_schema(path).names
        if missing := {"raw_id", "vector"} - set(names):
            raise DataError(f"{path} has no column '{min(missing)}'; it has: {', '.join(names)}.")
        table = pq.read_table(path, columns=["raw_id", "vector"])
        ids = table["raw_id"].cast(pa.string()).combine_chunks()
        lists = table["vector"].cast(pa.list_(pa.float32())).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: {error}.", hint="Columns: raw_id (string), vector (list of numbers)") from None
    lengths = pc.value_counts(pc.list_value_length(lists))
    sizes = [entry["values"] for entry in lengths.to_pylist()]
    if ids.null_count or len(sizes) != 1 or not sizes[0]:
        raise DataError(f"{path}: no raw_id may be null and all vectors need one width, not {sizes[:5]}.")
    return ids, lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, sizes[0])


def _rows_of(raw_ids: Sequence[str], found: pa.Array, where: Path) -> np.ndarray:
    """The row of each raw id. The error names ids that stand twice or are missing."""
    counts = pc.value_counts(found)
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise DataError(f"{where} holds {len(twice)} raw id(s) more than once: {_some(twice)}.")
    wanted = pa.array(raw_ids, pa.string())
    row_I = pc.index_in(wanted, value_set=found)
    if row_I.null_count:
        missing = wanted.filter(row_I.is_null())
        raise DataError(f"{where} has no vector for {len(missing)} of {len(wanted)} items: {_some(missing)}.")
    return row_I.to_numpy()


def _some(names: pa.Array) -> str:
    shown = ", ".join(names.slice(0, 5).to_pylist())
    return shown + (", ..." if len(names) > 5 else "")
