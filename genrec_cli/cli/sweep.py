"""``genrec sweep``: train and evaluate the rows of a sweep, and show the table."""

from typing import Annotated, Any

import typer

from genrec_cli.cli import complete
from genrec_cli.cli.common import Common, command, environment_default, make, whole_numbers

RECIPE = "Name of a sweep, such as mhl-table2, or a FILE.toml with a [sweep]."


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "sweep")
    def sweep(
        common: Common,
        recipe: Annotated[str, typer.Argument(help=RECIPE, autocompletion=complete.sweeps)],
        seeds: Annotated[str | None, typer.Option(help="Such as 0,1,2. Default: those of the sweep.")] = None,
        split: Annotated[
            str, typer.Option(help="valid: to choose settings; test: to report what was chosen.")
        ] = "valid",
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", envvar="GENREC_DEVICE")] = "auto",
        data: Annotated[str | None, typer.Option(help="Data artifact: label, key or path.")] = None,
        codes: Annotated[str | None, typer.Option(help="Codes of all runs. Default: those of the sweep.")] = None,
    ) -> None:
        """Train and evaluate all rows of a sweep, and show the table.

        Finished runs are not made again."""
        from genrec_cli import console
        from genrec_cli.cli.progress import TrainProgress
        from genrec_cli.cli.train import show_diagnosis
        from genrec_cli.errors import UsageError
        from genrec_cli.stages import sweep as stage
        from genrec_cli.stages.sweep_recipe import read_sweep
        from genrec_cli.stages.sweep_table import shown

        if split not in ("valid", "test"):
            raise UsageError(f"There is no split '{split}'.", hint="--split valid or --split test")
        ws = common.workspace()
        dataset = ws.dataset(common.dataset)
        layers = common.layers("sweep", {"sweep": {"seeds": whole_numbers(seeds, "--seeds", "0,1,2")}})
        chosen = read_sweep(recipe, layers, dataset)
        encoder = environment_default("GENREC_ENCODER", "sentence-transformers")
        given = stage.inputs(ws, chosen, dataset, data=data, codes=codes, encoder=encoder)
        title = stage.title(chosen, dataset, split)
        console.say(title)

        if common.dry_run:
            columns = ["row", "seed", "state", "run"]
            rows = [[c.row, c.seed, state, path and path.name] for c, state, path in stage.survey(ws, chosen, given)]
            console.table("", columns, rows)
            facts = [dict(zip(columns, row, strict=True)) for row in rows]
            console.emit({"schema": 1, "sweep": chosen.name, "split": split, "cells": facts})
            return

        options: dict[str, Any] = {"device": device, "force": common.force, "progress": TrainProgress}
        done, diverged = stage.run(ws, chosen, given, split, **options)
        artifact = make(common, *stage.table_stage(ws, chosen, dataset, split, done, diverged))
        if artifact is not None:
            console.table(title, *shown(artifact.result["rows"], artifact.result["columns"]))
            show_diagnosis(artifact)
            for line in stage.notes(chosen, split, diverged):
                console.say(line)
            for line in artifact.result["not_begun"]:
                console.warn(line)
            console.say(f"as files: {artifact.path / 'table.md'}, table.parquet, runs.parquet")
