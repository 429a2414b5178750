"""The artifacts under a root, their states and their lineage. Reads manifests and files whose time stamp changed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genrec_cli.artifacts import KINDS, STAGE_OF, Artifact, Workspace
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
    """The command that repairs it."""
    artifact: Artifact | None = None
    """None if it is partial or damaged."""
    parent: "Node | None" = None
    """The input that is last in the pipeline."""
    children: list["Node"] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """All but the tree, for ``--json``; ``inputs`` are paths relative to the root. Unknown values are None."""
        manifest = self.artifact.manifest if self.artifact else {}
        facts: dict[str, Any] = {name: getattr(self, name) for name in ("kind", "state", "why", "command")}
        facts |= {name: manifest.get(name) for name in ("key", "digest", "tainted", "started", "seconds")}
        size = sum(file["bytes"] for file in manifest["files"].values()) if manifest else None
        inputs = [source["path"] for source in manifest.get("inputs", {}).values()]
        return facts | {"path": str(self.path), "bytes": size, "inputs": inputs}


def survey(ws: Workspace, dataset: str) -> list[Node]:
    """Every artifact of a data set, finished or not, in the order of the pipeline."""
    nodes: dict[str, Node] = {}
    for kind in KINDS:
        for path in sorted((ws.root / dataset / kind).glob("*/")):
            node = _node(ws, dataset, kind, path)
            parents = [nodes[name] for name in node.facts()["inputs"] if name in nodes]
            for parent in sorted(parents, key=lambda parent: KINDS.index(parent.kind)):
                node.parent = parent
                if parent.state != "fresh":  # the repair of the parent may be enough
                    node.why, node.command = f"{parent.kind}/{parent.path.name} is {parent.state}", None
            if node.parent:
                node.parent.children.append(node)
            nodes[path.relative_to(ws.root).as_posix()] = node
    return list(nodes.values())


def lines(nodes: Iterable[Node], parent: Node | None = None, depth: int = 1) -> Iterator[str]:
    """The tree below a node as indented lines: kind, name, state, and below it the command that repairs it."""
    for node in nodes:
        if node.parent is parent:
            tainted = node.state == "fresh" and node.artifact and node.artifact.tainted
            state = node.state + (", from stale inputs" if tainted else "") + (f": {node.why}" if node.why else "")
            yield f"{'  ' * depth}{node.kind + '/' + node.path.name:<{max(1, 44 - 2 * depth)}} {state}"
            if node.command:
                yield f"{'  ' * depth}    try: {node.command}"
            yield from lines(node.children, node, depth + 1)


def _node(ws: Workspace, dataset: str, kind: str, path: Path) -> Node:
    stage = f"genrec {STAGE_OF[kind]} --dataset {dataset}"
    if path.name.startswith("."):
        reason = "left by a process that was killed or still runs"
        return Node(kind, path, "partial", reason, f"{stage}    starts again and removes this folder")
    model, found, seed = path.name.rpartition("-")[0].rpartition("-s")
    named = f"{stage} --model {model} --seed {seed}" if kind == "runs" and found and seed.isdigit() else stage
    try:
        artifact = ws.read(path)
        if artifact is None:
            command = f"{named}    with the options it was begun with goes on"
            return Node(kind, path, "partial", "begun and not finished", command)
        why = ws.stale(artifact)
    except DataError as error:
        return Node(kind, path, "damaged", error.message, error.hint)
    return Node(kind, path, "stale" if why else "fresh", why, artifact.remake if why else None, artifact)
