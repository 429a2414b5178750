"""``genrec run RECIPE``: a chain of stages from one file."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec_cli.cli.common import Common, command

if TYPE_CHECKING:
    from genrec_cli.stages.run import Chain


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
    ) -> None:
        """Run the steps of a recipe and show its table. What is up to date is not made again."""
        import shlex
        import time

        from genrec_cli import console
        from genrec_cli.stages.run import aligned, commands, duration, read_recipe, rows, run_recipe

        chosen = read_recipe(recipe)
        typed = getattr(context.get_parameter_source("dataset"), "name", "") == "COMMANDLINE"
        dataset = common.dataset if typed and common.dataset else chosen.head.dataset  # GENREC_DATASET is for stages
        place = _place(common, dataset)
        lines = commands(chosen, [*place, *_shared(common, chosen.path)], common.set_ or [], from_dir)
        console.say(f"{chosen.head.title}  ({chosen.head.dated})")
        for source in chosen.head.cite:
            console.say(f"  {source}")
        if common.dry_run:
            console.emit(
                {"schema": 1, "recipe": chosen.name, "steps": lines},
                text="\n".join(f"genrec {shlex.join(line)}" for line in lines),
            )
            return

        started = time.monotonic()
        code, chain = run_recipe(common.workspace(), chosen, lines, _invoke, lambda name: _options(app, name))
        console.configure(verbosity=0 if common.quiet else 2 if common.verbose else 1, as_json=common.json)
        table = rows(chosen, chain)
        _show(f"{chosen.head.title} ({dataset})", table)
        if not code:
            console.say("")
            if "cases" in chain.by_kind:
                console.say(f"Single users, run beside run:  {chain.by_kind['cases'].path / 'cases.md'}")
            console.say(f"Done in {duration(time.monotonic() - started)}." + (" Next:" if chosen.head.next else ""))
            for line in aligned(_next(line, shlex.join(place), chain) for line in chosen.head.next):
                console.say(f"  {line}")
        console.emit({"schema": 1, "recipe": chosen.name, "exit": code, "steps": chain.outputs, "table": table})
        if code:
            raise typer.Exit(code)


def _place(common: Common, dataset: str) -> list[str]:
    """The options that say where a step works. A root that the step takes by itself is left out."""
    usual = Path(os.environ.get("GENREC_ROOT") or "artifacts")
    return ["--dataset", dataset, *([] if common.root == usual else ["--root", str(common.root)])]


def _next(line: str, place: str, chain: "Chain") -> str:
    """A command for the reader, with the labels that the runs have: another seed gives others."""
    labels = {name: run.path.name.rpartition("-")[0] for name, run in chain.by_label.items()}
    return " ".join(labels.get(word, word) for word in line.split(" ")).replace("{at}", place)


def _shared(common: Common, recipe: Path) -> list[str]:
    """The other shared options as words, for every step. A path below the working directory stays short."""
    here = Path.cwd()
    path = recipe.relative_to(here) if recipe.is_relative_to(here) else recipe
    words = ["--config", str(path)]
    for extra in common.config or []:
        words += ["--config", str(extra)]
    flags = {"--force": common.force, "--allow-stale": common.allow_stale, "--json": common.json}
    flags |= {"--verbose": common.verbose, "--quiet": common.quiet}
    return words + [flag for flag, given in flags.items() if given]


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


def _invoke(words: list[str]) -> int:
    """Run one command line in this process, as if it had been typed; returns its exit code."""
    from genrec_cli.cli import main

    typed = sys.argv
    sys.argv = ["genrec", *words]  # a manifest records the step itself, so that it can be repeated alone
    try:
        main(words)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    finally:
        sys.argv = typed
    return 0


def _options(app: typer.Typer, name: str) -> frozenset[str]:
    """The long options of a command."""
    group = typer.main.get_group(app)
    found = group.commands.get(name)
    return frozenset(option for parameter in (found.params if found else []) for option in parameter.opts)
