"""genrec export-data: a data set as files for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from genrec_cli.cli.common import Common, command


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "export-data")
    def export_data(
        common: Common,
        to: Annotated[Path, typer.Option("--to", help="Folder to write the files to.")],
        kind: Annotated[str, typer.Option("--format", help="recbole: atomic files.")] = "recbole",
        data: Annotated[str | None, typer.Option("--data", help="Data artifact. Default: the only one.")] = None,
    ) -> None:
        """Write a preprocessed data set as RecBole's atomic files."""
        from genrec_cli import console
        from genrec_cli.stages.export_data import export_data as stage

        common.layers("export-data")
        ws = common.workspace()
        dataset = ws.dataset(common.dataset)
        paths = stage(ws.find(dataset, "data", data), to, dataset, kind, force=common.force)
        console.emit({"schema": 1, "files": [str(path) for path in paths]}, text="\n".join(map(str, paths)))
