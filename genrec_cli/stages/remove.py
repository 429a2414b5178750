"""rm and gc: remove artifacts, and find those that nothing needs."""

import contextlib
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from genrec_cli.artifacts import KINDS, MANIFEST, Artifact, Workspace
from genrec_cli.config import canonical_json, did_you_mean
from genrec_cli.errors import InputError
from genrec_cli.files import locked
from genrec_cli.stages.status import Node, survey


def find(ws: Workspace, dataset: str, names: Sequence[str], *, dependants: bool) -> list[Node]:
    """The artifacts of these names, finished or not; with ``dependants`` also all that was made from them.

    Args:
        names: ``NAME`` or ``KIND/NAME`` of a folder, or a label that one folder has.

    Raises:
        InputError: no artifact or several have a name, or others were made from one.
    """
    nodes = survey(ws, dataset)
    found = [_one(nodes, name, ws.root / dataset) for name in names]
    more = _made_from(ws, nodes, found)
    if more and not dependants:
        listed = "\n".join(f"  {node.kind}/{node.path.name}" for node in more)
        hint = "--with-dependants    removes these too"
        raise InputError(f"{len(more)} artifact(s) were made from it:\n{listed}", hint=hint)
    return _in_order(nodes, [*found, *more])


def unneeded(ws: Workspace, dataset: str, *, superseded: bool) -> list[Node]:
    """What nothing fresh depends on: stale and damaged artifacts, and folders that killed processes left.

    An unfinished artifact that can go on (a training, a download) is kept.

    Args:
        superseded: also data of an earlier state of the same files, with all that was made from them. A run stays,
            with its inputs and evaluations, until the same training was done on later data.
    """
    nodes = survey(ws, dataset)
    gone = [node for node in nodes if node.state in ("stale", "damaged") or _left_over(node)]
    if superseded:
        old = [node for node in nodes if node.kind == "data" and _is_superseded(node, nodes)]
        made = _made_from(ws, nodes, old, of_these_data=True)
        lasting = [node for node in made if node.kind == "runs" and not _is_trained_again(ws, node, nodes)]
        stay = {node.path for node in [*lasting, *_made_from(ws, nodes, lasting)]}
        gone += [node for node in [*old, *made] if node.path not in stay]
    dropped = {node.path for node in gone}
    kept = [node for node in nodes if node.path not in dropped and node.state == "fresh"]
    needed: set[Path] = set()
    waiting = [ws.root / path for node in kept for path in node.facts()["inputs"]]
    inputs = {node.path: [ws.root / path for path in node.facts()["inputs"]] for node in nodes}
    while waiting:
        path = waiting.pop()
        if path not in needed:
            needed.add(path)
            waiting += inputs.get(path, [])
    return _in_order(nodes, [node for node in nodes if node.path in dropped - needed])


def remove(nodes: Iterable[Node]) -> None:
    """Remove artifacts, each by one rename before its files. Raises InputError if a process makes one of them."""
    for node in nodes:
        path = node.path
        if _left_over(node):
            with locked(path.parent / f".{_name_of(path)}.lock", path):
                shutil.rmtree(path)
        else:
            with locked(path.parent / f".{path.name}.lock", path):
                gone = path.parent / f".{path.name}.removed"
                shutil.rmtree(gone, ignore_errors=True)
                path.rename(gone)
                shutil.rmtree(gone)
        with contextlib.suppress(OSError):  # the folders of a kind and of a data set, if they are empty now
            path.parent.rmdir()
            path.parent.parent.rmdir()


def size_of(nodes: Iterable[Node]) -> int:
    """Bytes on the disk, also of unfinished artifacts."""
    files = (file for node in nodes for file in node.path.rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file())


