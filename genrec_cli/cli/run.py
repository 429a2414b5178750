"""``genrec run RECIPE``: a chain of stages from one file."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec_cli.cli.common import COMMANDS, Common, command, fail

if TYPE_CHECKING:
    from genrec_cli.artifacts import Artifact, Workspace
    from genrec_cli.stages.recipe import Step
    from genrec_cli.stages.run import Chain

WITH_DEVICE = ("train", "evaluate", "recommend", "case-study")


@dataclass(frozen=True)
class StepOptions(Common):
    """The shared options of one step of a recipe."""

    argv: list[str] = field(default_factory=list)
    """The command line that does the same; manifests record it."""
    printed: list[dict[str, Any]] = field(default_factory=list)
    """What the step printed, as JSON objects."""

    def workspace(self) -> "Workspace":
        from genrec_cli.artifacts import Workspace

        return Workspace(self.root, allow_stale=self.allow_stale, argv=self.argv)

    def emit(self, facts: dict[str, Any], text: str | None = None) -> None:
        self.printed.append(facts)
        if not self.json:  # stdout then belongs to the recipe's own JSON object
            super().emit(facts, text)


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "run")
    def run(
        common: Common,
        context: typer.Context,
        recipe: Annotated[str, typer.Argument(help="Name of a recipe (see: genrec list recipes) or a FILE.toml.")],
        from_dir: Annotated[
            Path | None,
            typer.Option("--from-dir", help="Take the raw files from here instead of downloading them."),
        ] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", envvar="GENREC_DEVICE")] = "auto",
        seed: Annotated[int | None, typer.Option(help="Random seed of every run.", envvar="GENREC_SEED")] = None,
    ) -> None:
        """Run the steps of a recipe and show its table. What is up to date is not made again."""
        import shlex
        import time

        from genrec_cli import console
        from genrec_cli.stages.recipe import read_recipe, refuse_unread, typed
        from genrec_cli.stages.run import aligned, duration, rows, run_recipe

        chosen, assigned = read_recipe(recipe), common.set_ or []
        refuse_unread(chosen, assigned, from_dir)
        if getattr(context.get_parameter_source("dataset"), "name", "") != "COMMANDLINE":
            common = replace(common, dataset=chosen.head.dataset)  # GENREC_DATASET is for stages
        common = replace(common, config=[_near(chosen.path), *(common.config or [])])
        place = typed(_place(common))

        def options(step: "Step") -> dict[str, Any]:
            """Options of the recipe that are options of the step's command too."""
            given: dict[str, Any] = {"from_dir": from_dir} if step.stage == "download" else {}
            given |= {"seed": seed} if step.stage == "train" else {}
            given |= {"device": device} if step.stage in WITH_DEVICE and device != "auto" else {}
            return {name: value for name, value in given.items() if value is not None}

        def shared(step: "Step") -> list[str]:
            words = {name: getattr(common, name) for name in ("config", "force", "allow_stale", "json")}
            words |= {"verbose": common.verbose, "quiet": common.quiet, "set": chosen.assigned_to(step, assigned)}
            return [*place, *typed(words | options(step))]

        def do(step: "Step", line: list[str]) -> "tuple[Artifact | None, list[dict[str, Any]]]":
            settings = [*step.assigned, *chosen.assigned_to(step, assigned)]
            own = StepOptions(**vars(common) | {"set_": settings}, argv=line)
            return COMMANDS[step.stage](own, **step.options, **options(step)), own.printed

        console.say(f"{chosen.head.title}  ({chosen.head.dated})")
        for source in chosen.head.cite:
            console.say(f"  {source}")
        every = [shared(step) for step in chosen.steps]
        if common.dry_run:
            lines = [[*step.words, *words] for step, words in zip(chosen.steps, every, strict=True)]
            text = "\n".join(f"genrec {shlex.join(line)}" for line in lines)
            console.emit({"schema": 1, "recipe": chosen.name, "steps": lines}, text=text)
            return

        started = time.monotonic()
        code, chain = run_recipe(chosen, every, do, fail)
        table = rows(chosen, chain)
        _show(f"{chosen.head.title} ({common.dataset})", table)
        if not code:
            console.say("")
            for cases in chain.of("cases"):
                console.say(f"Single users, run beside run:  {cases.path / 'cases.md'}")
            console.say(f"Done in {duration(time.monotonic() - started)}." + (" Next:" if chosen.head.next else ""))
            for line in aligned(_next(line, shlex.join(place), chain) for line in chosen.head.next):
                console.say(f"  {line}")
        console.emit({"schema": 1, "recipe": chosen.name, "exit": code, "steps": chain.outputs, "table": table})
        if code:
            raise typer.Exit(code)


def _place(common: Common) -> dict[str, Any]:
    """The options that say where a step works. A root that the step takes by itself is left out."""
    usual = Path(os.environ.get("GENREC_ROOT") or "artifacts")
    return {"dataset": common.dataset, "root": None if common.root == usual else common.root}


def _near(path: Path) -> Path:
    """A path below the working directory in its short form."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _next(line: str, place: str, chain: "Chain") -> str:
    """A command for the reader, with the labels that the runs have: another seed gives others."""
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
