"""Studies: ``[tune]`` of a TOML file, the search space of each model and how it is searched (docs/tune.md).

    [tune.space]
    train.lr = { low = 1e-4, high = 1e-2, log = true }    # a float
    model.layers = { low = 1, high = 4 }                  # an integer
    train.batch_size = [128, 256]                         # a choice

Settings win in the order sections of the file < ``--config`` < ``--set`` < ``set`` of a model < the trial.
"""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from genrec_cli import registry
from genrec_cli.config import READS, Count, Layer, Section, Seed, merge, validate
from genrec_cli.engine import protocols
from genrec_cli.engine.optim import TrainConfig
from genrec_cli.errors import ConfigError, UsageError
from genrec_cli.stages.recipe import RECIPES, read_file
from genrec_cli.stages.recipe_step import layer_of
from genrec_cli.stages.sweep_recipe import MAX_NAME_BYTES, Cell

if TYPE_CHECKING:
    from optuna.trial import Trial

SECTIONS = READS["tune"][1:]
STUDIES = RECIPES / "studies"
FIXED = ("train.seed", "train.metric", "train.eval_every", "train.valid_users", "train.valid_seed")
"""Settings that are equal in all trials, as values of different ones cannot be compared."""
Scalar = str | bool | int | float


class Range(Section):
    """An interval of a setting: integers if both ends are integers."""

    low: int | float
    high: int | float
    log: bool = False
    """Whether the logarithm is uniform."""

    @property
    def count(self) -> float:
        """The number of its values."""
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        return self.high - self.low + 1 if whole else math.inf

    def suggest(self, trial: "Trial", name: str) -> Scalar:
        """The value of a trial."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


class Choice(Section):
    """A list of values of a setting."""

    values: tuple[Scalar, ...] = Field(min_length=1)

    @property
    def low(self) -> Scalar:
        """The first value."""
        return self.values[0]

    @property
    def count(self) -> float:
        """The number of different values."""
        return len(set(self.values))

    def suggest(self, trial: "Trial", name: str) -> Scalar:
        """The value of a trial."""
        return trial.suggest_categorical(name, self.values)  # type: ignore[return-value]


class TunedModel(Section):
    """One ``[[tune.model]]``: a model, what is added to the search space, and settings of this model alone."""

    name: str
    init_from: str | None = None
    """A run whose weights are the start of all trials, for models that are pre-trained."""
    space: dict[str, Any] = Field(default_factory=dict)
    set: dict[str, Any] = Field(default_factory=dict)


class TuneConfig(Section):
    """How the search space is searched."""

    title: str
    """Title of the study."""
    cite: tuple[str, ...] = ()
    """Sources of the search space."""
    sampler: Literal["tpe", "random"] = "tpe"
    """tpe: tree-structured Parzen estimator (Bergstra et al. 2011); random: independent uniform draws."""
    seed: Seed = 0
    """Seed of the sampler. All trainings have train.seed."""
    halving: bool = True
    """Whether trainings are stopped early by asynchronous successive halving (Li et al. 2020)."""
    first_rung: Count = 4
    """Epoch of the first decision. Each later decision is at the epoch of the one before times `reduction`."""
    reduction: int = Field(3, ge=2, le=100)
    """At each decision one training in this many goes on."""
    trials: Count | None = None
    """Largest number of trials per model."""
    minutes: float | None = Field(None, gt=0)
    """Largest training time per model in minutes, added over processes."""
    trial_minutes: float | None = Field(None, gt=0)
    """Largest training time per trial in minutes. A trial that reaches it counts with its best validation so far."""
    space: dict[str, Any] = Field(default_factory=dict)
    """For all models: section.key -> list of values, or { low, high, log }."""
    model: tuple[TunedModel, ...] = ()
    """The models, each with the whole budget. Default: that of [model]."""


@dataclass(frozen=True)
class ModelStudy:
    """The search space of one model, and its settings before a trial."""

    name: str
    space: Mapping[str, Range | Choice]
    layers: dict[str, dict[str, Any]]
    init_from: str | None = None

    @property
    def seed(self) -> int:
        """The seed of all trainings."""
        return int(self.layers.get("train", {}).get("seed", 0))

    def metric(self) -> str:
        """The validation metric, which decides."""
        defaults = registry.load("model", self.name).defaults
        train = validate(TrainConfig, "train", merge(defaults, self.layers).get("train", {}))
        return protocols.canonical(train.metric)

    def cell(self, values: Mapping[str, Any]) -> Cell:
        """The settings of a trial."""
        own = layer_of(values, SECTIONS, "a trial")
        return Cell(self.name, self.seed, merge(self.layers, own), own, self.init_from)

    @property
    def size(self) -> float:
        """The number of different settings; infinite with an interval of floats."""
        return math.prod(values.count for values in self.space.values())

    def first(self) -> Cell:
        """A cell of the lowest and first values."""
        return self.cell({name: values.low for name, values in self.space.items()})

    def extremes(self) -> Iterator[Cell]:
        """Cells with each value of a list and both ends of an interval once, for checks before any work."""
        lowest = {name: values.low for name, values in self.space.items()}
        for name, values in self.space.items():
            for value in values.values if isinstance(values, Choice) else (values.low, values.high):
                yield self.cell(lowest | {name: value})


@dataclass(frozen=True)
class Tune:
    """A study of one or several models, with equal budgets."""

    name: str
    config: TuneConfig
    models: tuple[ModelStudy, ...]

    @property
    def metric(self) -> str:
        """The validation metric, the same for all models."""
        return self.models[0].metric()


def read_tune(name: str, given: Layer) -> Tune:
    """A study by name or path; ``given`` are the settings of the command. Errors name the file."""
    path, content = read_file(name, STUDIES, "tune")
    if (size := len(os.fsencode(path.stem))) > MAX_NAME_BYTES:
        raise UsageError(f"The name of {path} has {size} bytes; the name of a study has at most {MAX_NAME_BYTES}.")
    try:
        layers = merge(content, given)
        config = validate(TuneConfig, "tune", layers["tune"])
        shared = {section: layers[section] for section in SECTIONS if section in layers}
        default = TunedModel(name=str(shared.get("model", {}).get("name") or "mhl"))
        models = tuple(_study(config, model, shared, given) for model in config.model or (default,))
        if len({model.name for model in models}) < len(models):
            raise ConfigError("a model is in two [[tune.model]].")
        if len(found := {model.metric() for model in models}) > 1:
            raise ConfigError(f"the models have different metrics: {', '.join(sorted(found))}.")
        if config.trials is None and config.minutes is None:
            raise ConfigError("there is no budget.", hint="--trials 30 or --minutes 60, for each model")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint) from None
    return Tune(path.stem, config, models)


def _study(config: TuneConfig, model: TunedModel, shared: Layer, given: Layer) -> ModelStudy:
    where = f"the model '{model.name}': a study"
    own = merge(layer_of(model.set, SECTIONS, where), {"model": {"name": model.name}})
    space = merge(layer_of(config.space, SECTIONS, where), layer_of(model.space, SECTIONS, where))
    ranges = {f"{section}.{key}": v for section, keys in space.items() for key, v in keys.items()}
    if not ranges:
        raise ConfigError(
            f"the model '{model.name}' has no search space.", hint="[tune.space]  train.lr = [1e-3, 3e-3]"
        )
    for name in ranges:
        section, _, key = name.partition(".")
        if name in (*FIXED, "model.name"):
            raise ConfigError(f"a trial cannot set {name}: its values are not comparable.")
        if key in given.get(section, {}):
            raise UsageError(f"{name} is in the search space; it cannot be set for all trials.")
    found = {name: _range(name, v) for name, v in ranges.items()}
    return ModelStudy(model.name, found, merge(dict(shared), own), model.init_from)


def _range(name: str, value: Any) -> Range | Choice:
    """A list of values or an interval. Raises ConfigError for anything else."""
    if isinstance(value, list):
        return validate(Choice, f"tune.space.{name}", {"values": value})
    if not isinstance(value, dict):
        raise ConfigError(f"tune.space: {name} is a list of values or {{ low, high }}, not {value!r}.")
    found = validate(Range, f"tune.space.{name}", value)
    if not found.low < found.high or (found.log and found.low <= 0):
        raise ConfigError(f"tune.space: {name} needs low < high, and 0 < low with log.")
    return found
