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
        runs: Annotated[list[str] | None, typer.Argument(help="Runs to draw, overlaid. Default: the only one.")] = None,
        sweep: Annotated[str | None, typer.Option(help="A finished sweep: its metric and its speed.")] = None,
        users: Annotated[int | None, typer.Option(help="Users whose histories show entropies and masks.")] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", envvar="GENREC_DEVICE")] = "auto",
    ) -> None:
        """Draw trainings (losses, metric, masks, entropies) or the trade-off of a sweep, as SVG and PNG."""
        from genrec_cli import console
        from genrec_cli.config import validate
        from genrec_cli.errors import UsageError
        from genrec_cli.stages import figures as stage

        layers = common.layers("figures", {"figures": {"users": users}})
        config = validate(stage.FiguresConfig, "figures", layers.get("figures", {}))
        ws = common.workspace()
        if sweep is not None and runs:
            raise UsageError("Runs and a sweep are drawn separately.", hint="genrec figures --sweep NAME")
        if sweep is not None and layers.get("figures"):
            unused = ", ".join(f"figures.{key}" for key in layers["figures"])
            raise UsageError(f"The figure of a sweep does not read {unused}.", hint="genrec figures --sweep NAME")
        dataset = ws.dataset(common.dataset)
        plan = stage.plan_sweep(ws, dataset, sweep) if sweep else stage.plan(ws, dataset, config, runs or [])

        def work() -> "Artifact":
            if sweep:
                return stage.run_sweep(ws, plan)
            return stage.run(ws, plan, config, device=device, bar=console.user_bar("reading histories"))

        artifact = make(common, plan, work)
        if artifact is not None and not common.dry_run:
            for name in artifact.result["figures"]:
                if name.endswith(".png"):
                    console.say(f"  {artifact.path / name}")
