"""Large logs for measurements: rows in order of time, histories of many lengths, items by Zipf's law.

The synthetic shop is richer and slower; here only the sizes matter. Same numbers, same bytes.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BLOCK = 2**20
"""Rows, or numbers of a matrix, made at a time."""
MEAN_LENGTH = 12
FIRST, LAST = 1_500_000_000, 1_600_000_000
"""Seconds of the first and last interaction."""
LOG = pa.schema([("user_id", pa.int64()), ("item_id", pa.int64()), ("timestamp", pa.int64())])


def write_log(path: Path, interactions: int, items: int, *, seed: int = 0) -> None:
    """A Parquet log of so many rows.

    A user at share x of the user list acts in proportion to x to the power of -1/3, an item of rank r is taken
    in proportion to 1/r. Some are too rare for a 5-core, as in real logs.
    """
    random = np.random.default_rng(seed)
    users = max(interactions // MEAN_LENGTH, 1)
    temporary = path.with_suffix(".part")
    with pq.ParquetWriter(temporary, LOG) as file:
        for begin in range(0, interactions, BLOCK):
            place = np.arange(begin, min(begin + BLOCK, interactions))
            user = (users * random.random(len(place)) ** 1.5).astype(np.int64)
            item = np.minimum(np.power(float(items), random.random(len(place))).astype(np.int64), items)
            time = FIRST + (place * ((LAST - FIRST) / interactions)).astype(np.int64)
            file.write_table(pa.table([user, item, time], schema=LOG))
    temporary.replace(path)


def write_vectors(path: Path, items: int, width: int, *, seed: int = 0) -> None:
    """A random float32 matrix as .npy; row i belongs to item i + 1."""
    random = np.random.default_rng(seed)
    vec_ID = np.lib.format.open_memmap(path, "w+", np.float32, (items, width))
    rows = max(BLOCK // width, 1)
    for begin in range(0, items, rows):
        block = vec_ID[begin : begin + rows]
        block[:] = random.standard_normal(block.shape, dtype=np.float32)
    vec_ID.flush()
