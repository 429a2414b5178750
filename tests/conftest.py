"""Shared fixtures: small catalogues and histories made in memory, and a small finished workspace."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from genrec_cli.data.batch import Batch
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import Histories, Rows
from genrec_cli.testing import make_catalog, make_histories

if TYPE_CHECKING:
    import polars as pl

# A worker of pytest-xdist has COLUMNS, which makes tables narrow; the settings of a user are not those of the tests.
for name in [name for name in os.environ if name == "COLUMNS" or name.startswith("GENREC_")]:
    del os.environ[name]


def whole(blocks: "Iterable[pl.DataFrame]") -> "pl.DataFrame":
    """``user, item, time (seconds), row`` of a source's blocks; times finer than seconds number the rows anew."""
    import polars as pl  # the tests that need CUDA run where there is none

    rows = pl.concat([pl.DataFrame(schema={"user": pl.String, "item": pl.String, "micros": pl.Int64, "row": pl.Int64}),
                      *blocks])  # fmt: skip
    time = rows["micros"] // 1_000_000
    if (time * 1_000_000 != rows["micros"]).any():
        rows = rows.sort("micros", "row").with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64))
        time = rows["micros"] // 1_000_000
    return rows.select("user", "item", time.alias("time"), "row")


def recent_batch(lengths: Sequence[int], *, items: int = 30, max_length: int = 8) -> Batch:
    """One training row per user with the last items, as a batch."""
    histories = make_histories(lengths, items)
    rows = Rows.of(histories, max_length=max_length, windows="recent")
    return rows.batch(histories, np.arange(len(rows)))


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """A function that sets the number of torch's threads until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def catalog() -> Catalog:
    return make_catalog()


@pytest.fixture
def histories() -> Histories:
    return make_histories([5, 9, 3, 14, 6, 4, 7, 12], 30)


@pytest.fixture
def rows(histories: Histories) -> Rows:
    return Rows.of(histories, max_length=8, windows="sliding")
