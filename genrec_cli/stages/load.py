"""Read the catalogue of a run, and match searches with models before any work."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F

from genrec_cli import registry
from genrec_cli.artifacts import Artifact
from genrec_cli.config import Section
from genrec_cli.data.catalog import Catalog, blank_codes
from genrec_cli.data.codes_table import CodesTable
from genrec_cli.data.labels import LABELS, Labels
from genrec_cli.data.schema import ATTRIBUTES, ITEMS, read_table
from genrec_cli.data.vectors import read_vectors
from genrec_cli.errors import DataError, UsageError


def load_catalog(inputs: Mapping[str, Artifact], needs: Collection[str] = ()) -> Catalog:
    """The catalogue of ``data``, with what the model needs of codes, vectors and attributes."""
    data, codes = inputs["data"].path, inputs.get("codes")
    items = read_table(data / "items.parquet", ITEMS, ["train_count", "attributes"])
    train_count_I = torch.from_numpy(items["train_count"].to_numpy().astype("int64"))
    more: dict[str, Any] = {"users": pq.read_metadata(data / "users.parquet").num_rows}
    if "vectors" in needs:
        more["vector_RE"] = F.pad(torch.from_numpy(read_vectors(inputs["vectors"].path)), (0, 0, 1, 0))
    if "attributes" in needs:
        names = read_table(data / "attributes.parquet", ATTRIBUTES, ["name"])["name"].combine_chunks()
        field_X, fields = fields_of(names)
        attribute_RA = pad_lists(items["attributes"].combine_chunks())
        more |= {"attribute_RA": attribute_RA, "attributes": len(names)}
        more |= {"field_RA": F.pad(field_X, (1, 0), value=-1)[attribute_RA], "fields": fields}
    catalog = Catalog(len(train_count_I), train_count_I, **more)
    if codes is None:
        return catalog
    table = CodesTable.read(codes.path)
    items, digits = table.codes_IK.shape
    if items != catalog.items:
        raise DataError(f"{codes.path} holds codes of {items:,} items, the data {catalog.items:,}.")
    code_RK = blank_codes(items, digits, table.codewords)
    np.copyto(code_RK.numpy()[1:], table.codes_IK)
    return replace(catalog, code_RK=code_RK, codewords=table.codewords, shared=table.shared)


def load_labels(data: Artifact) -> Labels | None:
    """The planted labels beside the raw files of ``data``; None if there are none."""
    raw = data.manifest["inputs"].get("raw")
    path = raw and data.path.parents[2] / raw["path"] / LABELS
    return Labels(path, data.path) if path and path.is_file() else None


def pad_lists(lists: pa.ListArray) -> torch.Tensor:
    """``attribute_RA``: row 0 is zero, row i holds the ids of item i, padded with 0."""
    length_I = lists.value_lengths().fill_null(0).to_numpy()
    padded_RA = torch.zeros(len(lists) + 1, max(int(length_I.max(initial=0)), 1), dtype=torch.int64)
    row_X = np.repeat(np.arange(1, len(lists) + 1), length_I)
    column_X = np.arange(len(row_X)) - np.repeat(np.cumsum(length_I) - length_I, length_I)
    padded_RA[row_X, column_X] = torch.from_numpy(lists.flatten().to_numpy().astype("int64"))
    return padded_RA


def fields_of(names: pa.StringArray) -> tuple[torch.Tensor, tuple[str, ...]]:
    """The field of each attribute, as its place among the names of fields: ``brand: Canon`` is of the field brand."""
    parts = pc.split_pattern(pc.fill_null(names, ""), ":", max_splits=1)
    coded = pc.list_element(parts, 0).dictionary_encode()
    return torch.from_numpy(coded.indices.to_numpy().astype("int64")), tuple(coded.dictionary.to_pylist())


def matching_search(name: str, model: str, hint: str) -> Any:
    """The class of a search for a model, both by name.

    Raises:
        UsageError: the model lacks the scorer interface of the search; ``hint`` is the hint of the error.
    """
    search = registry.load("search", name)
    if not issubclass(registry.load("model", model), search.interface):
        raise UsageError(f"The search '{name}' does not fit the model '{model}'.", hint=hint)
    return search


def refuse_longer(option: str, cutoff: int, search: Any, settings: Section, *, hint: str | None = None) -> None:
    """Raise UsageError for a cutoff beyond the lists of a search; ``option`` is the text that sets the cutoff."""
    longest = search.longest(settings)
    if longest is not None and cutoff > longest:
        message = f"{option} is more than these settings of the search can list, which is {longest}."
        raise UsageError(message, hint=hint or f"--set search.beams={cutoff}")
