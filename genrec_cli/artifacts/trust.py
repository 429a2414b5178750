"""Whether an artifact can be used: its files and all that it was made from are as they were when it was made."""

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
    """Reads artifacts under a root, and checks them together with everything they were made from."""

    def __init__(self, root: Path, *, allow_stale: bool = False, argv: Sequence[str] | None = None) -> None:
        self.root = root
        self.allow_stale = allow_stale
        self.argv = list(sys.argv[1:] if argv is None else argv)
        """The command line that manifests record; a step of a recipe has its own."""

    def read(self, path: Path) -> Artifact | None:
        """The artifact in a folder, or None if it is not finished. A damaged manifest is a DataError."""
        file = path / MANIFEST
        try:
            stat = file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        manifest = _manifest(file, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if manifest is None:
            hint = f"Delete it and run the stage again: rm {file}    keeps what else is there"
            raise DataError(f"{file} is damaged.", hint=hint)
        return Artifact(path, manifest)

    def stale(self, artifact: Artifact) -> str | None:
        """Why an artifact must not be used, or None: a file or an input has changed since it was made.

        Each ancestor is checked once in a call. Two calls both look at the files: hours may lie between them.
        """
        waiting, seen = [artifact], {artifact.path}
        while waiting:
            current = waiting.pop()
            if why := _changed_file(current):
                return why
            for name, facts in current.manifest["inputs"].items():
                source = f"the input {name} of {current.path.name} ({facts['path']})"
                found = self.read(self.root / facts["path"])
                if found is None:
                    return f"{source} is gone"
                if found.digest != facts["digest"]:
                    return f"{source} was made again with other content"
                if found.path not in seen:
                    seen.add(found.path)
                    waiting.append(found)
        return None

    def verified(self, artifact: Artifact) -> Artifact:
        """The artifact itself if nothing has changed or stale artifacts are allowed, else an InputError."""
        if not self.allow_stale and (why := self.stale(artifact)):
            hint = f"{artifact.command} --force    makes it again; --allow-stale uses it and marks every later number"
            raise InputError(f"{artifact.path.name} is stale: {why}.", hint=hint)
        return artifact

    def input(self, artifact: Artifact, name: str) -> Artifact:
        """An input that an artifact was made from, verified to be the same as then."""
        found = self.read(self.root / self.verified(artifact).manifest["inputs"][name]["path"])
        if found is None:
            raise InputError(f"{artifact.path.name} was made from a {name} that is gone.")
        return found


@functools.cache
def _manifest(file: Path, inode: int, size: int, mtime_ns: int) -> Any:
    """The content of a manifest, or None if it is damaged; read once as long as the file is the same."""
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return manifest if is_sound(manifest) else None


def _changed_file(artifact: Artifact) -> str | None:
    """Which file has changed. Bytes are hashed only where the size is the same and the time stamp is not."""
    for name, facts in artifact.manifest["files"].items():
        path = artifact.path / name
        if not path.is_file():
            return f"{path} is gone"
        size, mtime_ns = path.stat().st_size, path.stat().st_mtime_ns
        same = size == facts["bytes"]
        if same and mtime_ns != facts["mtime_ns"]:
            same = sha256_once(path, size, mtime_ns) == facts["sha256"]
        if not same:
            return f"{path} was changed after it was made"
    return None
