"""Shared fixtures: small catalogues and histories made in memory, and a small finished workspace."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from genrec_cli.data.catalog import Catalog
from genrec_cli.data.sequences import Histories, Rows

if TYPE_CHECKING:
    import polars as pl


def make_histories(lengths: list[int], items: int, *, seed: int = 0) -> Histories:
    """Leave-one-out histories of random items."""
    random = np.random.default_rng(seed)
    length = np.array(lengths)
    offset = np.cumsum(length) - length
    item = random.integers(1, items + 1, int(length.sum())).astype("uint32")
    return Histories(item, offset, length, length - 2, length - 2, length - 1)


def make_catalog(
    items: int = 30, digits: int = 4, codewords: int = 8, *, seed: int = 0, padded: bool = False, shared: bool = False
) -> Catalog:
    """Random codes, some items of equal ones; ``padded``: items of 1 to K codes; ``shared``: digits mean the same."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, codewords, (items, digits), generator=generator)
    if padded:
        length = torch.randint(1, digits + 1, (items, 1), generator=generator)
        codes[torch.arange(digits) >= length] = -1
    codes[1] = codes[0]
    return Catalog.of(torch.arange(items), codes, codewords, shared=shared)


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


@pytest.fixture
def catalog() -> Catalog:
    return make_catalog()


@pytest.fixture
def histories() -> Histories:
    return make_histories([5, 9, 3, 14, 6, 4, 7, 12], 30)


@pytest.fixture
def rows(histories: Histories) -> Rows:
    return Rows.of(histories, max_length=8, windows="sliding")
