"""What later stages need of a finished run: its catalogue, its model, its histories, its decoder."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from genrec_cli import registry
from genrec_cli.artifacts import Artifact, Workspace
from genrec_cli.config import Section, validate
from genrec_cli.data.catalog import NO_CODE, Catalog, blank_codes
from genrec_cli.data.schema import CODE_PADDING, ITEMS, codes_schema, read_table
from genrec_cli.data.sequences import Histories
from genrec_cli.engine.checkpoint import BEST, load_weights
from genrec_cli.engine.ranking import Ranker, make_ranker
from genrec_cli.errors import DataError, UsageError
from genrec_cli.models.base import Model


def load_catalog(data: Artifact, codes: Artifact | None) -> Catalog:
    """The catalogue of a data artifact, with codes where they are given."""
    counts = read_table(data.path / "items.parquet", ITEMS, ["train_count"]).column(0).to_numpy()
    train_count = torch.from_numpy(counts.astype("int64"))
    if codes is None:
        return Catalog(len(train_count), train_count)
    settings = codes.config["tokenizer"]
    digits = settings["codebooks"] + (settings.get("collisions") == "digit")
    codewords, shared = settings["codewords"], settings.get("shared", False)
    column = read_table(codes.path / "codes.parquet", codes_schema(digits), ["codes"]).column(0).combine_chunks()
    stored_IK = column.flatten().to_numpy().reshape(-1, digits)
    if len(stored_IK) != len(train_count):
        raise DataError(f"{codes.path} holds codes of {len(stored_IK):,} items, the data {len(train_count):,}.")
    code_RK = blank_codes(*stored_IK.shape, codewords)
    np.copyto(code_RK.numpy()[1:], stored_IK, casting="unsafe")
    if shared:
        missing_IK = stored_IK == CODE_PADDING
        if missing_IK.all(1).any():
            raise DataError(f"{codes.path / 'codes.parquet'} holds an item without any code.")
        code_RK[1:].masked_fill_(torch.from_numpy(missing_IK), NO_CODE)
        stored_IK = np.where(missing_IK, 0, stored_IK)
    if (highest := int(stored_IK.max())) >= codewords:
        raise DataError(f"{codes.path / 'codes.parquet'} holds the code {highest}, but V is {codewords}.")
    return Catalog(len(train_count), train_count, code_RK, codewords, shared)


def on_device(catalog: Catalog, device: torch.device) -> Catalog:
    """The same catalogue with its tensors on a device."""
    code_RK = None if catalog.code_RK is None else catalog.code_RK.to(device)
    return replace(catalog, train_count_I=catalog.train_count_I.to(device), code_RK=code_RK)


def load_run(ws: Workspace, run: Artifact, device: torch.device) -> tuple[Model, Catalog, Histories]:
    """A trained model, its catalogue and the histories it was trained on, ready to decode."""
    data = ws.input(run, "data")
    codes = ws.input(run, "codes") if "codes" in run.manifest["inputs"] else None
    catalog = on_device(load_catalog(data, codes), device)
    settings = dict(run.config["model"])
    kind = registry.load("model", settings.pop("name"))
    config = validate(kind.Config, "model", settings)
    model = kind(config, catalog, max_length=run.config["train"]["max_length"]).to(device)
    load_weights(run.path / BEST, model)
    return model.eval(), catalog, Histories.read(data.path)


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
