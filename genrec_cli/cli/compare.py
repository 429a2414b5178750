"""genrec compare"""

from functools import partial
from typing import Annotated

import typer

from genrec_cli.cli import complete
from genrec_cli.cli.common import Common, command, make

RUNS = "Runs or evaluations. The first is the baseline. A,B with a comma: seeds of one setting."


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "compare")
    def compare(
        common: Common,
        runs: Annotated[
            list[str] | None,
            typer.Argument(help=RUNS, autocompletion=complete.runs),
        ] = None,
        sweep: Annotated[str | None, typer.Option(help="A finished sweep: compare all its rows.")] = None,
        by: Annotated[
            str | None, typer.Option(help="Slices: all, cold-start, length, day or truncation. Default: all.")
        ] = None,
        metrics: Annotated[str | None, typer.Option(help="Default: Recall@10,NDCG@10.")] = None,
        split: Annotated[str | None, typer.Option(help="test or valid. Default: test.")] = None,
        drop: Annotated[int | None, typer.Option(help="Items that --by truncation removes. Default: 15.")] = None,
        device: Annotated[str, typer.Option(help="Device of --by truncation.", envvar="GENREC_DEVICE")] = "auto",
    ) -> None:
        """Compare runs on the same users, with intervals and tests.

        With --by also for slices of the users."""
        from genrec_cli import console
        from genrec_cli.errors import UsageError
        from genrec_cli.stages import compare as stage
        from genrec_cli.stages.compare_table import tables

        measures = None if metrics is None else [part.strip() for part in metrics.split(",")]
        named = {"compare": {"by": by, "metrics": measures, "split": split, "drop": drop}}
        ws = common.workspace()
        layers = common.layers("compare", named)
        dataset = ws.dataset(common.dataset)
        if bool(runs) == bool(sweep):
            raise UsageError(
                "Give either runs or --sweep, not both.", hint="genrec compare RUN RUN, or genrec compare --sweep NAME"
            )
        of_sweep = stage.sides_of_sweep(ws, dataset, sweep, layers) if sweep else {}
        names = list(of_sweep.values())
        comparison = stage.plan(ws, dataset, layers, sides=list(of_sweep) or runs or [], names=names)
        work = partial(stage.run, ws, comparison, device=device, bar=console.user_bar("scoring"))
        artifact = make(common, comparison.plan, work)
        if artifact is not None and not common.dry_run:
            title = f"{' and '.join(comparison.names)}, {comparison.config.split} split"
            for heading, head, body in tables(artifact.result["rows"]):
                console.table(", ".join(filter(None, [title, heading])), head, body, keys=head.index("value"))
            console.say(stage.note(comparison.config))