def _one(nodes: Sequence[Node], name: str, place: Path) -> Node:
    """The artifact of a name."""
    kind, _, folder = name.rstrip("/").rpartition("/")
    if "/" in kind or name.startswith(("/", ".")):  # a path: never another artifact of the same name
        paths = {Path(name).resolve(), (place.parent / name).resolve()}
        among = [node for node in nodes if node.path.resolve() in paths]
    else:
        among = [node for node in nodes if not kind or node.kind == kind]
    found = [node for node in among if node.path.name == folder]
    found = found or [node for node in among if node.path.name.rpartition("-")[0] == folder]
    if not found:
        known = [node.path.name for node in among]
        near = did_you_mean(folder, [*known, *(name.rpartition("-")[0] for name in known)])
        raise InputError(
            f"There is no artifact '{name}' in {place}.{near}", hint="genrec status    lists all artifacts"
        )
    if len(found) > 1:
        listed = "\n".join(f"  {node.kind}/{node.path.name}" for node in found)
        raise InputError(f"{len(found)} artifacts are named '{name}':\n{listed}", hint="Type one of these in full")
    return found[0]


def _made_from(
    ws: Workspace, nodes: Sequence[Node], sources: Iterable[Node], *, of_these_data: bool = False
) -> list[Node]:
    """All artifacts that were made from some, directly or not, without these.

    ``of_these_data`` leaves out those of other data, such as new codes by an old codebook.
    """
    first = {node.path for node in sources}
    reached, before = set(first), -1
    while len(reached) > before:
        before = len(reached)
        for node in nodes:
            inputs = {name: ws.root / entry["path"] for name, entry in node.inputs.items()}
            of_others = of_these_data and inputs.get("data", node.path) not in {*reached, node.path}
            if not of_others and reached & set(inputs.values()):
                reached.add(node.path)
    return [node for node in nodes if node.path in reached - first]


def _in_order(nodes: Sequence[Node], chosen: Iterable[Node]) -> list[Node]:
    """Dependants first, so that a kill leaves no artifact without its inputs."""
    paths = {node.path for node in chosen}
    return sorted((node for node in nodes if node.path in paths), key=lambda node: -KINDS.index(node.kind))


def _is_superseded(node: Node, nodes: Iterable[Node]) -> bool:
    """Whether the same settings were applied to a later state of the same files outside of the root."""
    return bool(node.artifact and node.artifact.manifest["external"]) and any(
        _recipe(other.artifact) == _recipe(node.artifact)
        for other in nodes
        if other.state == "fresh" and _started(other) > _started(node)
    )


def _is_trained_again(ws: Workspace, run: Node, nodes: Iterable[Node]) -> bool:
    """Whether the same training, with equal settings, was done on later data of equal settings."""
    data = {node.path: (_recipe(node.artifact), _started(node)) for node in nodes if node.kind == "data"}

    def origin(node: Node) -> tuple[str, float]:
        return data.get(ws.root / node.inputs["data"]["path"], ("", 0.0))

    recipe, started = origin(run)
    same = (node for node in nodes if node.kind == "runs" and node.state == "fresh")
    same = (node for node in same if _recipe(node.artifact) == _recipe(run.artifact))
    return any(origin(node)[0] == recipe and origin(node)[1] > started for node in same)


def _recipe(artifact: Artifact | None) -> str:
    """Kind, settings and names of the inputs, without their content; empty for what is not finished."""
    if artifact is None:
        return ""
    manifest = artifact.manifest
    names = [sorted(manifest["inputs"]), sorted(manifest["external"])]
    return canonical_json([artifact.kind, artifact.label, artifact.config, names])


def _started(node: Node) -> float:
    return float(node.artifact.manifest["started"]) if node.artifact else 0.0


def _left_over(node: Node) -> bool:
    """Whether a killed process left a hidden folder, which no command continues. What was being removed may still have
    its manifest."""
    hidden = node.path.name.startswith(".")
    return hidden and (node.path.suffix == ".removed" or not (node.path / MANIFEST).exists())


def _name_of(path: Path) -> str:
    """``NAME`` of a hidden folder ``.NAME.making``."""
    return path.name[1:].rpartition(".")[0]
