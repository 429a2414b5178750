"""genrec recommend"""

from pathlib import Path
from typing import Annotated

import typer

from genrec_cli.cli.common import Common, command

SHOWN = 5
"""Users in the terminal when nobody is asked for by name."""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "recommend")
    def recommend(
        common: Common,
        run: Annotated[str | None, typer.Option(help="Run: label, key or path. Default: the only one.")] = None,
        users: Annotated[
            Path | None, typer.Option(help="File of raw user ids, one a line. Default: all users.")
        ] = None,
        history: Annotated[
            Path | None,
            typer.Option(help="Histories never seen: CSV with user,item or JSON lines with user, items."),
        ] = None,
        k: Annotated[int, typer.Option("--k", "-k", help="Items for each user.")] = 10,
        output: Annotated[
            Path | None, typer.Option("--output", "-o", help="Write .csv, .tsv, .parquet or .jsonl.")
        ] = None,
        exclude_seen: Annotated[
            bool, typer.Option("--exclude-seen", help="Leave out what the user had before.")
        ] = False,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", envvar="GENREC_DEVICE")] = "auto",
    ) -> None:
        """Recommend items: raw ids, titles and scores, for known users or for histories never seen."""
        from genrec_cli import console
        from genrec_cli.errors import UsageError
        from genrec_cli.sources.histories import read_histories, read_users
        from genrec_cli.stages import recommend as stage

        if users and history:
            raise UsageError("--users and --history exclude each other.")
        if output:
            stage.check_output(output)
        common.layers("recommend")
        named = read_users(users) if users else None
        given = read_histories(history) if history else None
        ws = common.workspace()
        chosen = ws.find(ws.dataset(common.dataset), "runs", run)
        layers = common.layers(f"recommend --run {chosen.path.name}", sections=stage.sections_of(ws, chosen))
        if common.dry_run:
            console.say(f"would recommend {k} items to each user with {chosen.path.name}")
            console.emit({"schema": 1, "run": chosen.path.name, "state": "would be made"})
            return
        if chosen.tainted or ws.stale(chosen):
            console.warn("made from stale inputs (--allow-stale): do not rely on these recommendations")
        shown_only = not (users or history or output or common.json)
        if shown_only:
            from genrec_cli.data.names import Names

            named = Names.read(ws.input(chosen, "data").path).user[:SHOWN]
            console.say(f"the first {len(named)} users; --users FILE chooses, --output FILE writes all")
        asked = {"users": named, "histories": given, "k": k, "exclude_seen": exclude_seen}
        bar, search = console.user_bar("recommending"), layers.get("search")
        found = stage.run(ws, chosen, **asked, device=device, bar=bar, search=search)
        if output:
            found.write(output)
            console.say(f"{len(found):,} recommendations written")
            common.emit({"schema": 1, "path": str(output), "rows": len(found)}, text=str(output))
        elif common.json:
            rows = [dict(zip(stage.COLUMNS, row, strict=True)) for row in found.rows()]
            common.emit({"schema": 1, "run": chosen.path.name, "recommendations": rows})
        else:
            console.table("", stage.COLUMNS, found.rows(), to_stdout=True)
