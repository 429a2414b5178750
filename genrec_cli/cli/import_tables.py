"""genrec import: tables from other programs."""

from pathlib import Path
from typing import Annotated

import typer

from genrec_cli.cli.common import Common, command, make


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "import")
    def import_tables(
        common: Common,
        folder: Annotated[
            Path | None,
            typer.Argument(help="Folder with the tables; attributes are optional. Each is .parquet or a folder."),
        ] = None,
        interactions: Annotated[Path | None, typer.Option(help="By user and time: user, item, time.")] = None,
        users: Annotated[Path | None, typer.Option(help="raw_id, train_end, valid_at, test_at.")] = None,
        items: Annotated[Path | None, typer.Option(help="raw_id; optional title and text.")] = None,
        attributes: Annotated[Path | None, typer.Option(help="attribute, name.")] = None,
    ) -> None:
        """Check data tables made by Spark, SQL or another program, and import them."""
        from genrec_cli.sources.catalog import check_name
        from genrec_cli.stages.import_tables import find_tables
        from genrec_cli.stages.import_tables import import_tables as stage

        named = {"interactions": interactions, "users": users, "items": items, "attributes": attributes}
        common.layers("import")  # refuses every --set
        dataset = check_name(common.dataset)
        make(common, *stage(common.workspace(), dataset, find_tables(folder, named)))
