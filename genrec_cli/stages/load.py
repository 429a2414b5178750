"""Reads a catalogue, and matches searches with models before any work."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F

from genrec_cli import registry
from genrec_cli.artifacts import Artifact
from genrec_cli.config import Section
from genrec_cli.data.catalog import Catalog, blank_codes
from genrec_cli.data.codes_table import CodesTable
from genrec_cli.data.schema import ITEMS, read_table
from genrec_cli.data.vectors import read_vectors
from genrec_cli.errors import DataError, UsageError


def load_catalog(inputs: Mapping[str, Artifact], needs: Collection[str] = ()) -> Catalog:
    """The catalogue of a run's inputs: ``data``, and what the model needs of ``codes``, ``vectors`` and attributes."""
    data, codes = inputs["data"].path, inputs.get("codes")
    items = read_table(data / "items.parquet", ITEMS, ["train_count", "attributes"])
    train_count_I = torch.from_numpy(items["train_count"].to_numpy().astype("int64"))
    more: dict[str, Any] = {"users": pq.read_metadata(data / "users.parquet").num_rows}
    if "vectors" in needs:
        more["vector_RE"] = F.pad(torch.from_numpy(read_vectors(inputs["vectors"].path)), (0, 0, 1, 0))
    if "attributes" in needs:
        more["attribute_RA"] = pad_lists(items["attributes"].combine_chunks())
        more["attributes"] = pq.read_metadata(data / "attributes.parquet").num_rows
    catalog = Catalog(len(train_count_I), train_count_I, **more)
    return catalog if codes is None else with_codes(catalog, codes)


def pad_lists(lists: pa.ListArray) -> torch.Tensor:
    """``attribute_RA`` of a column of lists: a row of zeros, then each item's ids, padded with 0."""
    length_I = lists.value_lengths().fill_null(0).to_numpy()
    padded_RA = torch.zeros(len(lists) + 1, max(int(length_I.max(initial=0)), 1), dtype=torch.int64)
    row_X = np.repeat(np.arange(1, len(lists) + 1), length_I)
    column_X = np.arange(len(row_X)) - np.repeat(np.cumsum(length_I) - length_I, length_I)
    padded_RA[row_X, column_X] = torch.from_numpy(lists.flatten().to_numpy().astype("int64"))
    return padded_RA


def with_codes(catalog: Catalog, codes: Artifact) -> Catalog:
    """The catalogue with the codes of an artifact."""
    table = CodesTable.read(codes.path)
    if len(table.codes_IK) != catalog.items:
        raise DataError(f"{codes.path} holds codes of {len(table.codes_IK):,} items, the data {catalog.items:,}.")
    code_RK = blank_codes(*table.codes_IK.shape, table.codewords)
    np.copyto(code_RK.numpy()[1:], table.codes_IK)
    return replace(catalog, code_RK=code_RK, codewords=table.codewords, shared=table.shared)


def matching_search(name: str, model: str, hint: str) -> Any:
    """The class of a search that fits a model, both by name.

    Raises:
        UsageError: the model lacks the scorer interface that the search asks for; ``hint`` says what to do about it.
    """
    search = registry.load("search", name)
    if not issubclass(registry.load("model", model), search.interface):
        raise UsageError(f"The search '{name}' does not fit the model '{model}'.", hint=hint)
    return search


def refuse_longer(asked: str, cutoff: int, search: Any, settings: Section, *, hint: str | None = None) -> None:
    """A usage error for a cutoff beyond the lists of a search.

    Args:
        asked: the words that ask for it.
    """
    longest = search.longest(settings)
    if longest is not None and cutoff > longest:
        raise UsageError(
            f"{asked} is more than these settings of the search can list, which is {longest}.",
            hint=hint or f"--set search.beams={cutoff}",
        )
