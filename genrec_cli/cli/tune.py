"""``genrec tune``: search the settings of one or several models with equal budgets, and show the trials."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genrec_cli.cli.common import Common, command, environment_default, make

if TYPE_CHECKING:
    from genrec_cli.artifacts import Artifact


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "tune")
    def tune(
        common: Common,
        study: Annotated[str, typer.Argument(help="Name of a study, such as baselines, or a FILE.toml with [tune].")],
        trials: Annotated[int | None, typer.Option(min=1, help="Trials of each model.")] = None,
        minutes: Annotated[float | None, typer.Option(help="Minutes of training of each model.")] = None,
        jobs: Annotated[int, typer.Option(min=1, max=64, help="Processes that train at the same time.")] = 1,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", envvar="GENREC_DEVICE")] = "auto",
        data: Annotated[str | None, typer.Option(help="Data artifact: label, key or path.")] = None,
        codes: Annotated[str | None, typer.Option(help="Codes of all trials. Default: those of the study.")] = None,
    ) -> "Artifact | None":
        """Search for the best settings by validation (Optuna).

        The same command continues a study, also with a larger budget."""
        import shlex

        from genrec_cli import console
        from genrec_cli.cli.progress import TrainProgress
        from genrec_cli.stages import sweep_cell
        from genrec_cli.stages import tune as stage
        from genrec_cli.stages.recipe_step import typed
        from genrec_cli.stages.tune_recipe import read_tune
        from genrec_cli.stages.tune_table import shown_importance, shown_models, shown_trials

        stage.require_optuna()
        ws = common.workspace()
        dataset = ws.dataset(common.dataset)
        budget = {"trials": trials, "minutes": minutes} if (trials or minutes is not None) else {}
        chosen = read_tune(study, common.layers("tune", {"tune": budget}))
        encoder = environment_default("GENREC_ENCODER", "sentence-transformers")
        given = sweep_cell.shared_inputs(ws, [m.first() for m in chosen.models], dataset, data, codes, encoder)
        plan = stage.plan(ws, chosen, given)
        job = stage.Job(ws, chosen, given, ws.path(plan), device, TrainProgress)
        spent = stage.finished(ws.done(plan), chosen.config)
        work = partial(stage.run, job, plan, jobs=jobs, force=common.force)
        artifact = make(replace(common, force=not spent or common.force), plan, work)
        if artifact is not None and not common.dry_run:
            tables = ("Trials", shown_trials, 3), ("Importance", shown_importance, 2), ("Models", shown_models, 1)
            for title, show, keys in tables:
                head, rows = show(artifact.result)
                if rows:
                    console.table(title, head, rows, keys=keys)
            for name, model in artifact.result["models"].items():
                made = model["best"]["inputs"]
                options = {"config": Path(artifact.path) / f"best-{name}.toml", "init_from": made.get("init")}
                options |= {kind: made.get(kind) for kind in ("codes", "vectors")}
                console.say(f"best of {name}:  genrec {shlex.join(['train', *typed(options)])}")
        return artifact
