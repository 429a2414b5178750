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
            typer.Argument(
                help="Folder with the tables, each a .parquet file or a folder of them. Attributes are optional."
            ),
        ] = None,
        interactions: Annotated[
            Path | None, typer.Option(help="Columns user, item and time, sorted by user and time.")
        ] = None,
        users: Annotated[Path | None, typer.Option(help="Columns raw_id, train_end, valid_at and test_at.")] = None,
        items: Annotated[Path | None, typer.Option(help="Column raw_id, and title and text if you have them.")] = None,
        attributes: Annotated[Path | None, typer.Option(help="Columns attribute and name.")] = None,
    ) -> None:
        """Check and import tables of Spark, SQL or another program."""
        from genrec_cli.sources.datasets import check_name
        from genrec_cli.stages.import_tables import find_tables
        from genrec_cli.stages.import_tables import import_tables as stage

        named = {"interactions": interactions, "users": users, "items": items, "attributes": attributes}
        common.layers("import")  # refuses every --set
        dataset = check_name(common.dataset)
        make(common, *stage(common.workspace(), dataset, find_tables(folder, named)))
