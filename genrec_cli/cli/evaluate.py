"""genrec evaluate"""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from genrec_cli.cli import complete
from genrec_cli.cli.common import Common, command, make, whole_numbers

if TYPE_CHECKING:
    from genrec_cli.artifacts import Artifact

VECTORS = "Text vectors of the metric Diversity. Default: those that the run or its codes were made from."
RUN = "Run: label, key or path. Default: the only one."


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "evaluate", distributed=True)
    def evaluate(
        common: Common,
        run: Annotated[str | None, typer.Option(help=RUN, autocompletion=complete.runs)] = None,
        search: Annotated[
            str | None, typer.Option(help="exhaustive, graph, beam or diffusion. Default: that of the model.")
        ] = None,
        split: Annotated[str | None, typer.Option(help="test or valid. Default: test.")] = None,
        at: Annotated[str | None, typer.Option(help="Cutoffs of the metrics. Default: 5,10.")] = None,
        vectors: Annotated[str | None, typer.Option(metavar="NAME", help=VECTORS)] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", envvar="GENREC_DEVICE")] = "auto",
    ) -> "Artifact | None":
        """Measure a run over the whole catalogue.

        Metrics are of items and of codes, with seen items kept and left out."""
        from genrec_cli import console
        from genrec_cli.stages import evaluate as stage

        named = {"evaluate": {"search": search, "split": split, "at": whole_numbers(at, "--at", "5,10")}}
        ws = common.workspace()
        layers = common.layers("evaluate", named)
        plan, config = stage.plan(ws, ws.dataset(common.dataset), layers, run=run, vectors=vectors)
        work = partial(stage.run, ws, plan, config, device=device, bar=console.user_bar("scoring"))
        artifact = make(common, plan, work)
        if artifact is not None and not common.dry_run:
            show(artifact)
        return artifact


def show(artifact: "Artifact") -> None:
    """The table of one evaluation."""
    from genrec_cli import console
    from genrec_cli.cli.train import show_diagnosis
    from genrec_cli.engine import beyond, protocols

    result = artifact.result
    speed = f"{result['users']:,} users, {result['users_per_second']:,} per second"
    names = [f"{name}@{cutoff}" for cutoff in artifact.config["evaluate"]["at"] for name in ("Recall", "NDCG", "MRR")]
    console.table(f"{result['run']} on {result['split']}: {speed}", *protocols.table(result, names))
    console.table("", *beyond.table(result["beyond"], protocols.LABELS))
    if "visited" in result:
        console.say(
            f"the graph finds {result['recall_against_exact']:.1%} of the exact lists and visits "
            f"{result['visited']:,.0f} items per user; built in {result['build_seconds']:.1f} s"
        )
    if "valid_fraction" in result:
        console.say(f"{result['valid_fraction']:.1%} of the codes of the beams are in the catalogue")
    show_diagnosis(artifact)
