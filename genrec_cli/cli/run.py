"""``genrec run RECIPE``: run the stages that one file lists."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec_cli.cli import complete
from genrec_cli.cli.common import COMMANDS, Common, command, fail

if TYPE_CHECKING:
    from genrec_cli.artifacts import Artifact, Workspace
    from genrec_cli.stages.recipe_step import Step
    from genrec_cli.stages.run import Chain

RECIPE = "Name of a recipe (see: genrec list recipes) or a FILE.toml."
BUDGET = (
    "Time for all trainings, such as 30m or 1h30m, half of it for trials if there are any. Epochs are reduced to fit."
)
SEED = "Random seed of the trainings whose step names none."
DATA = "Start from these data, such as your own, in place of the steps download and preprocess."
OPTIONS = {stage: ["device"] for stage in ("blend", "evaluate", "recommend", "case-study", "compare")}
OPTIONS |= {"download": ["from_dir"], "train": ["seed", "device"], "tune": ["device"]}
"""Stage -> the options of ``genrec run`` that its command has too."""


@dataclass(frozen=True)
class StepOptions(Common):
    """The shared options of one step of a recipe."""

    argv: list[str] = field(default_factory=list)
    """The equivalent command line, which manifests record."""
    printed: list[dict[str, Any]] = field(default_factory=list)
    """The output of the step, as JSON objects."""

    def workspace(self) -> "Workspace":
        from genrec_cli.artifacts import Workspace

        return Workspace(self.root, allow_stale=self.allow_stale, argv=self.argv)

    def emit(self, facts: dict[str, Any], text: str | None = None) -> None:
        self.printed.append(facts)
        if not self.json:  # with --json the recipe prints the only object
            super().emit(facts, text)


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "run")
    def run(
        common: Common,
        context: typer.Context,
        recipe: Annotated[str, typer.Argument(help=RECIPE, autocompletion=complete.recipes)],
        from_dir: Annotated[
            Path | None, typer.Option(help="Copy the raw files from this folder in place of a download.")
        ] = None,
        data: Annotated[str | None, typer.Option(help=DATA)] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", envvar="GENREC_DEVICE")] = "auto",
        seed: Annotated[int | None, typer.Option(help=SEED, envvar="GENREC_SEED")] = None,
        budget: Annotated[str | None, typer.Option(metavar="TIME", help=BUDGET)] = None,
    ) -> None:
        """Run the steps of a recipe and show its table.

        What is up to date is not made again."""
        import shlex
        import time

        from genrec_cli import console
        from genrec_cli.stages.budget import seconds_of
        from genrec_cli.stages.recipe import read_recipe, refuse_unread
        from genrec_cli.stages.recipe_step import typed
        from genrec_cli.stages.run import aligned, duration, rows, run_recipe

        left = None if budget is None else seconds_of(budget)
        chosen, assigned = read_recipe(recipe), common.set_ or []
        chosen = chosen if data is None else chosen.after_data()
        refuse_unread(chosen, assigned, from_dir)
        if getattr(context.get_parameter_source("dataset"), "name", "") != "COMMANDLINE":
            common = replace(common, dataset=chosen.head.dataset)  # GENREC_DATASET is for stages, not for recipes
        here, path = Path.cwd(), chosen.path
        path = path.relative_to(here) if path.is_relative_to(here) else path
        common = replace(common, config=[path, *(common.config or [])])
        default_root = common.root == Path(os.environ.get("GENREC_ROOT") or "artifacts")
        place = typed({"dataset": common.dataset, "root": None if default_root else common.root})

        def options(step: "Step") -> dict[str, Any]:
            values: dict[str, Any] = {"from_dir": from_dir, "device": None if device == "auto" else device}
            if step.stage == "train" and step.seed is None:  # seeds of a recipe are compared
                values["seed"] = seed
            return {name: values[name] for name in OPTIONS.get(step.stage, []) if values.get(name) is not None}

        def shared(step: "Step") -> list[str]:
            names = ("config", "force", "allow_stale", "json", "verbose", "quiet")
            values = {name: getattr(common, name) for name in names} | {"set": chosen.assigned_to(step, assigned)}
            return [*place, *typed(values | options(step))]

        def do(step: "Step", argv: list[str]) -> "tuple[Artifact | None, list[dict[str, Any]]]":
            settings = [*step.assigned, *chosen.assigned_to(step, assigned)]
            configs = [*(common.config or []), *([step.config] if step.config else [])]
            step_options = StepOptions(**vars(common) | {"set_": settings, "config": configs}, argv=argv)
            more = options(step)
            begun = time.monotonic()
            if left is not None and step.stage == "tune" and step.minutes is None:
                budget_of_model, shorter = of_trials(step_options, step)
                more |= budget_of_model
                step_options = replace(step_options, set_=[*settings, *shorter])
                argv += typed(budget_of_model | {"set": shorter})
            if left is not None and step.stage == "train":
                shorter = fitting(step_options, step, more)
                step_options = replace(step_options, set_=[*settings, *shorter])
                argv += typed({"set": shorter})
            made = COMMANDS[step.stage](step_options, **step.options | more)
            if step.stage in ("train", "tune"):
                spent["seconds"] += time.monotonic() - begun
                spent["trainings"] += step.stage == "train"
            return made, step_options.printed

        spent = {"seconds": 0.0, "trainings": 0.0}
        shortened: dict[tuple[str | None, str], list[str]] = {}
        trainings = sum(step.stage == "train" for step in chosen.steps)

        def of_trials(step_options: StepOptions, step: "Step") -> tuple[dict[str, Any], list[str]]:
            """The budget of each model and settings: half of the time is for trials, in equal parts for the models of a
            study, and for the trials of a model if their count is known."""
            from genrec_cli.stages.tune_recipe import read_tune

            assert left is not None and step.study is not None
            given = {"minutes": 1.0} | ({"trials": step.trials} if step.trials else {})
            layers = step_options.layers("tune", {"tune": given})
            chosen = read_tune(step.study, layers)
            minutes = max(round(left / 60 / 2 / len(chosen.models), 2), 0.01)
            found: dict[str, Any] = {"minutes": minutes}
            shorter = []
            if chosen.config.trials is not None:
                found = {"trials": chosen.config.trials} | found
                shorter = [f"tune.trial_minutes={max(round(minutes / chosen.config.trials, 3), 0.001)}"]
            words = " ".join(typed(found | {"set": shorter}))
            console.say(f"--budget {budget}: {words} for each model, half of the budget for trials")
            return found, shorter

        def fitting(step_options: StepOptions, step: "Step", more: dict[str, Any]) -> list[str]:
            """Settings with which a training fits into its part of the time that is left."""
            from genrec_cli.cli.train import fitting_epochs

            alike = (step.model, str({name: value for name, value in step.set.items() if name != "train.seed"}))
            if alike in shortened:  # seeds of one setting have the same epochs
                return shortened[alike]
            part = max((left or 0.0) - spent["seconds"], 0.0) / max(trainings - spent["trainings"], 1)
            epochs, of_phase = fitting_epochs(step_options, part, **step.options, **more)
            if epochs is None:
                return []
            shorter = [f"train.epochs={epochs}", *([f"curriculum.max_epochs={of_phase}"] if of_phase else [])]
            words = " ".join(typed({"set": shorter}))
            console.say(f"--budget {budget}: {words}, as {duration(part)} are left for this training")
            shortened[alike] = shorter
            return shorter

        console.say("\n  ".join([f"{chosen.head.title}  ({chosen.head.dated})", *chosen.head.cite]))
        words = [shared(step) for step in chosen.steps]
        if common.dry_run:
            lines = [[*step.words, *more] for step, more in zip(chosen.steps, words, strict=True)]
            text = "\n".join(f"genrec {shlex.join(line)}" for line in lines)
            console.emit({"schema": 1, "recipe": chosen.name, "steps": lines}, text=text)
            return

        started = time.monotonic()
        given = [] if data is None else [common.workspace().find(common.dataset or "", "data", data)]
        code, chain = run_recipe(chosen, words, do, fail, given)
        table = rows(chosen, chain)
        _show(f"{chosen.head.title} ({common.dataset})", table)
        if not code:
            console.say("")
            for cases in chain.of("cases"):
                console.say(f"Recommendations for single users, two runs side by side:  {cases.path / 'cases.md'}")
            console.say(f"Done in {duration(time.monotonic() - started)}." + (" Next:" if chosen.head.next else ""))
            for line in aligned(_next(line, shlex.join(place), chain) for line in chosen.head.next):
                console.say(f"  {line}")
        console.emit({"schema": 1, "recipe": chosen.name, "exit": code, "steps": chain.outputs, "table": table})
        if code:
            raise typer.Exit(code)


def _next(line: str, place: str, chain: "Chain") -> str:
    """A command to type next, with the labels of the runs that were made, which depend on the seed."""
    labels = {name: run.path.name.rpartition("-")[0] for name, run in chain.runs.items()}
    return " ".join(labels.get(word, word) for word in line.split(" ")).replace("{at}", place)


def _show(title: str, table: list[dict[str, Any]]) -> None:
    """The closing table, on stdout."""
    from genrec_cli import console
    from genrec_cli.stages.run import COLUMNS, duration

    if not table:
        return
    console.say("")
    users = {row["users"] for row in table if row["users"] is not None}
    head = ["model", *COLUMNS, "epochs", "training"]
    if len(users) == 1:
        title += f", {users.pop():,} users"
    else:
        head.insert(1, "users")
    shown = [row | {"training": duration(row["train_seconds"])} for row in table]
    console.table(title, head, ([row[name] for name in head] for row in shown), to_stdout=True)
