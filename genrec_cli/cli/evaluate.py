"""genrec evaluate"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from genrec_cli.cli import complete
from genrec_cli.cli.common import Common, command, make, whole_numbers

if TYPE_CHECKING:
    from genrec_cli.artifacts import Artifact

VECTORS = "Text vectors of the metric Diversity. Default: those that the run or its codes were made from."
RUN = "Run: label, key or path. Default: the only one."
TASK = "next: rank the next item; reconstruct: predict masked codes of held-out items."
DATA = "Other data than those of the training (label, key or path): how well the run transfers."
CODES = "Codes of these data, by the codebook of the run (tokenize --codebook-from)."


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "evaluate", distributed=True)
    def evaluate(
        common: Common,
        run: Annotated[str | None, typer.Option(help=RUN, autocompletion=complete.runs)] = None,
        task: Annotated[str, typer.Option(help=TASK)] = "next",
        search: Annotated[
            str | None, typer.Option(help="exhaustive, graph, beam or diffusion. Default: that of the model.")
        ] = None,
        split: Annotated[str | None, typer.Option(help="test or valid. Default: test.")] = None,
        at: Annotated[str | None, typer.Option(help="Cutoffs of the metrics. Default: 5,10.")] = None,
        vectors: Annotated[str | None, typer.Option(metavar="NAME", help=VECTORS)] = None,
        data: Annotated[str | None, typer.Option(metavar="NAME", help=DATA)] = None,
        codes: Annotated[str | None, typer.Option(metavar="NAME", help=CODES)] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", envvar="GENREC_DEVICE")] = "auto",
    ) -> "Artifact | None":
        """Measure a run over the whole catalogue.

        Metrics are of items and of codes, with seen items kept and left out."""
        from genrec_cli import console
        from genrec_cli.config import parse_set, refuse_unread
        from genrec_cli.errors import UsageError
        from genrec_cli.stages import evaluate as stage

        given = {"--search": search, "--split": split, "--at": at, "--vectors": vectors, "--data": data}
        if task == "reconstruct":
            return _reconstruct(common, run, given | {"--codes": codes}, device)
        if task != "next":
            raise UsageError(f"There is no task '{task}'.", hint="--task next or --task reconstruct")
        named = {"evaluate": {"search": search, "split": split, "at": whole_numbers(at, "--at", "5,10")}}
        ws = common.workspace()
        layers = common.layers("evaluate", named, sections=["evaluate", "search"])
        options = {"run": run, "vectors": vectors, "data": data, "codes": codes}
        plan, config = stage.plan(ws, ws.dataset(common.dataset), layers, **options)
        # A file may hold [search] for other models: exact search ignores it. What is typed must be read.
        refuse_unread(parse_set(common.set_ or []), plan.config, f"evaluate --run {plan.inputs['runs'].path.name}")
        work = partial(stage.run, ws, plan, config, device=device, bar=console.user_bar("scoring"))
        artifact = make(common, plan, work)
        if artifact is not None and not common.dry_run:
            show(artifact)
        return artifact


def _reconstruct(common: Common, run: str | None, unused: Mapping[str, str | None], device: str) -> "Artifact | None":
    """Measure the reconstruction of masked codes."""
    from genrec_cli import console
    from genrec_cli.errors import UsageError
    from genrec_cli.stages import reconstruct as stage

    if named := [name for name, value in unused.items() if value is not None]:
        raise UsageError(f"--task reconstruct does not read {', '.join(named)}.", hint="Leave the option out")
    ws = common.workspace()
    layers = common.layers("evaluate --task reconstruct", sections=["reconstruct"])
    plan, config = stage.plan(ws, ws.dataset(common.dataset), layers, run=run)
    work = partial(stage.run, ws, plan, config, device=device, bar=console.user_bar("reconstructing"))
    artifact = make(common, plan, work)
    if artifact is not None and not common.dry_run:
        result = artifact.result
        columns = ["loss", "accuracy", "unigram_loss", "unigram_accuracy"]
        rows = [[row["digit"], row["codes"], *(row[name] for name in columns)] for row in result["digits"]]
        rows.append(["all", result["codes"], *(result[name] for name in columns)])
        title = f"{result['run']} reconstructs masked codes of held-out items of {result['users']:,} users"
        head = ["digit", "codes", "loss, nats", "accuracy", "loss of frequencies", "accuracy of frequencies"]
        console.table(title, head, rows)
        low, high = result["accuracy_95"]
        console.say(f"accuracy {result['accuracy']:.4f}, 95 % over users {low:.4f} to {high:.4f}")
    return artifact


def show(artifact: "Artifact") -> None:
    """The table of one evaluation."""
    from genrec_cli import console
    from genrec_cli.cli.train import show_diagnosis
    from genrec_cli.engine import beyond, protocols

    result = artifact.result
    speed = f"{result['users']:,} users, {result['users_per_second']:,} per second"
    names = [f"{name}@{cutoff}" for cutoff in artifact.config["evaluate"]["at"] for name in ("Recall", "NDCG", "MRR")]
    where = f"{result['split']} of {result['on']}" if "on" in result else result["split"]
    console.table(f"{result['run']} on {where}: {speed}", *protocols.table(result, names))
    console.table("", *beyond.table(result["beyond"], protocols.LABELS))
    if "visited" in result:
        console.say(
            f"the graph finds {result['recall_against_exact']:.1%} of the exact lists and visits "
            f"{result['visited']:,.0f} items per user; built in {result['build_seconds']:.1f} s"
        )
    if "valid_fraction" in result:
        console.say(f"{result['valid_fraction']:.1%} of the codes of the beams are in the catalogue")
    show_diagnosis(artifact)
