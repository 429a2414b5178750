"""genrec blend"""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from genrec_cli.cli.common import Common, command, make

if TYPE_CHECKING:
    from genrec_cli.artifacts import Artifact


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "blend")
    def blend(
        common: Common,
        runs: Annotated[list[str], typer.Argument(help="Two or more runs on the same data.")],
        label: Annotated[str | None, typer.Option(help="Name of the run's folder. Default: blend.")] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", envvar="GENREC_DEVICE")] = "auto",
    ) -> "Artifact | None":
        """Make a run that mixes the predictions of several runs.

        The weights are chosen on validation users."""
        from genrec_cli import console
        from genrec_cli.config import validate
        from genrec_cli.stages import blend as stage

        config = validate(stage.BlendConfig, "blend", common.layers("blend").get("blend", {}))
        ws = common.workspace()
        plan = stage.plan(ws, ws.dataset(common.dataset), config, runs, label)
        work = partial(stage.run, ws, plan, config, device=device, bar=console.user_bar("scoring"))
        return make(common, plan, work)
