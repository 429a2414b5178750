"""What later stages need of a finished run: its catalogue, its model, its histories, its decoder."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from genrec_cli import registry
from genrec_cli.artifacts import Artifact, Workspace
from genrec_cli.config import Section, validate
from genrec_cli.data.catalog import Catalog, blank_codes
from genrec_cli.data.codes_table import CodesTable
from genrec_cli.data.schema import ITEMS, read_table
from genrec_cli.data.sequences import Histories
from genrec_cli.engine.checkpoint import BEST, load_weights
from genrec_cli.engine.ranking import Ranker, make_ranker
from genrec_cli.errors import DataError, UsageError
from genrec_cli.models.base import Model
from genrec_cli.stages.vectors import read_vectors


def load_catalog(inputs: Mapping[str, Artifact], needs: Collection[str] = ()) -> Catalog:
    """The catalogue of a run's inputs: ``data``, and what the model needs of ``codes``, ``vectors`` and attributes."""
    data, codes = inputs["data"].path, inputs.get("codes")
    items = read_table(data / "items.parquet", ITEMS, ["train_count", "attributes"])
    train_count_I = torch.from_numpy(items["train_count"].to_numpy().astype("int64"))
    more: dict[str, Any] = {"users": pq.read_metadata(data / "users.parquet").num_rows}
    if "vectors" in needs:
        stored_IE = load_file(inputs["vectors"].path / "vectors.safetensors")["vectors"]
        more["vector_RE"] = F.pad(stored_IE.float(), (0, 0, 1, 0))
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


def load_run(ws: Workspace, run: Artifact, device: torch.device) -> tuple[Model, Catalog, Histories]:
    """A trained model, its catalogue and the histories it was trained on, ready to decode."""
    settings = dict(run.config["model"])
    kind = registry.load("model", settings.pop("name"))
    inputs = {name: ws.input(run, name) for name in run.manifest["inputs"] if name != "init"}
    catalog = load_catalog(inputs, kind.needs).to(device)
    config = validate(kind.Config, "model", settings)
    model = kind(config, catalog, max_length=run.config["train"]["max_length"]).to(device)
    load_weights(run.path / BEST, model)
    return model.eval(), catalog, Histories.read(inputs["data"].path, times="times" in kind.needs)


def matching_decoder(name: str, model: str, hint: str) -> Any:
    """The class of a decoder that can decode a model, both by name.

    Raises:
        UsageError: the model lacks the face that the decoder asks for; ``hint`` says what to do about it.
    """
    decoder = registry.load("decoder", name)
    if not issubclass(registry.load("model", model), decoder.face):
        raise UsageError(f"The decoder '{name}' cannot decode the model '{model}'.", hint=hint)
    return decoder


def own_decoder(run: Artifact) -> str:
    """Name of the decoder that a run was validated with."""
    return run.config.get("decoder", {}).get("name", "exhaustive")


def own_search(run: Artifact, layer: Mapping[str, Any] | None = None) -> tuple[Any, Section]:
    """The decoder that a run was validated with and its settings, those of ``layer`` in place of the run's."""
    as_trained = {name: value for name, value in run.config.get("decoder", {}).items() if name != "name"}
    kind = registry.load("decoder", own_decoder(run))
    return kind, validate(kind.Config, "decoder", as_trained | dict(layer or {}))


def own_ranker(run: Artifact, model: Model, catalog: Catalog, layer: Mapping[str, Any] | None = None) -> Ranker:
    """What ranks with a run's model where no other decoder is asked for."""
    return make_ranker(model, catalog, *own_search(run, layer))


def refuse_longer(asked: str, cutoff: int, search: Any, settings: Section, *, hint: str | None = None) -> None:
    """A usage error for a cutoff beyond the lists of a decoder, which nothing could reach.

    Args:
        asked: the words that ask for it.
    """
    if not search.exact and cutoff > (longest := search.longest(settings)):
        raise UsageError(f"{asked} is more than these settings of the decoder can list, which is {longest}.",
                         hint=hint or f"--set decoder.beams={cutoff}")  # fmt: skip
