"""genrec figures"""

from functools import partial
from typing import Annotated, Any

import typer

from genrec_cli.cli.common import Common, command, make

LABELS = "Compare entropies and masks with the planted labels of a generated shop."


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "figures")
    def figures(
        common: Common,
        runs: Annotated[
            list[str] | None, typer.Argument(help="Runs to draw in one figure. Default: the only one.")
        ] = None,
        sweep: Annotated[str | None, typer.Option(help="A finished sweep: metric against speed.")] = None,
        users: Annotated[int | None, typer.Option(help="Number of users whose entropies and masks are drawn.")] = None,
        labels: Annotated[bool, typer.Option("--labels", help=LABELS)] = False,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", envvar="GENREC_DEVICE")] = "auto",
    ) -> None:
        """Draw trainings, or the trade-off of a sweep, as SVG and PNG.

        Trainings: losses, metric, masks, entropies."""
        from genrec_cli import console
        from genrec_cli.config import validate
        from genrec_cli.errors import UsageError
        from genrec_cli.stages import figures as stage

        layers = common.layers("figures", {"figures": {"users": users, "labels": labels or None}})
        config = validate(stage.FiguresConfig, "figures", layers.get("figures", {}))
        ws = common.workspace()
        if sweep is not None and (runs or layers.get("figures")):
            unused = "runs" if runs else ", ".join(f"figures.{key}" for key in layers["figures"])
            raise UsageError(f"The figure of a sweep does not read {unused}.", hint="genrec figures --sweep NAME")
        dataset = ws.dataset(common.dataset)
        if sweep:
            plan = stage.plan_sweep(ws, dataset, sweep)
            work = partial(stage.run_sweep, ws, plan)
        else:
            plan = stage.plan(ws, dataset, config, runs or [])
            work = partial(stage.run, ws, plan, config, device=device, bar=console.user_bar("reading histories"))
        artifact = make(common, plan, work)
        if artifact is not None and not common.dry_run:
            for facts in artifact.result.get("labels", []):
                _show_labels(facts)
            for name in artifact.result["figures"]:
                if name.endswith(".png"):
                    console.say(f"  {artifact.path / name}")


def _show_labels(facts: dict[str, Any]) -> None:
    """What the entropies and masks of one run say about the planted labels."""
    from genrec_cli import console

    rows = [[row["phase"], row["epoch"], row["noise"], row["transition"]] for row in facts["by_phase"]]
    best = [f"{area['value']:.3f} ({area['low']:.3f} to {area['high']:.3f})" for area in facts["auc"]]
    head = ["phase", "last epoch", "AUC of noise", "AUC of another intent"]
    console.table(facts["run"], head, [[console.cell(value) for value in row] for row in rows] + [["best", "-", *best]])
    names = ["noise", "another intent", "first item", "follows the plan"]
    parts = [[row["codes"], *(f"{row[name]:.1%}" for name in names)] for row in facts["parts"]]
    console.table("codes by the label of their item: all, and those masked in a phase", ["codes of", *names], parts)
