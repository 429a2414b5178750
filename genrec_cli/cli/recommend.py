"""genrec recommend"""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from genrec_cli.cli.common import Common, command

SHOWN = 5
"""Users in the terminal when none are named."""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "recommend")
    def recommend(
        common: Common,
        run: Annotated[str | None, typer.Option(help="Run: label, key or path. Default: the only one.")] = None,
        users: Annotated[Path | None, typer.Option(help="File of raw user ids, one per line. Default: all.")] = None,
        history: Annotated[Path | None, typer.Option(help="New histories: CSV (user,item) or JSON lines.")] = None,
        k: Annotated[int, typer.Option("--k", "-k", help="Items per user.")] = 10,
        output: Annotated[Path | None, typer.Option("--output", "-o", help=".csv, .tsv, .parquet or .jsonl.")] = None,
        exclude_seen: Annotated[bool, typer.Option("--exclude-seen", help="Exclude items of the history.")] = False,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", envvar="GENREC_DEVICE")] = "auto",
    ) -> None:
        """Recommend items: raw ids, titles and scores, for known users or for new histories."""
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
        artifact = ws.find(ws.dataset(common.dataset), "runs", run)
        name = artifact.path.name
        layers = common.layers(f"recommend --run {name}", sections=stage.sections_of(ws, artifact))
        if common.dry_run:
            console.say(f"would recommend {k} items to each user with {name}")
            console.emit({"schema": 1, "run": name, "state": "would be made"})
            return
        if artifact.tainted or ws.stale(artifact):
            console.warn("made from stale inputs (--allow-stale): do not rely on these recommendations")
        if not (users or history or output or common.json):
            from genrec_cli.data.names import Names

            named = Names.read(ws.input(artifact, "data").path).user[:SHOWN]
            console.say(f"the first {len(named)} users; --users FILE selects users, --output FILE writes all")
        work = partial(stage.run, ws, artifact, users=named, histories=given, search=layers.get("search"))
        bar = console.user_bar("recommending")
        recommendations = work(k=k, exclude_seen=exclude_seen, device=device, bar=bar)
        if output:
            recommendations.write(output)
            console.say(f"{len(recommendations):,} recommendations written")
            common.emit({"schema": 1, "path": str(output), "rows": len(recommendations)}, text=str(output))
        elif common.json:
            rows = [dict(zip(stage.COLUMNS, row, strict=True)) for row in recommendations.rows()]
            common.emit({"schema": 1, "run": name, "recommendations": rows})
        else:
            console.table("", stage.COLUMNS, recommendations.rows(), to_stdout=True)
