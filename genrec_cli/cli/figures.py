"""genrec figures"""

from typing import TYPE_CHECKING, Annotated

import typer

from genrec_cli.cli.common import Common, command, make

if TYPE_CHECKING:
    from genrec_cli.artifacts import Artifact


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "figures")
    def figures(
        common: Common,
        runs: Annotated[
            list[str] | None, typer.Argument(help="Runs to draw, several of them overlaid. Default: the only one.")
        ] = None,
        users: Annotated[int | None, typer.Option(help="Users whose histories show entropies and masks.")] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", envvar="GENREC_DEVICE")] = "auto",
    ) -> None:
        """Draw losses, metric, mask ratio and entropies of trainings as SVG and PNG."""
        from genrec_cli import console
        from genrec_cli.config import validate
        from genrec_cli.stages import figures as stage

        layers = common.layers("figures", stage.SECTIONS, {"figures": {"users": users}})
        config = validate(stage.FiguresConfig, "figures", layers.get("figures", {}))
        ws = common.workspace()
        plan = stage.plan(ws, ws.dataset(common.dataset), config, runs or [])

        def work() -> "Artifact":
            return stage.run(ws, plan, config, device=device, bar=console.user_bar("reading histories"))

        artifact = make(common, plan, work)
        if artifact is not None and not common.dry_run:
            for name in artifact.result["figures"]:
                if name.endswith(".png"):
                    console.say(f"  {artifact.path / name}")
