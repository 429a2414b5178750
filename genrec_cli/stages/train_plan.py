"""A training before it starts: its inputs and settings, checked before any work."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from genrec_cli import registry
from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.config import READS, Section, merge, validate
from genrec_cli.curriculum.phases import CurriculumConfig
from genrec_cli.curriculum.target_masks import NoiseConfig
from genrec_cli.engine import protocols
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.errors import UsageError
from genrec_cli.models.base import Need
from genrec_cli.stages.load import matching_search, refuse_longer
from genrec_cli.stages.train_checks import check_masking, check_noise, check_start

VERSION = 4
Layers = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class TrainPlan:
    """A run before it starts. ``search`` holds the settings of the model's search, which validates."""

    plan: Plan
    model: str
    model_config: Section
    train: TrainConfig
    curriculum: CurriculumConfig
    noise: NoiseConfig
    search: Section


@dataclass(frozen=True)
class Inputs:
    """The artifacts to train on, each by label, key or path; None: the only one that fits.

    ``init_from`` is a run whose weights are the start (``engine/warm_start.py``).
    """

    data: str | None = None
    codes: str | None = None
    vectors: str | None = None
    init_from: str | None = None

    def find(self, ws: Workspace, dataset: str, needs: Collection[Need]) -> dict[str, Artifact]:
        """The artifacts for what a model needs. Raises UsageError where the data lack times or attributes."""
        inputs: dict[str, Artifact] = {}
        if "codes" in needs:
            made_from = ws.find(dataset, "data", self.data) if self.data else None
            inputs["codes"] = ws.find(dataset, "codes", self.codes, made_from=made_from)
        elif self.codes:
            ws.find(dataset, "codes", self.codes)  # a recipe passes codes on to models that read none
        codes = inputs.get("codes")
        data = ws.input(codes, "data") if codes else ws.find(dataset, "data", self.data)
        if data.dataset != dataset:  # of a path
            message = f"{data.path.name} is of the data set '{data.dataset}', not of '{dataset}'."
            raise UsageError(message, hint=f"--dataset {data.dataset}")
        inputs = {"data": data, **inputs}
        if "vectors" in needs:
            of_codes = codes and self.vectors is None and "vectors" in codes.manifest["inputs"]
            given = None if of_codes else ws.find(dataset, "vectors", self.vectors, made_from=data)
            inputs["vectors"] = given or ws.input(inputs["codes"], "vectors")
        elif self.vectors:
            ws.find(dataset, "vectors", self.vectors)
        if "times" in needs and not data.result["times"]:
            hint = "Give the log a column of times: genrec preprocess --time-col NAME, or choose another model"
            raise UsageError(f"The model needs the time of each interaction, and {data.path.name} has none.", hint=hint)
        if "attributes" in needs and not pq.read_metadata(data.path / "attributes.parquet").num_rows:
            message = f"The model needs attributes of items, such as brands, and {data.path.name} has none."
            raise UsageError(message, hint="genrec preprocess --items FILE    with columns brand or categories")
        if self.init_from is not None:
            inputs["init"] = ws.find(dataset, "runs", self.init_from)
            if inputs["init"].config["model"]["name"] == "blend":
                message = f"{inputs['init'].path.name} is a blend, which has no weights to start from."
                raise UsageError(message, hint="--init-from takes one of its parts")
        return inputs


def plan(
    ws: Workspace, dataset: str, model: str, layers: Layers, *, inputs: Inputs = Inputs(), label: str | None = None
) -> TrainPlan:
    """Resolve inputs and settings. All errors of the user are raised here, before any work."""
    kind = registry.load("model", model)
    given, layers = layers.get("curriculum", {}), merge(kind.defaults, layers)
    settings = {name: value for name, value in layers.get("model", {}).items() if name != "name"}
    model_config = validate(kind.Config, "model", settings)
    train = validate(TrainConfig, "train", layers.get("train", {}))
    curriculum = validate(CurriculumConfig, "curriculum", layers.get("curriculum", {}))
    _refuse_unread(curriculum, given)
    noise = validate(NoiseConfig, "noise", layers.get("noise", {}))
    hint = f"In the class {kind.__name__}: search = NAME, of a search for its interface (docs/add-a-model.md)"
    search_kind = matching_search(kind.search, model, hint)
    # Exact search has no settings, so it does not read [search].
    search = validate(search_kind.Config, "search", {} if search_kind.exact else layers.get("search", {}))
    refuse_longer(f"train.metric={train.metric}", protocols.parse(train.metric)[1], search_kind, search)
    check_masking(kind, model, curriculum)
    if kind.masking == "target":
        check_noise(noise)
    kind.check(model_config, train)
    artifacts = inputs.find(ws, dataset, kind.needs_of(model_config))
    check_start(kind, model, model_config, train.max_length, artifacts.get("init"))
    config: dict[str, Any] = {"model": {"name": model, **model_config.model_dump(mode="json")}}
    if kind.trainable:
        phases = [phase.model_dump(mode="json") for phase in curriculum.phases()]
        common = curriculum.model_dump(mode="json", include={"watch", "budget", "smoothing"})
        config |= {"train": train.model_dump(mode="json"), "curriculum": {**common, "phase": phases}}
        if kind.masking == "target":
            config["noise"] = noise.model_dump(mode="json")
    else:
        config["train"] = {"max_length": train.max_length, "seed": train.seed}
    if not search_kind.exact:
        config["search"] = {"name": kind.search, **search.model_dump(mode="json")}
    check_label(label)
    label, code = label or f"{model}-s{train.seed}", registry.code_of(kind)
    plan = Plan(dataset, "runs", label, VERSION, config, artifacts, code)
    return TrainPlan(plan, model, model_config, train, curriculum, noise, search)


def _refuse_unread(curriculum: CurriculumConfig, given: Mapping[str, Any]) -> None:
    """Raises UsageError for settings of presets beside phases of one's own, which would not be read."""
    read = ("phase", "watch", "budget", "smoothing")
    unread = [name for name, value in given.items() if name not in read and value is not None]
    if curriculum.phase and unread:
        message = f"curriculum.{unread[0]} is of the presets, and there are [[curriculum.phase]] tables."
        raise UsageError(message, hint="Leave one of the two out")


def check_label(label: str | None) -> None:
    """Refuse a label that cannot be the name of a folder."""
    if label is not None and not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,63}", label):
        hint = "At most 64 letters, digits, '-', '_' and '.'"
        raise UsageError(f"--label '{label}' cannot be the name of a folder.", hint=hint)


def sections_of(model: str) -> list[str]:
    """The sections that a model reads. A configuration file may hold others, for other models."""
    kind = registry.load("model", model)
    unread = {"noise": kind.masking != "target", "search": registry.load("search", kind.search).exact}
    return [name for name in READS["train"] if not unread.get(name)]
