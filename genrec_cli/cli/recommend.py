"""genrec recommend"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genrec_cli.cli.common import Common, command

if TYPE_CHECKING:
    from genrec_cli.stages.trained import Run

SHOWN = 5
"""Users in the terminal when none are named."""
RUN = "Run: label, key or path; the folder of an export; or hf:ORG/NAME. Default: the only one."
HISTORY = "New histories: CSV, TSV, Parquet (user,item and perhaps timestamp) or JSON lines."
DATA = "Newer data: new items (with their codes), users and histories for the run."
CODES = "Codes of the newer data, by the codebook of the run (tokenize --codebook-from)."
CANDIDATES = "Recommend only these: raw item ids in Parquet, CSV (column item) or text."
WHERE = "Recommend only items for which this is true: an SQL condition over columns of items and candidates."
FALLBACK = "List of users without a usable history: skip (none), popular, or transitions (how histories begin)."
DIVERSITY = "0 to 1: how much items of similar text avoid each other in a list (MMR)."


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "recommend")
    def recommend(
        common: Common,
        run: Annotated[str | None, typer.Option(help=RUN)] = None,
        users: Annotated[Path | None, typer.Option(help="File of raw user ids, one per line. Default: all.")] = None,
        user: Annotated[list[str] | None, typer.Option(metavar="ID", help="A raw user id. Repeatable.")] = None,
        history: Annotated[Path | None, typer.Option(help=HISTORY)] = None,
        data: Annotated[str | None, typer.Option(metavar="NAME", help=DATA)] = None,
        codes: Annotated[str | None, typer.Option(metavar="NAME", help=CODES)] = None,
        candidates: Annotated[Path | None, typer.Option(metavar="FILE", help=CANDIDATES)] = None,
        where: Annotated[str | None, typer.Option(metavar="SQL", help=WHERE)] = None,
        k: Annotated[int, typer.Option("--k", "-k", help="Items per user.")] = 10,
        output: Annotated[
            Path | None, typer.Option("--output", "-o", help="File to write: .csv, .tsv, .parquet or .jsonl.")
        ] = None,
        exclude_seen: Annotated[
            bool, typer.Option("--exclude-seen/--keep-seen", help="Leave out the items of the history, or keep them.")
        ] = True,
        fallback: Annotated[str, typer.Option(help=FALLBACK)] = "skip",
        diversity: Annotated[float, typer.Option(help=DIVERSITY)] = 0.0,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", envvar="GENREC_DEVICE")] = "auto",
    ) -> None:
        """Recommend items to known users or for new histories.

        Lists have raw ids, titles and scores."""
        from dataclasses import replace

        from genrec_cli import console
        from genrec_cli.errors import UsageError
        from genrec_cli.sources.histories import read_histories, read_users
        from genrec_cli.stages import recommend as stage

        given = {"--users": users, "--user": user, "--history": history}
        if len(named := [name for name, value in given.items() if value]) > 1:
            raise UsageError(f"{' and '.join(named)} exclude each other.")
        if output:
            stage.check_output(output)
        common.layers("recommend")
        request = stage.Request(
            k=k,
            users=read_users(users) if users else user or None,
            histories=read_histories(history) if history else None,
            exclude_seen=exclude_seen,
            candidates=candidates,
            where=where,
            fallback=fallback,  # type: ignore[arg-type]
            diversity=diversity,
        )
        trained = _opened(common, run, data, codes, device)
        if common.dry_run:
            console.say(f"would recommend {k} items to each user with {trained.name}")
            console.emit({"schema": 1, "run": trained.name, "state": "would be made"})
            return
        if not (named or output or common.json):
            request = replace(request, users=trained.names.user[:SHOWN])
            console.say(f"the first {SHOWN} users; --users FILE selects users, --output FILE writes all")
        recommendations = stage.recommend(trained, request, bar=console.user_bar("recommending"))
        if output:
            recommendations.write(output)
            console.say(f"{len(recommendations):,} recommendations written")
            common.emit({"schema": 1, "path": str(output), "rows": len(recommendations)}, text=str(output))
        elif common.json:
            rows = [dict(zip(stage.COLUMNS, row, strict=True)) for row in recommendations.rows()]
            common.emit({"schema": 1, "run": trained.name, "recommendations": rows})
        else:
            console.table("", stage.COLUMNS, recommendations.rows(), to_stdout=True)


def _opened(common: Common, run: str | None, data: str | None, codes: str | None, device: str) -> "Run":
    """The run or the export that is named, with the settings of its search."""
    from genrec_cli import console
    from genrec_cli.distributed import resolve_device
    from genrec_cli.errors import UsageError
    from genrec_cli.stages.exported import ExportedRun, export_folder
    from genrec_cli.stages.new_data import run_on_data

    where, ws = resolve_device(device), common.workspace()
    if folder := export_folder(ws, run):
        if data or codes:
            raise UsageError("--data and --codes need a run; an export has its own items.", hint="Leave them out")
        trained: Run = ExportedRun(folder, where)
    else:
        artifact = ws.find(ws.dataset(common.dataset), "runs", run)
        if artifact.tainted or ws.stale(artifact):
            console.warn("made from stale inputs (--allow-stale): do not rely on these recommendations")
        trained = run_on_data(ws, artifact, where, data=data, codes=codes)
    sections = ["search"] if trained.settings.model_dump() else []
    trained.set_search(common.layers(f"recommend --run {trained.name}", sections=sections).get("search", {}))
    return trained
