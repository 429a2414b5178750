"""An earlier run with newer data: new items, new users and longer histories, without another training.

A model that knows items by their codes or vectors alone (``Model.reads_content``) recommends new items, too: their
codes are made by the codebook of the run (``tokenize --codebook-from``). All other models, also code models with free
vectors or counts, know the items that they were trained with: the newer histories are mapped to these ids by raw id,
and data with other items are refused.
"""

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from genrec_cli.artifacts import Artifact, Workspace
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.names import Names
from genrec_cli.data.schema import ITEMS, read_table
from genrec_cli.data.sequences import Histories
from genrec_cli.errors import InputError, UsageError
from genrec_cli.stages.trained import Run


class RunOnData(Run):
    """A run whose histories, and items if its model can read new ones, are those of other data.

    Args:
        data: the data; codes: of these data, by the codebook of the run; None for a model without codes.
        search: ``search`` and ``layer`` of :class:`Run`.

    Raises:
        UsageError: the model cannot read these items.
    """

    def __init__(
        self,
        ws: Workspace,
        artifact: Artifact,
        device: torch.device,
        *,
        data: Artifact,
        codes: Artifact | None,
        **search: Any,
    ) -> None:
        self.new = {"data": data} | ({"codes": codes} if codes else {})
        super().__init__(ws, artifact, device, **search)
        if "attributes" in self.needs:
            raise UsageError(f"The model '{self.model_name}' reads attributes, whose ids differ in other data.")

    @cached_property
    def by_content(self) -> bool:
        return self.kind.reads_content(self.model_config)

    @cached_property
    def inputs(self) -> dict[str, Artifact]:
        old = super().inputs
        if not self.by_content:
            return old
        new = dict(self.new)
        if "vectors" in self.needs:
            new["vectors"] = self._new_vectors(old["vectors"])
        return old | new

    def _new_vectors(self, old: Artifact) -> Artifact:
        """The vectors of the new items. Raises UsageError if another encoder made them."""
        codes, data = self.new.get("codes"), self.new["data"]
        found = self.ws.input(codes, "vectors") if codes else self.ws.find(data.dataset, "vectors", made_from=data)
        models = [artifact.manifest["external"].get("encoder/model") for artifact in (found, old)]
        if found.config != old.config or models[0] != models[1]:
            message = f"{found.path.name} was made by another encoder than {old.path.name}, which the run read."
            raise UsageError(message, hint=f"genrec tokenize --data {data.path.name}    with the encoder of the run")
        return found

    @cached_property
    def names(self) -> Names:
        new = Names.read(self.new["data"].path)
        if self.by_content:
            return new
        old = Names.read(self.data.path)
        return Names(new.user, old.item, old.title)

    @cached_property
    def histories(self) -> Histories:
        new = Histories.read(self.new["data"].path, times="times" in self.needs)
        new = replace(new, unknown_users=True)
        return new if self.by_content else replace(new, item=self._mapped(new.item))

    @cached_property
    def catalog(self) -> Catalog:
        # A model may have a table of users, whose size is that of the training.
        trained_on = self.ws.input(self.artifact, "data").path
        return replace(super().catalog, users=pq.read_metadata(trained_on / "users.parquet").num_rows)

    def _mapped(self, item_N: np.ndarray) -> np.ndarray:
        """Item ids of the new data to those of the run, by raw id. Raises UsageError for an item that the run lacks."""
        new, old = (
            read_table(a.path / "items.parquet", ITEMS, ["raw_id"])["raw_id"] for a in (self.new["data"], self.data)
        )
        place = pc.index_in(new, value_set=old.combine_chunks())
        if place.null_count:
            first = new.filter(pc.is_null(place))[0].as_py()
            message = (
                f"The model '{self.model_name}' of {self.name} knows its items by id, and {place.null_count:,} item(s) "
                f"of {self.new['data'].path.name} are not among them, such as '{first}'."
            )
            hint = f"genrec train --model {self.model_name} --data {self.new['data'].path.name}"
            raise UsageError(message, hint=f"{hint}    trains again; models that read codes alone need no new training")
        id_R = np.concatenate([[0], place.to_numpy() + 1]).astype(item_N.dtype)
        return item_N if np.array_equal(id_R, np.arange(len(id_R))) else id_R[item_N]


def run_on_data(
    ws: Workspace,
    artifact: Artifact,
    device: torch.device,
    *,
    data: str | None,
    codes: str | None,
    **search: Any,
) -> Run:
    """The run with the data and the codes of these names; without names, the run as it was trained. ``search``: the
    options ``search`` and ``layer`` of :class:`Run`.

    Raises:
        UsageError: the codes were not made by the codebook of the run, or the model reads no codes.
        InputError: there are no such codes.
    """
    trained = Run(ws, artifact, device, **search)
    if data is None and codes is None:
        return trained
    old = trained.codes if trained.kind.reads_content(trained.model_config) else None
    if codes and not old:
        problem = "knows its items by id" if trained.codes else "reads no codes"
        raise UsageError(f"The model '{trained.model_name}' of {trained.name} {problem}.", hint="Leave --codes out")
    new_codes = ws.find(artifact.dataset, "codes", codes) if codes else None
    new_data = ws.find(artifact.dataset, "data", data) if data else ws.input(new_codes, "data")  # type: ignore[arg-type]
    if not codes and new_data.digest == trained.data.digest:  # on the day of the training nothing is new
        return trained
    if old:
        new_codes = new_codes or _codes_of(ws, new_data, old)
        if new_codes.manifest["inputs"]["data"]["digest"] != new_data.digest:
            raise UsageError(
                f"{new_codes.path.name} are not codes of {new_data.path.name}.", hint="Name one of the two"
            )
        if _fitted(ws, new_codes).digest != _fitted(ws, old).digest:
            message = (
                f"{new_codes.path.name} was not made by the codebook of {old.path.name}, which {trained.name} reads."
            )
            raise UsageError(message, hint=_how(new_data, old))
    return RunOnData(ws, artifact, device, data=new_data, codes=new_codes, **search)


def _codes_of(ws: Workspace, data: Artifact, old: Artifact) -> Artifact:
    """The codes of some data by the codebook of earlier codes, if there is one such artifact."""
    made = [a for a in ws.all(data.dataset, "codes") if a.manifest["inputs"]["data"]["digest"] == data.digest]
    fitting = [a for a in made if not ws.stale(a) and _fitted(ws, a).digest == _fitted(ws, old).digest]
    if not fitting:
        message = f"There are no codes of {data.path.name} by the codebook of {old.path.name}."
        raise InputError(message, hint=_how(data, old))
    if len(fitting) > 1:
        names = "\n".join(f"  {a.path.name}" for a in fitting)
        raise InputError(f"{len(fitting)} codes of {data.path.name} fit:\n{names}", hint="Choose one with --codes NAME")
    return fitting[0]


def _fitted(ws: Workspace, codes: Artifact) -> Artifact:
    """The codes whose making fitted the codebook: these, or those that ``--codebook-from`` named, and so on."""
    while "codebook" in codes.manifest["inputs"]:
        codes = ws.input(codes, "codebook")
    return codes


def _how(data: Artifact, old: Artifact) -> str:
    return f"genrec tokenize --data {data.path.name} --codebook-from {old.path.name}"
