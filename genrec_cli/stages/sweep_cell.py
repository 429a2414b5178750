"""A cell of a sweep, or a trial of a study: its inputs, its codes and its plan."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from genrec_cli import registry
from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.config import Section, merge, validate
from genrec_cli.curriculum.phases import CurriculumConfig
from genrec_cli.curriculum.target_masks import NoiseConfig
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.errors import UsageError
from genrec_cli.models.base import Need
from genrec_cli.stages import codes as codes_of
from genrec_cli.stages import evaluate, vectors
from genrec_cli.stages.load import matching_search, refuse_longer
from genrec_cli.stages.preprocess import PreprocessConfig, from_raw, preprocess
from genrec_cli.stages.sweep_recipe import Cell
from genrec_cli.stages.sweep_table import cutoffs
from genrec_cli.stages.train_checks import check_masking
from genrec_cli.stages.train_plan import Inputs as TrainInputs
from genrec_cli.stages.train_plan import TrainPlan
from genrec_cli.stages.train_plan import plan as plan_training
from genrec_cli.tokenizers.behaviour import BehaviourConfig

OF_CODES = ("encoder", "tokenizer", "behaviour")
"""The sections that decide codes."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of all cells."""

    data: Artifact
    """The data of all cells; if the sweep sets ``[preprocess]``, the raw files (:func:`inputs_of`)."""
    codes: Artifact | None
    """The codes that ``--codes`` names. None: each cell has those of its settings, or the only ones."""
    encoder: str
    """The default encoder."""


class CodesAndVectors(NamedTuple):
    """What the model of a cell reads; None: nothing, or what ``genrec train`` finds without the option."""

    codes: Artifact | None
    vectors: Artifact | None


def shared_inputs(
    ws: Workspace, cells: Sequence[Cell], dataset: str, data: str | None, codes: str | None, encoder: str
) -> Inputs:
    """The inputs of cells. Raises UsageError if ``codes`` were made with other settings than those of a cell."""
    if any("preprocess" in cell.layers for cell in cells):
        if data or codes:
            named = "--data" if data else "--codes"
            raise UsageError(f"The sweep sets [preprocess], so it makes its own data: {named} cannot be given.")
        for cell in cells:
            validate(PreprocessConfig, "preprocess", cell.layers.get("preprocess", {}))
        if not ws.all(dataset, "raw"):
            what = f"The sweep sets [preprocess], which reads downloaded files, and '{dataset}' has none."
            raise UsageError(what, hint="Leave [preprocess] out: the sweep then uses the data of genrec preprocess")
        return Inputs(ws.find(dataset, "raw"), None, encoder)
    if codes is None:
        return Inputs(ws.find(dataset, "data", data), None, encoder)
    found = ws.find(dataset, "codes", codes, made_from=ws.find(dataset, "data", data) if data else None)
    for cell, section in itertools.product(cells, OF_CODES):
        for key, value in cell.layers.get(section, {}).items():
            recorded = found.config.get(section, BehaviourConfig().model_dump()).get(key)
            if recorded != value:
                message = f"{section}.{key} is {value!r} in '{cell.row}', but {found.path.name} has {recorded!r}."
                raise UsageError(message, hint="Leave --codes out: the sweep makes the codes it needs")
    return Inputs(ws.input(found, "data"), found, encoder)


def inputs_of(ws: Workspace, cell: Cell, given: Inputs, *, make: bool) -> Inputs | None:
    """The inputs of a cell. Its own data are made if ``make`` is set; None if they are missing."""
    if given.data.kind != "raw":
        return given
    config = validate(PreprocessConfig, "preprocess", cell.layers.get("preprocess", {}))
    plan, work = preprocess(ws, given.data.dataset, config, from_raw(ws, given.data.dataset, str(given.data.path)))
    data = ws.done(plan) or (work() if make else None)
    return None if data is None else replace(given, data=data)


def model_config(cell: Cell) -> Section:
    """``[model]`` of a cell, with the defaults of its model. Raises ConfigError for a wrong setting."""
    kind = registry.load("model", cell.model)
    settings = merge(kind.defaults, cell.layers).get("model", {})
    return validate(kind.Config, "model", {key: value for key, value in settings.items() if key != "name"})


def needs_of(cell: Cell) -> frozenset[Need]:
    """What the model of a cell reads."""
    return registry.load("model", cell.model).needs_of(model_config(cell))


