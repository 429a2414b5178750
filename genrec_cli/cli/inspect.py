"""``genrec list``, ``genrec status`` and ``genrec doctor``: lists names, artifacts and their states, and checks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec_cli.cli.common import Common, command

if TYPE_CHECKING:
    from genrec_cli.artifacts import Workspace

HELP = (
    "models, encoders, tokenizers, sources, searches, recipes, datasets, or an artifact kind: raw, data, vectors, "
    "codes, runs, eval, transfers, reconstructions, cases, comparisons, sweeps, studies, reports, figures."
)


def register(app: typer.Typer) -> None:
    """Add the commands."""

    @command(app, "list")
    def list_(common: Common, kind: Annotated[str, typer.Argument(help=HELP)]) -> None:
        """List the names or artifacts of a kind."""
        from genrec_cli import console

        common.layers("list")
        entries = _entries(common, kind)
        console.emit({"schema": 1, "kind": kind, "entries": entries})
        if entries:
            console.table("", list(entries[0]), (_shown(entry) for entry in entries), to_stdout=True)
        else:
            console.say(f"There are no {kind} under {common.root} yet.")

    @command(app, "status")
    def status(
        common: Common,
        word: Annotated[str | None, typer.Argument(help="Show only artifacts whose KIND/NAME contains this.")] = None,
    ) -> None:
        """Show all artifacts: state, date, size, metric, next step.

        An artifact is below the one that it was made from."""
        from genrec_cli import console
        from genrec_cli.stages.status import lines, matching, next_step, survey

        common.layers("status")
        ws = common.workspace()
        trees = {name: survey(ws, name) for name in ([ws.dataset(common.dataset)] if common.dataset else ws.datasets())}
        following = {name: next_step(name, nodes) for name, nodes in trees.items()}
        if word:
            trees = {name: found for name, nodes in trees.items() if (found := matching(nodes, word))}
        text = [line for name, nodes in trees.items() for line in (name, *lines(nodes, console.width()))]
        facts = [
            {"dataset": name, "next": following[name], "artifacts": [node.facts() for node in nodes]}
            for name, nodes in trees.items()
        ]
        console.emit({"schema": 1, "root": str(ws.root), "datasets": facts}, text="\n".join(text) if text else None)
        for name in trees:
            if following[name]:
                console.say(f"next for {name}: {following[name]}")
        if word and not trees:
            console.say(f"No artifact has '{word}' in its name.")
        elif not trees:
            console.say(f"There is nothing under {ws.root} yet. Start with: genrec run quickstart")

    @command(app, "doctor")
    def doctor(common: Common) -> None:
        """Check this machine: Python, packages, device, memory, disk.

        The exit code is 0 if genrec can be used."""
        from genrec_cli import console
        from genrec_cli.stages.doctor import PROBLEM, examine

        common.layers("doctor")
        checks = examine(common.root)
        ready = all(check.state != PROBLEM for check in checks)
        console.emit({"schema": 1, "usable": ready, "checks": [check._asdict() for check in checks]})
        console.table("", ["check", "state", "found"], ([c.name, c.state, c.found] for c in checks), to_stdout=True)
        for check in checks:
            if check.remedy:
                console.say(f"{check.name}: {check.remedy}", level=0)
        if not ready:
            console.say("genrec cannot be used here yet: see the lines above.", level=0)
            raise typer.Exit(3)
        console.say("genrec can be used here.", level=0)


def _entries(common: Common, kind: str) -> list[dict[str, Any]]:
    """One row per name or artifact of a kind; the kind is in the singular or the plural."""
    from genrec_cli.artifacts import KINDS
    from genrec_cli.config import did_you_mean
    from genrec_cli.errors import UsageError
    from genrec_cli.registry import TABLE, names, plural
    from genrec_cli.stages import recipe

    ws = common.workspace()
    singular = {plural(name): name for name in TABLE}
    known = [*singular, "recipes", "datasets", *KINDS]
    kind = plural(kind) if plural(kind) in known else kind
    if kind not in known:
        raise UsageError(f"There is no kind '{kind}'.{did_you_mean(kind, known)}", hint=f"Kinds: {', '.join(known)}")
    if kind == "recipes":
        heads = [(name, recipe.read_recipe(name).head) for name in recipe.names(recipe.RECIPES)]
        return [{"name": name, "dataset": head.dataset, "what": head.title} for name, head in heads]
    if kind == "datasets":
        return _datasets(ws)
    if kind in KINDS:
        return _artifacts(ws, common.dataset, kind)
    kind = singular[kind]
    return [{"name": name, "what": _summary(TABLE[kind].get(name))} for name in names(kind)]


def _datasets(ws: "Workspace") -> list[dict[str, Any]]:
    """The data sets under the root, then those that can be downloaded, with size and terms of use where known."""
    from genrec_cli.artifacts import KINDS
    from genrec_cli.sources.datasets import listed

    published: dict[str, dict[str, Any]] = {str(row["name"]): row for row in listed()}
    here = ws.datasets()
    own = dict.fromkeys(("source", "MiB", "terms"))
    rows: list[dict[str, Any]] = [
        {"name": name} | own | published.get(name, {}) for name in dict.fromkeys([*here, *published])
    ]
    return [row | {"artifacts": sum(len(ws.all(row["name"], kind)) for kind in KINDS)} for row in rows]


def _summary(target: str | None) -> str:
    """First line of a module's docstring, without an import of the module: a model imports torch."""
    import ast
    from importlib.util import find_spec

    if target is None:
        return "from another package"
    spec = find_spec(target.partition(":")[0])
    assert spec and spec.origin
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def _artifacts(ws: "Workspace", dataset: str | None, kind: str) -> list[dict[str, Any]]:
    """One row per artifact of a kind, over all data sets or one."""
    from datetime import datetime

    from genrec_cli.stages.status import survey

    rows = []
    for name in [ws.dataset(dataset)] if dataset else ws.datasets():
        for facts in (node.facts() for node in survey(ws, name) if node.kind == kind):
            started, size = facts["started"], facts["bytes"]
            row = {"dataset": name, "name": Path(facts["path"]).name, "state": facts["state"]}
            row["made"] = started and datetime.fromtimestamp(started).strftime("%Y-%m-%d %H:%M")
            rows.append(row | {"seconds": facts["seconds"], "MiB": size and round(size / 2**20, 1)})
    return rows


def _shown(entry: dict[str, Any]) -> list[Any]:
    """The values of a row for people: durations in words, sizes with one digit."""
    from genrec_cli.stages.run import duration

    if "terms" in entry:
        size = entry["MiB"]
        entry = entry | {"MiB": None if size is None else str(size), "artifacts": entry["artifacts"] or None}
    if "seconds" in entry:
        size = entry["MiB"]
        entry = entry | {"seconds": duration(entry["seconds"]), "MiB": None if size is None else f"{size:.1f}"}
    return list(entry.values())
