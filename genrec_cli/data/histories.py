"""Histories on disk: arrays that training maps into memory.

``histories/items.npy`` holds the items of all interactions in order (uint32), ``histories/times.npy`` their times in
seconds (int64; absent if the data have no times), ``histories/users.npy`` one record per user. They repeat columns of
the Parquet tables, which have no random access.
"""

from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrec_cli.data.schema import INTERACTIONS
from genrec_cli.errors import DataError

FOLDER = "histories"
ITEMS_FILE, TIMES_FILE, USERS_FILE = "items.npy", "times.npy", "users.npy"
ITEM, TIME = np.dtype("<u4"), np.dtype("<i8")
USER = np.dtype([("offset", "<i8"), ("length", "<i4"), ("train_end", "<i4"), ("valid_at", "<i4"), ("test_at", "<i4")])
"""Record of a user: the columns of ``users.parquet`` that locate the items of the user."""
CHUNK = 2**20
"""Records per step of a pass over all users."""
POSITIONS = 0.9
"""Times count as positions if at least this fraction of the users begins at 0 or 1."""
DAMAGE = (OSError, EOFError, ValueError, TypeError, SyntaxError, OverflowError, TokenError)
"""Errors of numpy for a damaged file."""
HINT = "Run genrec preprocess --force"


def write_interactions(
    folder: Path, blocks: Iterator[pa.RecordBatch], user_U: np.ndarray, items: int, *, times: bool
) -> np.ndarray:
    """Write ``interactions.parquet`` and the histories of a data artifact, block by block.

    Args:
        blocks: ``user, item, time`` in their final order.
        user_U: one record (:data:`USER`) per user, by id.
        items: count of items.
        times: whether the column ``time`` holds times; False: it holds positions, and ``times.npy`` is not written.

    Returns:
        ``train_count_I``: count of the training interactions of each item.
    """
    (folder / FOLDER).mkdir()
    np.save(folder / FOLDER / USERS_FILE, user_U)
    rows = int(user_U["length"].sum())
    opened = np.lib.format.open_memmap
    arrays = {"item": opened(folder / FOLDER / ITEMS_FILE, "w+", ITEM, (rows,))}
    if times:
        arrays["time"] = opened(folder / FOLDER / TIMES_FILE, "w+", TIME, (rows,))
    train_end_U = user_U["offset"] + user_U["train_end"]
    train_count_I, place = np.zeros(items, np.int64), 0
    with pq.ParquetWriter(folder / "interactions.parquet", INTERACTIONS, compression="zstd") as file:
        for block in blocks:
            table = pa.Table.from_batches([block]).select(INTERACTIONS.names).cast(INTERACTIONS)
            for column, array in arrays.items():
                array[place : place + len(table)] = table.column(column).to_numpy()
            user, item = (table.column(name).to_numpy().astype(np.int64) for name in ("user", "item"))
            in_training = np.arange(place, place + len(table)) < train_end_U[user - 1]
            train_count_I += np.bincount(item[in_training] - 1, minlength=items)
            file.write_table(table)
            place += len(table)
    for array in arrays.values():
        array.flush()
    return train_count_I


def read_histories(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """``item_N``, ``user_U`` and ``time_N`` (seconds since 1970; None without times) of a data artifact, memory-mapped.

    Raises:
        DataError: a file is damaged or does not fit the others.
    """
    item_N, user_U = _mapped(folder / FOLDER / ITEMS_FILE, ITEM), _mapped(folder / FOLDER / USERS_FILE, USER)
    times = folder / FOLDER / TIMES_FILE
    time_N = _mapped(times, TIME) if times.exists() else None
    if time_N is not None and len(time_N) != len(item_N):
        raise DataError(f"{times} holds {len(time_N):,} times of {len(item_N):,} items.", hint=HINT)
    return item_N, user_U, time_N


def _mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    """The array of a file, mapped read-only; an empty one, which cannot be mapped, is loaded."""
    try:
        with path.open("rb") as stream:
            np.lib.format.read_magic(stream)
            empty = 0 in np.lib.format.read_array_header_1_0(stream)[0]
        array = np.asarray(np.load(path, mmap_mode=None if empty else "r", allow_pickle=False))
    except DAMAGE as error:
        raise DataError(f"{path} is damaged: {error}.", hint=HINT) from None
    if array.dtype != dtype or array.ndim != 1:
        raise DataError(f"{path} does not hold histories: it holds {array.dtype} {array.shape}.", hint=HINT)
    return array