def evaluation_of(cell: Cell) -> evaluate.EvaluateConfig:
    """``[evaluate]`` of a cell, with defaults. Raises ConfigError for a wrong setting."""
    return validate(evaluate.EvaluateConfig, "evaluate", cell.layers.get("evaluate", {}))


def check_values(cell: Cell) -> tuple[Section, TrainConfig, CurriculumConfig]:
    """The settings of a training of a cell. Raises ConfigError for a value that its section refuses."""
    layers = merge(registry.load("model", cell.model).defaults, cell.layers)
    validate(NoiseConfig, "noise", layers.get("noise", {}))
    train = validate(TrainConfig, "train", layers.get("train", {}))
    return model_config(cell), train, validate(CurriculumConfig, "curriculum", layers.get("curriculum", {}))


def check_cell(cell: Cell, columns: Sequence[str]) -> None:
    """Raise UsageError or ConfigError if the settings of a cell are wrong."""
    kind = registry.load("model", cell.model)
    layers = merge(kind.defaults, cell.layers)
    model, train, curriculum = check_values(cell)
    kind.check(model, train)
    check_masking(kind, cell.model, curriculum)
    config = evaluation_of(cell)
    name = kind.search if config.search == "auto" else config.search
    hint = f"'{cell.row}' sets it: leave evaluate.search out, then each model uses its default search"
    search = matching_search(name, cell.model, hint)
    shared = {} if search.exact else layers.get("search", {})  # exact search has no settings
    settings = validate(search.Config, "search", {**shared, **cell.own.get("search", {})})
    at = cutoffs(columns, config.at)
    if not at or at[0] < 1:
        raise UsageError(f"evaluate.at is {list(config.at)} in '{cell.row}': cutoffs are 1 or more.")
    hint = f"search.beams of {at[-1]} or more, or columns of fewer items"
    refuse_longer(f"The cutoff {at[-1]} in '{cell.row}'", at[-1], search, settings, hint=hint)


def train_plan(
    ws: Workspace,
    cell: Cell,
    given: Inputs,
    inputs: CodesAndVectors,
    *,
    label: str | None = None,
) -> TrainPlan:
    """The plan of a cell, with the label of an existing run of the same key."""
    codes, item_vectors = (str(artifact.path) if artifact else None for artifact in inputs)
    paths = TrainInputs(str(given.data.path), codes, item_vectors, cell.init_from)
    made = plan_training(ws, given.data.dataset, cell.model, cell.layers, inputs=paths, label=label)
    folder = ws.path(made.plan)
    existing = sorted(folder.parent.glob(f"[!.]*-{made.plan.key[:8]}"))
    if existing and not folder.is_dir():
        return replace(made, plan=replace(made.plan, label=existing[0].name[:-9]))
    return made


def codes_and_vectors(ws: Workspace, cell: Cell, given: Inputs, *, make: bool) -> CodesAndVectors | None:
    """The codes and the vectors of a cell, made if ``make`` is set; None if they are missing. A cell without settings
    of codes has the only codes of the data."""

    def artifact(plan: Plan, work: Callable[[], Artifact | None]) -> Artifact | None:
        return ws.done(plan) or (work() if make else None)

    data, (encoding, tokenizer, joined) = given.data, (cell.layers.get(section, {}) for section in OF_CODES)
    needs, item_vectors = needs_of(cell), None
    codes = given.codes if "codes" in needs else None
    coded = "codes" in needs and codes is None
    if coded and not (encoding or tokenizer or joined):
        codes, coded = ws.find(data.dataset, "codes", made_from=data), False
    read = coded and "vectors" in codes_of.needs(tokenizer)
    if read or (encoding and not codes and "vectors" in needs):
        encoder = vectors.make_encoder(vectors.encoder_values(encoding, None, given.encoder))
        item_vectors = artifact(*vectors.vectors_stage(ws, data, encoder))
        if item_vectors is None:
            return None
    if coded:
        config, behaviour = codes_of.tokenizer_config(tokenizer, data), codes_of.behaviour_config(joined, data)
        source = item_vectors if read else None
        codes = artifact(*codes_of.codes_stage(ws, data, config, source, behaviour=behaviour))
        if codes is None:
            return None
    return CodesAndVectors(codes, item_vectors if "vectors" in needs else None)
