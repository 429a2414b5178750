"""genrec export"""

from pathlib import Path
from typing import Annotated

import typer

from genrec_cli.cli.common import Common, command

ONNX = "Also write model.onnx, the encoder of histories."
PUSH = "Upload the folder to the Hugging Face hub as a private model."


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "export")
    def export(
        common: Common,
        run: Annotated[str | None, typer.Argument(help="Run: label, key or path. Default: the only one.")] = None,
        to: Annotated[
            Path | None, typer.Option(metavar="FOLDER", help="The folder, which must be new or empty.")
        ] = None,
        onnx: Annotated[bool, typer.Option("--onnx", help=ONNX)] = False,
        push: Annotated[str | None, typer.Option(metavar="ORG/NAME", help=PUSH)] = None,
    ) -> None:
        """Write a folder with which a run recommends on any machine.

        It holds weights, codes, titles and settings."""
        from genrec_cli import console
        from genrec_cli.errors import UsageError
        from genrec_cli.stages import export as stage
        from genrec_cli.stages.exported import is_export_of
        from genrec_cli.stages.trained import Run

        common.layers("export")
        if to is None:
            raise UsageError("The option --to is missing.", hint="genrec export RUN --to FOLDER")
        ws = common.workspace()
        artifact = ws.find(ws.dataset(common.dataset), "runs", run, choice=f"genrec export NAME --to {to}")
        if artifact.tainted or ws.stale(artifact):
            console.warn("made from stale inputs (--allow-stale): do not publish this export")
        facts = {"schema": 1, "run": artifact.path.name, "path": str(to)}
        done = not common.force and is_export_of(to, artifact, onnx=onnx)
        if common.dry_run:
            console.say(f"{to}: up to date" if done else f"would export {artifact.path.name} to {to}")
            console.emit(facts | {"state": "up to date" if done else "would be made"})
            return
        if done:
            console.say(f"{to}: up to date")
        else:
            stage.export(Run(ws, artifact), to, onnx=onnx)
        if push:
            facts["url"] = stage.push(to, push)
            console.say(f"uploaded: {facts['url']}")
        console.say(f"genrec recommend --run {to} --history FILE    recommends with it")
        common.emit(facts | {"state": "up to date" if done else "made"}, text=str(to))
