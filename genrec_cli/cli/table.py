"""genrec table"""

from typing import Annotated, Any

import typer

from genrec_cli.cli.common import Common, command


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "table")
    def table(
        common: Common,
        metrics: Annotated[str, typer.Option(help="Columns. The last one orders the rows.")] = "Recall@10,NDCG@10",
        split: Annotated[str, typer.Option(help="test or valid.")] = "test",
        reference: Annotated[str | None, typer.Option(help="Row to compare all others with: * marks p < .05.")] = None,
        form: Annotated[str, typer.Option("--format", help="text, markdown, latex or csv.")] = "text",
    ) -> None:
        """Show all evaluations of a data set as one table.

        Seeds are averaged, and the best values are bold."""
        from genrec_cli import console
        from genrec_cli.config import did_you_mean
        from genrec_cli.engine.metrics import parse
        from genrec_cli.errors import UsageError
        from genrec_cli.stages import leaderboard as stage

        common.layers("table")
        if form not in stage.FORMATS:
            message = f"There is no format '{form}'.{did_you_mean(form, stage.FORMATS)}"
            raise UsageError(message, hint=f"--format takes {', '.join(stage.FORMATS)}")
        names = list(dict.fromkeys("{}@{}".format(*parse(name)) for name in metrics.split(",")))
        ws = common.workspace()
        dataset = ws.dataset(common.dataset)
        rows = stage.lines(ws, dataset, names, split)
        if reference:
            reference = stage.mark_significant(ws, rows, reference, names, split, console.user_bar("reading"))
        facts: dict[str, Any] = {"schema": 1, "dataset": dataset, "split": split, "reference": reference}
        common.emit(facts | {"rows": stage.facts(rows, names)})
        if common.json:
            return
        if form != "text":
            print(stage.text_of(rows, names, form), end="")
        else:
            head = ["model", "seeds", *stage.columns(names)]
            cells = stage.body(rows, names, lambda text: console.BOLD + text)
            console.table(f"{dataset}, {split} split", head, cells, to_stdout=True)
        if reference:
            console.say(f"{stage.MARK} differs from {reference}: p < {stage.LEVEL}, paired per user, adjusted (Holm).")
