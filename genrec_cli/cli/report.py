"""genrec report"""

from functools import partial
from typing import Annotated

import typer

from genrec_cli.cli.common import Common, command, make


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "report")
    def report(
        common: Common,
        split: Annotated[
            str | None, typer.Option(help="Split of the intervals, tests and slices: test or valid. Default: test.")
        ] = None,
        metric: Annotated[
            str | None, typer.Option(help="Metric of the bars, tests and slices. Default: NDCG@10.")
        ] = None,
    ) -> None:
        """Write all results of a data set as one HTML file.

        It opens from a mail, and it requests nothing from the web."""
        from genrec_cli import console
        from genrec_cli.config import validate
        from genrec_cli.stages import report as stage

        layers = common.layers("report", {"report": {"split": split, "metric": metric}})
        ws = common.workspace()
        config = validate(stage.ReportConfig, "report", layers.get("report", {}))
        plan = stage.plan(ws, ws.dataset(common.dataset), config)
        artifact = make(common, plan, partial(stage.run, ws, plan))
        if artifact is not None and not common.dry_run:
            console.say(stage.facts(artifact.result))
            console.say(f"open {artifact.path / 'report.html'} in a browser")
