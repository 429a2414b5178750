"""Histories on disk: what training reads, as plain arrays that are mapped into memory and never loaded.

``histories/items.npy`` holds the items of all interactions in their order (uint32), ``histories/users.npy`` one
record a user. They repeat columns of the Parquet tables, because those cannot be read from the middle.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrec_cli.data.schema import INTERACTIONS
from genrec_cli.errors import DataError

FOLDER = "histories"
ITEMS_FILE, USERS_FILE = "items.npy", "users.npy"
ITEM = np.dtype("<u4")
USER = np.dtype([("offset", "<i8"), ("length", "<i4"), ("train_end", "<i4"), ("valid_at", "<i4"), ("test_at", "<i4")])
"""A user's record: the columns of ``users.parquet`` that place their items."""
CHUNK = 2**20
"""Records looked at together where all users are gone through."""


def write_interactions(folder: Path, blocks: Iterator[pa.RecordBatch], user_U: np.ndarray, items: int) -> np.ndarray:
    """Write ``interactions.parquet`` and the histories of a data artifact, block by block.

    Args:
        blocks: ``user, item, time`` in their final order.
        user_U: a record (:data:`USER`) a user, in the order of their ids.
        items: number of items.

    Returns:
        ``train_count_I``: how often each item stands in the training part.
    """
    (folder / FOLDER).mkdir()
    user_file = np.lib.format.open_memmap(folder / FOLDER / USERS_FILE, "w+", USER, user_U.shape)
    user_file[:] = user_U
    rows = int(user_U["length"].sum())
    item_file = np.lib.format.open_memmap(folder / FOLDER / ITEMS_FILE, "w+", ITEM, (rows,))
    train_end_U = user_U["offset"] + user_U["train_end"]
    train_count_I, place = np.zeros(items, np.int64), 0
    with pq.ParquetWriter(folder / "interactions.parquet", INTERACTIONS, compression="zstd") as file:
        for block in blocks:
            table = pa.Table.from_batches([block]).select(INTERACTIONS.names).cast(INTERACTIONS)
            user, item = (table.column(name).to_numpy() for name in ("user", "item"))
            item_file[place : place + len(item)] = item
            trained = np.arange(place, place + len(item)) < train_end_U[user.astype(np.int64) - 1]
            train_count_I += np.bincount(item[trained].astype(np.int64) - 1, minlength=items)
            file.write_table(table)
            place += len(item)
    item_file.flush()
    user_file.flush()
    return train_count_I


def read_histories(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """``item_N`` and ``user_U`` of a data artifact, mapped from its files."""
    item_N, user_U = (_mapped(folder / FOLDER / name) for name in (ITEMS_FILE, USERS_FILE))
    if item_N.dtype != ITEM or user_U.dtype != USER or item_N.ndim != 1 or user_U.ndim != 1:
        raise DataError(f"{folder / FOLDER} does not hold histories.", hint="Run genrec preprocess --force")
    return item_N, user_U


def _mapped(path: Path) -> np.ndarray:
    """The array of a file, mapped into memory read-only; an empty one cannot be mapped."""
    try:
        with path.open("rb") as stream:
            np.lib.format.read_magic(stream)
            empty = 0 in np.lib.format.read_array_header_1_0(stream)[0]
        return np.asarray(np.load(path, mmap_mode=None if empty else "r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is damaged: {error}.", hint="Run genrec preprocess --force") from None
