"""How an artifact is made: in a draft folder, under a lock, with the manifest written last.

A draft is a hidden sibling of the final folder and is renamed when it is complete. A *resumable* draft (a download, a
training run, vectors of a sentence encoder) is the final folder itself, so that the same command can go on with it.
"""

import contextlib
import json
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genrec_cli import __version__
from genrec_cli.artifacts.finding import Finder
from genrec_cli.artifacts.identity import MANIFEST, STAGE_OF, Artifact, Plan
from genrec_cli.errors import UsageError
from genrec_cli.files import locked, sha256_file, write_atomically

CARD = "README.md"
"""The model card of a run. Its text may be edited, so it is not among the files that are hashed."""


class Draft:
    """An artifact that is being made: write files under :attr:`path`, put statistics in :attr:`result`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scratch = path / "unfinished"
        """For files that only the making needs. They are not part of the artifact and are removed at the end."""
        self.result: dict[str, Any] = {}

    def files(self) -> dict[str, dict[str, Any]]:
        """Name -> size, hash and time stamp of the files that belong to the artifact."""
        files = {}
        for path in sorted(self.path.rglob("*")):
            name = path.relative_to(self.path).as_posix()
            temporary = path.is_relative_to(self.scratch) or path.match(".*.tmp")  # the latter is left by a kill
            if path.is_file() and not temporary and name not in (MANIFEST, CARD):
                stat = path.stat()
                files[name] = {"bytes": stat.st_size, "sha256": sha256_file(path), "mtime_ns": stat.st_mtime_ns}
        return files


class Workspace(Finder):
    """The artifact root: finds, checks and makes artifacts."""

    def path(self, plan: Plan) -> Path:
        """The folder of a plan's artifact."""
        return self.root / plan.dataset / plan.kind / plan.name

    def done(self, plan: Plan) -> Artifact | None:
        """The finished artifact of a plan if it is there, unchanged, and made from these very inputs."""
        artifact = self.read(self.path(plan))
        if artifact is None or artifact.key != plan.key or (artifact.tainted and not self.allow_stale):
            return None
        inputs = artifact.manifest["inputs"]
        same = all(inputs[name]["digest"] == source.digest for name, source in plan.inputs.items())
        return artifact if same and not self.stale(artifact) else None

    def made(self, plan: Plan) -> Artifact:
        """What :meth:`build` has just made of a plan."""
        artifact = self.read(self.path(plan))
        assert artifact is not None
        return artifact

    @contextlib.contextmanager
    def build(self, plan: Plan, *, resumable: bool = False, force: bool = False) -> Iterator[Draft]:
        """Make an artifact: yields a :class:`Draft`, which becomes the artifact unless an error is raised.

        Args:
            resumable: after an error, keep what was written, so that the same command goes on.
            force: begin a resumable artifact anew.

        Raises:
            InputError: another process makes the same artifact.
        """
        final = self.path(plan)
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            hint = "--root FOLDER or GENREC_ROOT=FOLDER    chooses another place"
            raise UsageError(f"{final.parent} cannot be made: {error.strerror}.", hint=hint) from None
        started = time.time()
        old = final.parent / f".{final.name}.old"
        try:
            with locked(final.parent / f".{final.name}.lock", final):
                if old.exists() and not final.exists():  # a kill between the two renames below
                    old.rename(final)
                with _draft(final, resumable, force) as draft:
                    yield draft
                manifest = self._manifest(plan, draft, started)
                text = json.dumps(manifest, indent=2, sort_keys=True, allow_nan=False)
                write_atomically(draft.path / MANIFEST, f"{text}\n".encode())
                shutil.rmtree(draft.scratch, ignore_errors=True)
                if draft.path != final:
                    shutil.rmtree(old, ignore_errors=True)
                    if final.exists():
                        final.rename(old)
                    draft.path.rename(final)
                    shutil.rmtree(old, ignore_errors=True)
        finally:
            with contextlib.suppress(OSError):  # a failure leaves no empty data set behind
                final.parent.rmdir()
                final.parent.parent.rmdir()

    def _manifest(self, plan: Plan, draft: Draft, started: float) -> dict[str, Any]:
        files = draft.files()
        return {
            "schema": 1,
            "stage": STAGE_OF[plan.kind],
            "kind": plan.kind,
            "dataset": plan.dataset,
            "version": plan.version,
            "key": plan.key,
            "digest": plan.digest(files),
            "config": plan.config,
            "inputs": {name: source.reference(self.root) for name, source in plan.inputs.items()},
            "external": dict(plan.external),
            "files": files,
            "environment": _environment(self.argv),
            "started": started,
            "seconds": round(time.time() - started, 3),
            "result": draft.result,
            "tainted": any(source.tainted or self.stale(source) for source in plan.inputs.values()),
        }


@contextlib.contextmanager
def _draft(final: Path, resumable: bool, force: bool) -> Iterator[Draft]:
    """The folder to write to. After an error a resumable one stays if it holds a file."""
    if resumable:
        if force and final.exists():
            shutil.rmtree(final)
        (final / MANIFEST).unlink(missing_ok=True)
        draft = Draft(final)
    else:
        draft = Draft(final.parent / f".{final.name}.making")
        shutil.rmtree(draft.path, ignore_errors=True)
    draft.path.mkdir(exist_ok=True)
    try:
        yield draft
    except BaseException:
        if not (resumable and any(path.is_file() for path in final.rglob("*"))):
            shutil.rmtree(draft.path, ignore_errors=True)
        raise


def _environment(argv: list[str]) -> dict[str, Any]:
    """Versions and the command line. Imports nothing that is not imported yet."""
    packages = ("torch", "numpy", "polars", "pyarrow", "faiss", "sentence_transformers", "sklearn")
    versions = {name: str(sys.modules[name].__version__) for name in packages if name in sys.modules}
    return {"genrec": __version__, "python": platform.python_version(), "packages": versions, "argv": argv}
