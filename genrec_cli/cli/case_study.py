"""genrec case-study"""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from genrec_cli.cli import complete
from genrec_cli.cli.common import Common, command, make

if TYPE_CHECKING:
    from genrec_cli.artifacts import Artifact

RUNS = "Runs to show. Default: all of the data set."


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "case-study")
    def case_study(
        common: Common,
        runs: Annotated[list[str] | None, typer.Argument(help=RUNS, autocompletion=complete.runs)] = None,
        users: Annotated[int | None, typer.Option(help="Number of users: those on whom the runs differ most.")] = None,
        user: Annotated[list[str] | None, typer.Option(help="Raw id of a user to show. Repeatable.")] = None,
        k: Annotated[int | None, typer.Option("--k", help="Length of the lists.")] = None,
        exclude_seen: Annotated[
            bool | None, typer.Option("--exclude-seen", help="Leave the items of the history out of the lists.")
        ] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", envvar="GENREC_DEVICE")] = "auto",
    ) -> "Artifact | None":
        """Show single users: history, target and lists, with titles.

        The lists of MHL runs are explained."""
        from genrec_cli import console
        from genrec_cli.config import validate
        from genrec_cli.stages import case_study as stage

        named = {"case_study": {"users": users, "user": user or None, "k": k, "exclude_seen": exclude_seen}}
        layers = common.layers("case-study", named)
        config = validate(stage.CaseStudyConfig, "case_study", layers.get("case_study", {}))
        ws = common.workspace()
        plan = stage.plan(ws, ws.dataset(common.dataset), config, runs or [])
        work = partial(stage.run, ws, plan, config, device=device, bar=console.user_bar("scoring"))
        artifact = make(common, plan, work)
        if artifact is not None and not common.dry_run:
            console.say((artifact.path / "cases.md").read_text(encoding="utf-8"))
        return artifact
