"""A step of a recipe: a stage of the pipeline, its options, and settings of this step alone."""

import itertools
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from genrec_cli.config import READS, Count, Positive, Section, Seed, did_you_mean, parse_set, validate
from genrec_cli.errors import ConfigError, UsageError

TAKES: Mapping[str, tuple[str, ...]] = {
    "download": (),
    "preprocess": ("raw", "source", "from_dir", "interactions", "items"),
    "tokenize": ("data", "codebook_from"),
    "tune": ("study", "data", "trials", "minutes"),
    "train": ("model", "label", "data", "codes", "vectors", "init_from"),
    "blend": ("runs", "label"),
    "evaluate": ("run",),
    "recommend": ("run", "data", "candidates", "where", "fallback", "k", "output"),
    "case-study": ("runs",),
    "compare": ("runs",),
    "table": ("reference",),
}
"""Stage -> the options of its command that a step can have beside ``set``."""
ARGUMENTS = ("study",)
"""Options that are typed without their name."""
EXPANDED = ("models", "seeds", "tuned", "evaluated")
"""What a train step can have beside its options."""


def _check_length(name: str | Path) -> str | Path:
    if (size := max(len(os.fsencode(part)) for part in str(name).split("/"))) > 255:
        raise ValueError(f"a file name has at most 255 bytes, this one has {size}")
    return name


Name = Annotated[str, Field(min_length=1), AfterValidator(_check_length)]
File = Annotated[Path, AfterValidator(_check_length)]


class Step(Section):
    """One of ``[[recipe.steps]]``: a stage, its options, and settings of this step alone."""

    stage: str
    model: Name | None = None
    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.+-]{0,63}$")] | None = None
    raw: Name | None = None
    data: Name | None = None
    codes: Name | None = None
    codebook_from: Name | None = None
    vectors: Name | None = None
    init_from: Name | None = None
    run: Name | None = None
    runs: tuple[Name, ...] = ()
    source: Name | None = None
    from_dir: File | None = None
    interactions: File | None = None
    items: File | None = None
    candidates: File | None = None
    where: str | None = None
    fallback: Name | None = None
    k: Count | None = None
    output: File | None = None
    study: Name | None = None
    trials: Count | None = None
    minutes: Positive | None = None
    reference: Name | None = None
    models: tuple[Name, ...] = ()
    """One step per model, in place of ``model``."""
    seeds: tuple[Seed, ...] = ()
    """One step per seed; the seed is added to the label."""
    tuned: Name | None = None
    """A study of an earlier step: the settings and the inputs are those of its best trial."""
    evaluated: bool = False
    """Whether an evaluation follows each training."""
    config: Path | None = None
    """A TOML file of settings. A step with ``tuned`` gets it when it runs."""
    set: dict[str, Any] = Field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """The options, as keyword arguments of the command."""
        return {name: value for name in TAKES[self.stage] if (value := getattr(self, name))}

    @property
    def seed(self) -> int | None:
        """The seed of a training that its step names."""
        return parse_set(self.assigned).get("train", {}).get("seed")

    @property
    def assigned(self) -> list[str]:
        """The settings in the form of ``--set``."""
        layer = layer_of(self.set, READS[self.stage], f"the stage '{self.stage}'")
        return [assignment(section, key, value) for section, keys in layer.items() for key, value in keys.items()]

    @property
    def words(self) -> list[str]:
        """The command line of the step alone, without ``genrec``."""
        options = {name: value for name, value in self.options.items() if name not in ("runs", *ARGUMENTS)}
        config = self.config or (Path(f"best-{self.model}.toml") if self.tuned else None)
        given = [str(value) for name in ARGUMENTS if (value := self.options.get(name))]
        return [self.stage, *given, *self.runs, *typed(options | {"config": config}), *typed({"set": self.assigned})]

    def expanded(self) -> Iterator["Step"]:
        """A step for each model and seed."""
        for model, seed in itertools.product(self.models or (self.model,), self.seeds or (None,)):
            update: dict[str, Any] = {"models": (), "seeds": (), "model": model}
            if seed is not None:
                update["set"] = self.set | {"train.seed": seed}
                update["label"] = f"{self.label or model or 'mhl'}-s{seed}"
            yield self.model_copy(update=update)


def typed(options: Mapping[str, Any]) -> list[str]:
    """Options as the words of a command line; None, False and empty lists are left out."""
    words: list[str] = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        for entry in value if isinstance(value, list) else [value]:
            words += [option] if entry is True else [] if entry is None or entry is False else [option, str(entry)]
    return words


def read_step(where: str, table: Mapping[str, Any]) -> Step:
    """The step of one table of a recipe. Raises ConfigError for an unknown stage, option or setting; ``where`` names
    the table in the message."""
    step = validate(Step, where, table)
    if step.stage not in TAKES:
        message = f"{where}: '{step.stage}' cannot be a step.{did_you_mean(step.stage, TAKES)}"
        raise ConfigError(message, hint=f"Stages: {', '.join(TAKES)}")
    taken = (*TAKES[step.stage], *(EXPANDED if step.stage == "train" else ()), "set")
    if foreign := step.model_fields_set - {"stage", *taken}:
        hint = f"It takes: {', '.join(taken)}"
        raise ConfigError(f"{where}: the stage '{step.stage}' takes no '{min(foreign)}'.", hint=hint)
    try:
        parse_set(step.assigned)
    except (ConfigError, UsageError) as error:
        raise ConfigError(f"{where}: {error.message}", hint=error.hint) from None
    return step


def assignment(section: str, key: str, value: Any) -> str:
    """``section.key=value``; a plain word needs no quotes."""
    plain = isinstance(value, str) and re.fullmatch(r"(?!(true|false|inf|nan)$)[A-Za-z_][\w./+-]*", value)
    return f"{section}.{key}={value if plain else toml_value(value)}"


def toml_value(value: Any) -> str:
    """A JSON value in TOML syntax."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml_value(entry)}" for key, entry in value.items()) + "}"
    return (
        f"[{', '.join(map(toml_value, value))}]" if isinstance(value, list) else json.dumps(value, ensure_ascii=False)
    )


def layer_of(settings: Mapping[str, Any], allowed: Collection[str], where: str) -> dict[str, dict[str, Any]]:
    """Settings as section -> key -> value, from ``{"train.lr": x}`` or ``{"train": {"lr": x}}``.

    Raises ConfigError for a name without a section, or with a section that is not in ``allowed``.
    """
    layer: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        section, dot, key = name.partition(".")
        if not dot and not isinstance(value, dict):
            raise ConfigError(f"{where}: write section.key, not '{name}'.", hint="For example: { train.lr = 5e-4 }")
        if section not in allowed:
            hint = f"Sections: {', '.join(allowed) or 'none'}"
            raise ConfigError(f"{where} cannot set '{section}'.{did_you_mean(section, allowed)}", hint=hint)
        layer.setdefault(section, {}).update({key: value} if dot else value)
    return layer
