"""``genrec rm`` and ``genrec gc``: remove artifacts."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec_cli.cli import complete
from genrec_cli.cli.common import Common, command

if TYPE_CHECKING:
    from genrec_cli.stages.status import Node

NAMES = "Artifacts to remove: NAME, KIND/NAME or a label."
YES = "Do not ask."
SUPERSEDED = "Also data of an earlier state of the same files, and what was made from them."


def register(app: typer.Typer) -> None:
    """Add the commands."""

    @command(app, "rm")
    def rm(
        common: Common,
        names: Annotated[list[str], typer.Argument(help=NAMES, autocompletion=complete.artifacts)],
        with_dependants: Annotated[bool, typer.Option(help="Also remove what was made from them.")] = False,
        yes: Annotated[bool, typer.Option("--yes", "-y", help=YES)] = False,
    ) -> None:
        """Remove artifacts.

        What was made from them must be removed, too: --with-dependants."""
        from genrec_cli.stages.remove import find

        common.layers("rm")
        ws = common.workspace()
        dataset = ws.dataset(common.dataset)
        _remove(common, dataset, find(ws, dataset, names, dependants=with_dependants), yes)

    @command(app, "gc")
    def gc(
        common: Common,
        superseded: Annotated[bool, typer.Option("--superseded", help=SUPERSEDED)] = False,
        yes: Annotated[bool, typer.Option("--yes", "-y", help=YES)] = False,
    ) -> None:
        """Remove what nothing fresh depends on.

        This is: stale and damaged artifacts, and what killed processes left."""
        from genrec_cli.stages.remove import unneeded

        common.layers("gc")
        ws = common.workspace()
        dataset = ws.dataset(common.dataset)
        _remove(common, dataset, unneeded(ws, dataset, superseded=superseded), yes)


def _remove(common: Common, dataset: str, nodes: "list[Node]", yes: bool) -> None:
    """Show what will be removed, ask, and remove it."""
    from genrec_cli import console
    from genrec_cli.errors import UsageError
    from genrec_cli.stages.remove import remove, size_of

    size = size_of(nodes)
    rows = [[f"{node.kind}/{node.path.name}", node.state, node.why] for node in nodes]
    facts: dict[str, Any] = {"schema": 1, "dataset": dataset, "bytes": size}
    facts["artifacts"] = [str(node.path) for node in nodes]
    if not nodes:
        console.say(f"There is nothing to remove in '{dataset}'.")
    elif not yes or common.dry_run:
        console.table("", ["artifact", "state", "why"], rows, to_stdout=True)
        console.say(f"{len(nodes)} artifact(s), {size / 2**20:,.1f} MiB")
    if nodes and not common.dry_run:
        if not yes and (common.json or not sys.stdin.isatty()):
            raise UsageError("Nothing was removed, as nobody can be asked.", hint="--yes    removes without a question")
        if not yes and not typer.confirm("Remove them?", err=True):
            raise typer.Exit(1)
        remove(nodes)
        console.say("removed")
    console.emit(facts | {"removed": bool(nodes) and not common.dry_run})
