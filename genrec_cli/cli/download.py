"""genrec download: the raw files of a data set."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genrec_cli.cli.common import Common, command, make

if TYPE_CHECKING:
    from genrec_cli.artifacts import Artifact


def register(app: typer.Typer) -> None:
    @command(app, "download")
    def download(
        common: Common,
        from_dir: Annotated[
            Path | None,
            typer.Option("--from-dir", help="Copy the files from this folder in place of a download."),
        ] = None,
        url: Annotated[
            list[str] | None,
            typer.Option(
                "--url",
                help="Address of the folder with all files. Or repeatable: one address per file, in their order.",
            ),
        ] = None,
        timeout: Annotated[
            float, typer.Option("--timeout", min=0.1, help="Seconds without data before a retry.")
        ] = 30.0,
        retries: Annotated[
            int, typer.Option("--retries", min=0, help="Failures in a row before the next mirror is tried.")
        ] = 5,
    ) -> "Artifact | None":
        """Download the raw files of a data set, or generate them. A stopped download goes on."""
        from genrec_cli.sources.fetch import Patience
        from genrec_cli.stages import download as stage

        plan = stage.plan(common.dataset, common.layers("download").get("source", {}))
        if from_dir and stage.changed(common.workspace(), plan, from_dir):
            common = replace(common, force=True)

        def work() -> "Artifact":
            ws, patience = common.workspace(), Patience(timeout, retries)
            return stage.download(ws, plan, from_dir=from_dir, urls=url or (), patience=patience, force=common.force)

        return make(common, plan, work)
