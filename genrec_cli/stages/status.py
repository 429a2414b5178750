"""What lies under the root and whether it can be used: the lineage of every data set.

Reads manifests only, plus the bytes of files whose time stamp changed. A damaged manifest is reported
like any other trouble instead of stopping the survey.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genrec_cli.artifacts import KINDS, STAGE_OF, Workspace
from genrec_cli.errors import DataError


@dataclass
class Node:
    """One folder of an artifact root."""

    kind: str
    path: Path
    state: str
    """``fresh``, ``stale``, ``partial`` (begun, not finished) or ``damaged``."""
    why: str | None = None
    command: str | None = None
    """What to type to mend it."""
    key: str | None = None
    digest: str | None = None
    tainted: bool = False
    started: float | None = None
    seconds: float | None = None
    bytes: int | None = None
    inputs: list[str] = field(default_factory=list)
    """Paths of its inputs, relative to the root."""
    made_from_it: list["Node"] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """For ``--json``: everything but the children, which can be read off ``inputs``."""
        values = {name: value for name, value in vars(self).items() if name != "made_from_it"}
        return {**values, "path": str(self.path)}


def survey(ws: Workspace, dataset: str) -> list[Node]:
    """Every artifact of a data set, finished or not, in the order of the pipeline."""
    nodes: dict[str, Node] = {}
    for kind in KINDS:
        folder = ws.root / dataset / kind
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not path.is_dir():
                continue
            node = nodes[path.relative_to(ws.root).as_posix()] = _node(ws, dataset, kind, path)
            amiss = [nodes[name] for name in node.inputs if name in nodes and nodes[name].state != "fresh"]
            if amiss:  # mending the parent may be all that is needed
                parent = max(amiss, key=lambda parent: KINDS.index(parent.kind))
                node.why, node.command = f"{parent.kind}/{parent.path.name} is {parent.state}", None
    return list(nodes.values())


def lineage(ws: Workspace, nodes: list[Node]) -> list[Node]:
    """Hang each node below the latest of its inputs in the pipeline; returns those that have none."""
    by_path = {node.path.relative_to(ws.root).as_posix(): node for node in nodes}
    roots = []
    for node in nodes:
        parents = [by_path[path] for path in node.inputs if path in by_path]
        if parents:
            max(parents, key=lambda parent: KINDS.index(parent.kind)).made_from_it.append(node)
        else:
            roots.append(node)
    return roots


def lines(roots: list[Node], depth: int = 1) -> Iterator[str]:
    """The tree as indented lines: state, kind, name; below a node in trouble, what to type."""
    for node in roots:
        state = f"{node.state}, from stale inputs" if node.tainted and node.state == "fresh" else node.state
        why = f": {node.why}" if node.why else ""
        yield f"{'  ' * depth}{node.kind + '/' + node.path.name:<{max(1, 44 - 2 * depth)}} {state}{why}"
        if node.command:
            yield f"{'  ' * depth}    try: {node.command}"
        yield from lines(node.made_from_it, depth + 1)


def _node(ws: Workspace, dataset: str, kind: str, path: Path) -> Node:
    stage = f"genrec {STAGE_OF[kind]} --dataset {dataset}"
    if path.name.startswith("."):
        why = "left by a process that was killed or still runs"
        return Node(kind, path, "partial", why, f"{stage}    begins it again and clears this away")
    try:
        artifact = ws.read(path)
        if artifact is None:
            command = f"{stage}{_run_options(kind, path)}    with the options it was begun with goes on"
            return Node(kind, path, "partial", "begun and not finished", command)
        why = ws.stale(artifact)
        manifest = artifact.manifest
        again = artifact.command + (_run_options(kind, path) if artifact.command == stage else "")
        return Node(
            kind,
            path,
            "stale" if why else "fresh",
            why,
            f"{again} --force" if why else None,
            key=artifact.key,
            digest=artifact.digest,
            tainted=artifact.tainted,
            started=manifest["started"],
            seconds=manifest["seconds"],
            bytes=sum(int(facts["bytes"]) for facts in manifest["files"].values()),
            inputs=[str(facts["path"]) for facts in manifest["inputs"].values()],
        )
    except DataError as error:
        return Node(kind, path, "damaged", error.message, error.hint)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return Node(kind, path, "damaged", f"its manifest has another form ({error!r})", f"rm -r {path}")


def _run_options(kind: str, path: Path) -> str:
    """The options that a run's folder name ``<model>-s<seed>-<key>`` gives away."""
    model, found, seed = path.name.rpartition("-")[0].rpartition("-s")
    return f" --model {model} --seed {seed}" if kind == "runs" and found and seed.isdigit() else ""
