"""A finished run and all that later stages need of it. Each part is opened once, when it is first asked for."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch

from genrec_cli import registry
from genrec_cli.artifacts import Artifact, Workspace
from genrec_cli.config import Section, validate
from genrec_cli.data.catalog import Catalog
from genrec_cli.data.names import Names
from genrec_cli.data.sequences import EvalBatch, Histories, eval_batches
from genrec_cli.engine.checkpoint import BEST, load_weights
from genrec_cli.engine.ranking import Ranker, make_ranker
from genrec_cli.errors import InputError, UsageError
from genrec_cli.models.base import Model
from genrec_cli.stages.load import load_catalog, matching_search, refuse_longer

CPU = torch.device("cpu")


class Run:
    """A trained model with its catalogue, its histories and a search.

    Args:
        artifact: of the kind "runs".
        search: name of a search; default: the one that the run was validated with.
        layer: settings of the search, in place of those that the run was validated with.

    Raises:
        UsageError: the search cannot work with the model or its codes.
    """

    def __init__(
        self,
        ws: Workspace,
        artifact: Artifact,
        device: torch.device = CPU,
        *,
        search: str | None = None,
        layer: Mapping[str, Any] | None = None,
    ) -> None:
        self.ws, self.artifact, self.device = ws, artifact, device
        self.name, self.model_name = artifact.path.name, artifact.config["model"]["name"]
        self.kind: type[Model] = registry.load("model", self.model_name)
        self.label = self.name.rpartition("-")[0]
        self.max_length: int = artifact.config["train"]["max_length"]
        trained = dict(artifact.config.get("search", {}))
        self.own_search: str = trained.pop("name", "exhaustive")
        self.search_name = search or self.own_search
        hint = f"--search {self.own_search}    is made for it"
        self.search = matching_search(self.search_name, self.model_name, hint)
        settings = trained if self.search_name == self.own_search else {}
        self.settings: Section = validate(self.search.Config, "search", settings | dict(layer or {}))
        if self.search.shared_codes or self.codes is None:
            return
        if self.codes.config["tokenizer"].get("shared"):
            raise UsageError(
                f"The search '{self.search_name}' compares items digit by digit, which means nothing for text.",
                hint="--search exhaustive",
            )

    def refuse_longer(self, asked: str, cutoff: int, *, hint: str | None = None) -> None:
        """A usage error for a cutoff that no list of the search reaches; ``asked`` are the words that ask for it."""
        refuse_longer(asked, cutoff, self.search, self.settings, hint=hint)

    # ---- what it was made from -------------------------------------------------------------------

    @cached_property
    def inputs(self) -> dict[str, Artifact]:
        """By kind. The whole lineage of the run is verified here, once."""
        self.ws.verified(self.artifact)
        facts = {kind: fact for kind, fact in self.artifact.manifest["inputs"].items() if kind != "init"}
        read = {kind: self.ws.read(self.ws.root / fact["path"]) for kind, fact in facts.items()}
        found = {kind: artifact for kind, artifact in read.items() if artifact is not None}
        if gone := sorted(read.keys() - found.keys()):
            raise InputError(f"{self.name} was made from {gone[0]} that are gone.")
        return found

    @property
    def data(self) -> Artifact:
        return self.inputs["data"]

    @property
    def codes(self) -> Artifact | None:
        """None: the model reads no codes."""
        return self.inputs.get("codes")

    @cached_property
    def names(self) -> Names:
        return Names.read(self.data.path)

    @cached_property
    def histories(self) -> Histories:
        return Histories.read(self.data.path, times="times" in self.kind.needs)

    # ---- what it is ------------------------------------------------------------------------------

    @cached_property
    def catalog(self) -> Catalog:
        """On the run's device."""
        return load_catalog(self.inputs, self.kind.needs).to(self.device)

    @cached_property
    def model(self) -> Model:
        """In evaluation mode, on the run's device."""
        settings = {name: value for name, value in self.artifact.config["model"].items() if name != "name"}
        config = validate(self.kind.Config, "model", settings)
        model = self.kind(config, self.catalog, max_length=self.max_length).to(self.device)
        load_weights(self.artifact.path / BEST, model)
        return model.eval()

    def ranker(self) -> Ranker:
        """Ranks with the run's model and search. Building it may take time: the graph is made here."""
        return make_ranker(self.model, self.catalog, self.search, self.settings)

    def batches(
        self, user: np.ndarray, at: np.ndarray, *, histories: Histories | None = None, **options: Any
    ) -> Iterator[EvalBatch]:
        """The histories of users before a position, as the model reads them; see ``eval_batches`` for the options.

        Args:
            histories: in place of the run's own.
        """
        options = {"batch_size": 256, "exclude_seen": True, "max_length": self.max_length} | options
        return eval_batches(self.histories if histories is None else histories, user, at, **options)
