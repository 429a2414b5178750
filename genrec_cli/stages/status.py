"""The artifacts under a root, their states and their lineage. Reads manifests and files whose time stamp changed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from genrec_cli.artifacts import KINDS, STAGE_OF, Artifact, Draft, Workspace, typed_again
from genrec_cli.errors import DataError

MAKERS = ("import", "blend", "sweep", "tune")
"""Commands that make artifacts whose kind has another stage; the same command goes on with what it has begun."""


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

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The inputs of a finished artifact, as its manifest has them."""
        return self.artifact.manifest["inputs"] if self.artifact else {}

    def facts(self) -> dict[str, Any]:
        """All but the tree, for ``--json``; ``inputs`` are paths relative to the root. Unknown values are None."""
        manifest = self.artifact.manifest if self.artifact else {}
        facts: dict[str, Any] = {name: getattr(self, name) for name in ("kind", "state", "why", "command")}
        facts |= {name: manifest.get(name) for name in ("key", "digest", "tainted", "started", "seconds")}
        size = sum(file["bytes"] for file in manifest["files"].values()) if manifest else None
        inputs = [source["path"] for source in manifest.get("inputs", {}).values()]
        facts |= {"path": str(self.path), "bytes": size, "inputs": inputs}
        return facts | {"metric": self.artifact and _metric(self.artifact)}

    def summary(self) -> list[str]:
        """When a finished artifact was made, its size, and its metric if it has one."""
        facts = self.facts()
        made = datetime.fromtimestamp(facts["started"]).strftime("%m-%d %H:%M")
        metric = facts["metric"]
        shown = f"{metric['name']} {metric['value']:.4f}" if metric else ""
        return [made, f"{facts['bytes'] / 2**20:.1f} MiB", *([shown] if shown else [])]


def _metric(artifact: Artifact) -> dict[str, Any] | None:
    """The metric of a run (of the validation) or of an evaluation: its largest NDCG cutoff, with seen items kept."""
    result = artifact.result
    values = {"runs": result.get("valid"), "eval": (result.get("metrics") or {}).get("kept")}.get(artifact.kind) or {}
    names = [name for name in values if name.startswith("NDCG@")]
    if not names:
        return None
    name = max(names, key=lambda name: int(name.partition("@")[2]))
    return {"name": name, "value": values[name]}


def matching(nodes: Sequence[Node], word: str) -> list[Node]:
    """The artifacts whose ``KIND/NAME`` contains a word, and those that they were made from."""
    kept: set[Path] = set()
    for node in nodes:
        found: Node | None = node if word in f"{node.kind}/{node.path.name}" else None
        while found:
            kept.add(found.path)
            found = found.parent
    chosen = [node for node in nodes if node.path in kept]
    for node in chosen:
        node.children = [child for child in node.children if child.path in kept]
    return chosen


def next_step(dataset: str, nodes: Sequence[Node]) -> str | None:
    """What to type next: to continue or repair what is not fresh, or the next stage; None after an evaluation."""
    if command := next((node.command for node in nodes if node.command), None):
        return command
    kinds = {node.kind for node in nodes}
    measured = {path for node in nodes if node.kind == "eval" for path in node.facts()["inputs"]}
    unmeasured = [n for n in nodes if n.kind == "runs" and f"{dataset}/runs/{n.path.name}" not in measured]
    if unmeasured:
        return f"genrec evaluate --dataset {dataset} --run {unmeasured[0].path.name}"
    if "data" not in kinds:
        return f"genrec preprocess --dataset {dataset}"
    if "runs" not in kinds:
        return f"genrec {'train' if 'codes' in kinds else 'tokenize'} --dataset {dataset}"
    return None


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


def lines(nodes: Iterable[Node], width: int, parent: Node | None = None, depth: int = 1) -> Iterator[str]:
    """The tree below a node as indented lines: kind, name, state, and below it the command that repairs it.

    The state has a line of its own if both do not fit into ``width``.
    """
    for node in nodes:
        if node.parent is parent:
            tainted = node.state == "fresh" and node.artifact and node.artifact.tainted
            state = node.state + (", from stale inputs" if tainted else "") + (f": {node.why}" if node.why else "")
            more = node.summary() if node.state == "fresh" else []
            name = f"{node.kind}/{node.path.name}"
            named, facts = f"{'  ' * depth}{name:<{max(1, 34 - 2 * depth)}}", "  ".join([state, *more])
            fits = len(named) + 2 + len(facts) <= width
            yield from [f"{named}  {facts}"] if fits else [named.rstrip(), f"{'  ' * depth}    {facts}"]
            if node.command:
                yield f"{'  ' * depth}    try: {node.command}"
            yield from lines(node.children, width, node, depth + 1)


def _node(ws: Workspace, dataset: str, kind: str, path: Path) -> Node:
    stage = f"genrec {STAGE_OF[kind]} --dataset {dataset}"
    typed = typed_again(Draft(path).argv, (STAGE_OF[kind], *MAKERS), dataset)
    if path.name.startswith("."):
        reason = "left by a process that was killed or still runs"
        return Node(kind, path, "partial", reason, f"{typed or stage}    starts again and removes this folder")
    model, found, seed = path.name.rpartition("-")[0].rpartition("-s")
    named = f"{stage} --model {model} --seed {seed}" if kind == "runs" and found and seed.isdigit() else stage
    try:
        artifact = ws.read(path)
        if artifact is None:
            command = f"{typed}    goes on" if typed else f"{named}    goes on, with the options of its beginning"
            return Node(kind, path, "partial", "begun and not finished", command)
        why = ws.stale(artifact)
    except DataError as error:
        return Node(kind, path, "damaged", error.message, error.hint)
    return Node(kind, path, "stale" if why else "fresh", why, artifact.remake if why else None, artifact)
