"""Staleness: whether the files of an artifact and of all its ancestors are as they were when it was made."""

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genrec_cli.artifacts.identity import MANIFEST, Artifact, is_sound
from genrec_cli.errors import DataError, InputError
from genrec_cli.files import sha256_once


class Lineage:
    """Reads and checks artifacts under a root. ``argv``: the command line that manifests record."""

    def __init__(self, root: Path, *, allow_stale: bool = False, argv: Sequence[str] | None = None) -> None:
        self.root, self.allow_stale = root, allow_stale
        self.argv = list(sys.argv[1:] if argv is None else argv)

    def read(self, path: Path) -> Artifact | None:
        """The artifact in a folder; None if it is not finished. Raises DataError if the manifest is damaged."""
        file = path / MANIFEST
        try:
            stat = file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        manifest = _manifest(file, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if manifest is None:
            raise DataError(
                f"{file} is damaged.", hint=f"Run the stage again after: rm {file}    keeps all other files"
            )
        return Artifact(path, manifest)

    def stale(self, artifact: Artifact) -> str | None:
        """Which file or input of the lineage has changed, in words; None if nothing has."""
        found = self._changed(artifact)
        return found[1] if found else None

    def _changed(self, artifact: Artifact) -> tuple[Artifact, str] | None:
        """The artifact of the lineage that has to be made again, and why; None if nothing has changed. Nothing is
        cached, as hours may lie between two calls."""
        waiting, seen = [artifact], {artifact.path}
        while waiting:
            current = waiting.pop()
            if why := _changed_file(current):
                return current, why
            for name, entry in current.manifest["inputs"].items():
                source = f"the input {name} of {current.path.name} ({entry['path']})"
                found = self.read(self.root / entry["path"])
                if found is None:
                    return current, f"{source} is gone"
                if found.digest != entry["digest"]:
                    return current, f"{source} was made again with other content"
                if found.path not in seen:
                    seen.add(found.path)
                    waiting.append(found)
        return None

    def verified(self, artifact: Artifact) -> Artifact:
        """The artifact itself. Raises InputError if it is stale, unless stale artifacts are allowed."""
        if not self.allow_stale and (found := self._changed(artifact)):
            changed, why = found
            it = "it" if changed.path == artifact.path else f"{changed.kind}/{changed.path.name}"
            hint = f"{changed.remake}    makes {it} again; --allow-stale uses it and marks all later results"
            raise InputError(f"{artifact.path.name} is stale: {why}.", hint=hint)
        return artifact

    def input(self, artifact: Artifact, name: str) -> Artifact:
        """The named input of an artifact; both are verified."""
        found = self.read(self.root / self.verified(artifact).manifest["inputs"][name]["path"])
        if found is None:
            raise InputError(f"{artifact.path.name} was made from a {name} that is gone.")
        return found


@functools.cache
def _manifest(file: Path, inode: int, size: int, mtime_ns: int) -> Any:
    """The content of a manifest, None if it is damaged; cached while the file is the same."""
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return manifest if is_sound(manifest) else None


def _changed_file(artifact: Artifact) -> str | None:
    """Which file has changed, in words. A file is hashed only if its size is the same and its time stamp is not."""
    for name, entry in artifact.manifest["files"].items():
        path = artifact.path / name
        if not path.is_file():
            return f"{path} is gone"
        size, mtime_ns = path.stat().st_size, path.stat().st_mtime_ns
        if (size, mtime_ns) == (entry["bytes"], entry["mtime_ns"]):
            continue
        if size != entry["bytes"] or sha256_once(path, size, mtime_ns) != entry["sha256"]:
            return f"{path} was changed after it was made"
    return None
