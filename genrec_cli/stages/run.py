"""Runs the steps of a recipe in order and makes its closing table.

The command line that is printed before each step makes the same artifact when it is typed alone.
"""

import itertools
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genrec_cli import console
from genrec_cli.artifacts import Artifact
from genrec_cli.config import parse_set
from genrec_cli.engine import protocols
from genrec_cli.errors import ConfigError, Interrupted
from genrec_cli.stages.recipe import Recipe
from genrec_cli.stages.recipe_step import TAKES, Step, typed

Do = Callable[[Step, list[str]], tuple[Artifact | None, list[dict[str, Any]]]]
"""Runs a step, given with all inputs and its command line; returns its artifact and its output as JSON objects."""
COLUMNS = ("Recall@5", "NDCG@5", "Recall@10", "NDCG@10", protocols.column("NDCG@10", "left_out"))


@dataclass
class Chain:
    """What the steps of one call have made so far."""

    made: list[Artifact] = field(default_factory=list)
    runs: dict[str, Artifact] = field(default_factory=dict)
    """Runs by folder name, by label, and by the label that the recipe gives without other options."""
    outputs: list[dict[str, Any]] = field(default_factory=list)
    """The output of the steps, as JSON objects."""

    def of(self, kind: str) -> list[Artifact]:
        """The artifacts of a kind, in the order in which they were made."""
        return [artifact for artifact in self.made if artifact.kind == kind]

    def named(self, step: Step) -> Step:
        """The step with its runs named by folder, so that they are those of this chain."""
        full = {name: run.path.name for name, run in self.runs.items()}
        seeds = [[full.get(name, name) for name in side.split(",")] for side in step.runs]
        update: dict[str, Any] = {"runs": tuple(map(",".join, seeds))}
        update |= {name: full.get(value, value) for name in ("run", "init_from") if (value := getattr(step, name))}
        return step.model_copy(update=update | (self.best(step) if step.tuned else {}))

    def best(self, step: Step) -> dict[str, Any]:
        """The settings and the inputs of the best trial of a study, for a train step with ``tuned``.

        Raises ConfigError if no earlier step made the study, or if it has not the model.
        """
        study = next((made for made in self.of("studies") if made.label == step.tuned), None)
        if study is None or step.model not in study.result["models"]:
            problem = f"the study '{step.tuned}' of an earlier step has no model '{step.model}'"
            raise ConfigError(f"A train step is tuned: {problem}.", hint="A step of stage tune comes first")
        inputs = study.result["models"][step.model]["best"]["inputs"]
        names = {"codes": "codes", "vectors": "vectors", "init_from": "init"}
        if parse_set(step.assigned).get("model", {}).get("from_scratch"):
            del names["init_from"]
        found = {name: inputs[key] for name, key in names.items() if key in inputs}
        return {"config": study.path / f"best-{step.model}.toml", **found}

    def inputs(self, step: Step) -> dict[str, str]:
        """Inputs that a step does not name and that earlier steps made. The vectors are those of the last codes.

        A recommend step gets the data only if the recipe trains nothing: then its run is an earlier one, and the data
        are newer than those of the run.
        """
        last = {"run" if artifact.kind == "runs" else artifact.kind: artifact.path.name for artifact in self.made}
        for codes in [] if step.codes else self.of("codes"):
            if facts := codes.manifest["inputs"].get("vectors"):
                last["vectors"] = Path(facts["path"]).name
        names = () if step.interactions or step.from_dir else TAKES[step.stage]
        if step.stage == "recommend" and "run" in last:
            names = ("run",)
        return {name: last[name] for name in names if name in last and getattr(step, name) is None}


def run_recipe(
    recipe: Recipe,
    shared: Sequence[Sequence[str]],
    do: Do,
    fail: Callable[[Exception], int],
    given: Sequence[Artifact] = (),
) -> tuple[int, Chain]:
    """Run the steps in order; stop at the first that fails. Returns the last exit code and what was made.

    ``shared`` are for each step the options of the whole recipe, as words; ``fail`` prints an error; ``given`` are
    artifacts that take the place of earlier steps.
    """
    chain, count = Chain(made=list(given)), len(recipe.steps)
    for number, (step, options) in enumerate(zip(recipe.steps, shared, strict=True), 1):
        try:
            named = chain.named(step)
            inputs = chain.inputs(named)
            more = [*options, *typed(inputs)]
            console.say(f"\n[{number}/{count}] {folded(named.words, more)}")
            artifact, printed = do(named.model_copy(update=inputs), [*named.words, *more])
        except (Exception, KeyboardInterrupt) as error:
            stopped = Interrupted(f"'genrec {step.stage}' was stopped before it was done.")
            code = fail(error if isinstance(error, Exception) else stopped)
            where = f"step {number} of {count} of '{recipe.name}'"
            if code == Interrupted.exit_code:
                console.say(f"{where} was stopped; the same 'genrec run' goes on from there", level=0)
            else:
                console.warn(f"{where} failed with exit code {code}; once mended, the same 'genrec run' goes on there")
            return code, chain
        chain.outputs += [{"command": step.stage, **facts} for facts in printed]
        chain.made += [artifact] if artifact else []
        if artifact and artifact.kind == "runs":
            name = artifact.path.name
            chain.runs |= dict.fromkeys((name, name.rpartition("-")[0], recipe.label(step)), artifact)
    return 0, chain


def folded(words: Sequence[str], more: Sequence[str]) -> str:
    """A command line in two lines: the words of the step, then the words that all steps share."""
    first = f"genrec {shlex.join(words)}"
    return f"{first} \\\n        {shlex.join(more)}" if more else first


def rows(recipe: Recipe, chain: Chain) -> list[dict[str, Any]]:
    """The closing table: one row per evaluation; after the rows of a model its published numbers on this data set."""
    table: list[dict[str, Any]] = []
    for (model, dataset), group in itertools.groupby(chain.of("eval"), lambda e: (e.result.get("model"), e.dataset)):
        for artifact in group:
            result = artifact.result
            source = artifact.manifest["inputs"].get("runs", {"path": ""})["path"]  # a copy's result names another run
            run = chain.runs.get(Path(source).name)
            label = run.path.name.rpartition("-")[0] if run else artifact.path.name
            approximate = "" if result.get("search") in (None, "exhaustive") else f", {result['search']}"
            row = _row(label + approximate, protocols.flat(result), result.get("users"))
            cost = {"epochs": run.result.get("epochs"), "train_seconds": run.result.get("seconds")} if run else {}
            table.append(row | cost)
        here = recipe.head.expected if dataset == recipe.head.dataset else recipe.head.expected_on.get(dataset, {})
        if model in here:
            table.append(_row(f"{model}, published", here[model]))
    return table


def _row(model: str, metrics: Mapping[str, float], users: int | None = None) -> dict[str, Any]:
    measured = {name: metrics.get(name) for name in COLUMNS}
    return {"model": model, **measured, "users": users, "epochs": None, "train_seconds": None}


def duration(seconds: float | None) -> str:
    """``45 s``, ``2 min 05 s`` or ``3 h 07 min``; a dash for None."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def aligned(lines: Iterable[str]) -> list[str]:
    """Command lines with their ``# comments`` in one column."""
    parts = [line.partition(" #") for line in lines]
    width = max((len(words.rstrip()) for words, _, _ in parts), default=0)
    return [f"{words.rstrip():<{width}}   #{comment}" if mark else words for words, mark, comment in parts]
