"""Recipes: ``[recipe]`` of a TOML file lists steps; the other sections are settings of all steps.

    steps = [{ stage = "train", model = "rpg", set = { train.lr = 2e-3 } }, { stage = "evaluate", run = "rpg-s0" }]

The settings of a step win over the sections of the file, and ``--set`` wins over both. A train step with ``models`` or
``seeds`` is one step for each combination; with ``tuned`` it has the best settings of an earlier ``tune`` step.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from genrec_cli.config import READS, Section, did_you_mean, merge, parse_set, read_toml, validate
from genrec_cli.errors import ConfigError, UsageError
from genrec_cli.stages.recipe_step import Name, Step, read_step

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
SWEEPS = RECIPES / "sweeps"


class RecipeHead(Section):
    """The table ``[recipe]``."""

    title: str
    dataset: Name
    """The default of ``--dataset``."""
    dated: str
    """The day on which the published numbers were read, for example 2026-11-22."""
    cite: tuple[str, ...] = ()
    """Sources of the settings and of the published numbers."""
    expected: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Model -> metric -> the published number."""
    expected_on: dict[str, dict[str, dict[str, float]]] = Field(default_factory=dict)
    """The same for other data sets."""
    steps: tuple[dict[str, Any], ...]
    """Tables, each a :class:`Step`, in the order in which they run."""
    next: tuple[str, ...] = ()
    """Command lines to show at the end; ``{at}`` is replaced by the options of the data set."""


@dataclass(frozen=True)
class Recipe:
    """A recipe file, read and checked."""

    name: str
    path: Path
    head: RecipeHead
    steps: tuple[Step, ...]
    sections: Mapping[str, Mapping[str, Any]]
    """The other sections of the file."""

    def settings(self, step: Step) -> tuple[str | None, int]:
        """The model and the seed of a train step, without options of ``genrec run``."""
        settings = merge({"model": {}, "train": {}}, self.sections, parse_set(step.assigned))
        return step.model or settings["model"].get("name"), settings["train"].get("seed", 0)

    def label(self, step: Step) -> str:
        """The name of the run of a step in later steps. With ``--seed`` a training itself has another label."""
        if step.stage == "blend":
            return step.label or "blend"
        model, seed = self.settings(step)
        return step.label or f"{model or 'mhl'}-s{seed}"

    def reads(self, step: Step, assigned: Iterable[str] = ()) -> tuple[str, ...]:
        """The sections that a step reads: ``source`` only with own files, in training those of the model, and after it
        ``search`` only if the search has settings."""
        from genrec_cli.stages.train_plan import sections_of

        unread = {"source"} if step.stage == "preprocess" and not (step.interactions or step.from_dir) else set()
        training = step if step.stage == "train" else self._training(step.run)
        model = self.settings(training)[0] if training else None
        if model and step.stage == "train":
            return tuple(sections_of(model))
        settings = merge(self.sections, parse_set(step.assigned), parse_set(list(assigned)))
        if model and settings.get("evaluate", {}).get("search", "auto") == "auto":
            unread |= {"search"} - set(sections_of(model))
        return tuple(section for section in READS[step.stage] if section not in unread)

    def _training(self, run: str | None) -> Step | None:
        """The step that trains a run, if there is one."""
        return next((step for step in self.steps if step.stage == "train" and self.label(step) == run), None)

    def after_data(self) -> "Recipe":
        """The recipe on data that are there: without the steps that make data."""
        steps = tuple(step for step in self.steps if step.stage not in ("download", "preprocess"))
        if len(steps) == len(self.steps):
            raise UsageError(f"No step of '{self.name}' makes data.", hint="Leave --data out")
        return replace(self, steps=steps)

    def assigned_to(self, step: Step, assigned: Iterable[str]) -> list[str]:
        """The ``--set`` values of ``genrec run`` that a step reads."""
        assigned = list(assigned)
        reads = self.reads(step, assigned)
        return [text for text in assigned if next(iter(parse_set([text]))) in reads]


def read_recipe(name: str) -> Recipe:
    """A recipe by name or path, checked as a whole. Errors name the file and the step."""
    path, content = read_file(name, RECIPES, "recipe")
    try:
        head = validate(RecipeHead, "recipe", content.pop("recipe"))
        tables = [read_step(f"step {number}", table) for number, table in enumerate(head.steps, 1)]
        recipe = Recipe(path.stem, path, head, (), content)
        for step in (step for table in tables for step in table.expanded()):
            more = (Step(stage="evaluate", run=recipe.label(step)),) if step.evaluated else ()
            recipe = replace(recipe, steps=(*recipe.steps, step, *more))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint) from None
    return recipe


def names(folder: Path) -> list[str]:
    """Names of the TOML files in a folder of the package."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def read_file(name: str, folder: Path, table: str) -> tuple[Path, dict[str, dict[str, Any]]]:
    """The path and the sections of a file with a ``table``, by its name in ``folder`` or by its path.

    Raises UsageError if there is no such file, ConfigError if it is not valid TOML or lacks the table.
    """
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not name.endswith(".toml") and name not in (known := names(folder)):
        message = f"There is no {'study' if table == 'tune' else table} '{name}'.{did_you_mean(name, known)}"
        raise UsageError(message, hint=f"There are: {', '.join(known)}; or give a FILE.toml")
    content = read_toml(path)
    if table not in content:
        hint = "genrec run takes a [recipe], genrec sweep a [sweep], genrec tune a [tune]; --config takes settings"
        raise ConfigError(f"{path} has no [{table}] table.", hint=hint)
    return path, content


def refuse_unread(recipe: Recipe, assigned: Iterable[str], from_dir: Path | None) -> None:
    """Refuse options of ``genrec run`` that no step reads."""
    for text in assigned:
        if not any(recipe.assigned_to(step, [text]) for step in recipe.steps):
            section = next(iter(parse_set([text])))
            raise UsageError(f"No step of '{recipe.name}' reads the section '{section}' (--set {text}).")
    if from_dir is not None and all(step.stage != "download" for step in recipe.steps):
        raise UsageError(f"No step of '{recipe.name}' downloads anything.", hint="Leave --from-dir out")
