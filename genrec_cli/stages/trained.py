"""A finished run with everything that later stages need of it. Each part is loaded once, at its first use."""

from collections.abc import Iterator, Mapping, Sequence
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
from genrec_cli.data.vectors import read_vectors
from genrec_cli.engine.checkpoint import BEST, load_weights
from genrec_cli.engine.ranking import Ranker, make_ranker
from genrec_cli.errors import InputError, UsageError
from genrec_cli.models.base import Model, Need
from genrec_cli.models.blend import Blend
from genrec_cli.stages import blended
from genrec_cli.stages.load import load_catalog, matching_search, refuse_longer

Settings = Mapping[str, Any]
CPU = torch.device("cpu")


class Run:
    """A trained model with its catalogue, its histories and a search.

    Args:
        artifact: of the kind "runs".
        search: name of a search; default: the one that validated the run.
        layer: settings of the search, in place of those that validated the run. Exact search has none and ignores them.

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
        layer: Settings | None = None,
    ) -> None:
        self.ws, self.artifact, self.device = ws, artifact, device
        self.name, self.model_name = artifact.path.name, artifact.config["model"]["name"]
        self.kind: type[Model] = registry.load("model", self.model_name)
        external = artifact.manifest.get("external")  # an exported run has none
        recorded = {name: code for name, code in (external or {}).items() if name.startswith("code/")}
        if external is not None and not ws.allow_stale and registry.code_of(self.kind) != recorded:
            message = f"{self.name} was trained by other code of the model '{self.model_name}'."
            raise InputError(message, hint=f"{artifact.command}    trains with the present code; or --allow-stale")
        self.label = self.name.rpartition("-")[0]
        self.max_length: int = artifact.config["train"]["max_length"]
        trained = dict(artifact.config.get("search", {}))
        self.default_search: str = trained.pop("name", "exhaustive")
        self.search_name = search or self.default_search
        hint = f"--search {self.default_search}    is made for it"
        self.search = matching_search(self.search_name, self.model_name, hint)
        settings = trained if self.search_name == self.default_search else {}
        given = {} if self.search.exact else dict(layer or {})
        self.settings: Section = validate(self.search.Config, "search", settings | given)
        if not self.search.shared_codes and self.codes and self.codes.config["tokenizer"].get("shared"):
            message = f"The search '{self.search_name}' compares items digit by digit, which means nothing for text."
            raise UsageError(message, hint="--search exhaustive")

    def set_search(self, layer: Settings) -> None:
        """Change settings of the search."""
        self.settings = validate(self.search.Config, "search", self.settings.model_dump(mode="json") | dict(layer))

    def refuse_longer(self, option: str, cutoff: int, *, hint: str | None = None) -> None:
        """Raise UsageError for a cutoff beyond the lists of the search; ``option`` is the text that sets it."""
        refuse_longer(option, cutoff, self.search, self.settings, hint=hint)

    @cached_property
    def inputs(self) -> dict[str, Artifact]:
        """The inputs of the run by kind. Its whole lineage is verified here, once."""
        self.ws.verified(self.artifact)
        facts = {kind: fact for kind, fact in self.artifact.manifest["inputs"].items() if kind != "init"}
        read = {kind: self.ws.read(self.ws.root / fact["path"]) for kind, fact in facts.items()}
        artifacts = {kind: artifact for kind, artifact in read.items() if artifact is not None}
        if missing := sorted(read.keys() - artifacts.keys()):
            raise InputError(f"{self.name} was made from {missing[0]} that are gone.")
        return artifacts

    @property
    def data(self) -> Artifact:
        return self.inputs["data"]

    @property
    def codes(self) -> Artifact | None:
        """None if the model reads no codes."""
        return self.inputs.get("codes")

    @cached_property
    def model_config(self) -> Section:
        settings = {name: value for name, value in self.artifact.config["model"].items() if name != "name"}
        return validate(self.kind.Config, "model", settings)

    @property
    def needs(self) -> frozenset[Need]:
        """What the model reads of the data under its settings; of a blend, whether a part reads times."""
        parts = self.artifact.manifest.get("result", {}).get("needs", ())  # of a blend; exports have no result
        return self.kind.needs_of(self.model_config).union(parts)

    @cached_property
    def parts(self) -> list["Run"]:
        """The runs of a blend, in their order; other runs have none."""
        parts = [artifact for name, artifact in sorted(self.inputs.items()) if name.startswith("part")]
        return [Run(self.ws, artifact, self.device) for artifact in parts]

    @cached_property
    def own_vectors(self) -> Artifact | None:
        """The text vectors that the run or its codes were made from; None: neither was made from vectors."""
        if source := self.inputs.get("vectors"):
            return source
        if self.codes and "vectors" in self.codes.manifest["inputs"]:
            return self.ws.input(self.codes, "vectors")
        return None

    @cached_property
    def vectors(self) -> np.ndarray:
        """``vec_ID``: :attr:`own_vectors`, else the only ones of the data. Raises InputError for none or several."""
        choice = "a run that was trained with vectors or codes: its own are used"
        source = self.own_vectors or self.ws.find(self.data.dataset, "vectors", made_from=self.data, choice=choice)
        return read_vectors(source.path)

    @cached_property
    def names(self) -> Names:
        return Names.read(self.data.path)

    @cached_property
    def histories(self) -> Histories:
        return Histories.read(self.data.path, times="times" in self.needs)

    @cached_property
    def catalog(self) -> Catalog:
        """On the device of the run."""
        return load_catalog(self.inputs, self.needs).to(self.device)

    @cached_property
    def model(self) -> Model:
        """In evaluation mode, on the device of the run."""
        model = self.kind(self.model_config, self.catalog, max_length=self.max_length).to(self.device)
        if isinstance(model, Blend):
            blended.load(self.artifact.path, model, self.parts)
        else:
            load_weights(self.artifact.path / BEST, model)
        return model.eval()

    def ranker(self) -> Ranker:
        """A ranker with the model and the search. The graph is built here, which may take time."""
        return make_ranker(self.model, self.catalog, self.search, self.settings)

    def batches(
        self, user: np.ndarray, at: np.ndarray, *, histories: Histories | None = None, **options: Any
    ) -> Iterator[EvalBatch]:
        """Batches of the items before position ``at`` of each user; ``options`` are those of ``eval_batches``.

        Args:
            histories: in place of the histories of the run.
        """
        options = {"batch_size": 256, "exclude_seen": True, "max_length": self.max_length} | options
        return eval_batches(self.histories if histories is None else histories, user, at, **options)


def refuse_repeated(artifacts: Sequence[Artifact]) -> None:
    """Raise UsageError if one artifact occurs twice."""
    if len({artifact.key for artifact in artifacts}) < len(artifacts):
        raise UsageError("The same run is named twice.")


def refuse_other_data(runs: Sequence[Artifact]) -> None:
    """Raise UsageError if runs were trained on different data, because their users cannot be paired."""
    if len({run.manifest["inputs"]["data"]["digest"] for run in runs}) > 1:
        hint = f"Name runs of one data set: {' '.join(run.path.name for run in runs)}"
        raise UsageError("The runs were trained on different data, so their users are not the same.", hint=hint)
