"""Atomic writing of artifacts: a draft folder under a file lock, and the manifest last.

The draft is a hidden sibling of the final folder and is renamed at the end. A *resumable* draft (a download, a training
run, vectors of a sentence encoder) is the final folder itself, so that the same command continues it.
"""

import contextlib
import json
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from genrec_cli import __version__
from genrec_cli.artifacts.finding import Finder
from genrec_cli.artifacts.identity import MANIFEST, STAGE_OF, Artifact, Plan
from genrec_cli.errors import GenrecError, UsageError, of_the_disk
from genrec_cli.files import locked, sha256_file, write_atomically

CARD = "README.md"
"""The model card of a run. It is not hashed, so that it may be edited."""
COMMAND = "command"
"""In the scratch folder of a draft: the words of the command line that makes it, with null characters between them."""


class Draft:
    """An unfinished artifact: a stage writes files under :attr:`path` and statistics into :attr:`result`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scratch = path / "unfinished"
        """Folder for temporary files; it is removed at the end."""
        self.result: dict[str, Any] = {}

    @property
    def argv(self) -> list[str]:
        """The command line that began or continued it last; empty if it is not known."""
        try:
            return (self.scratch / COMMAND).read_text(encoding="utf-8", errors="replace").split("\0")
        except OSError:
            return []

    def files(self) -> dict[str, dict[str, Any]]:
        """Name -> size, hash and time stamp of each file."""
        files = {}
        for path in sorted(self.path.rglob("*")):
            name = path.relative_to(self.path).as_posix()
            temporary = path.is_relative_to(self.scratch) or path.match(".*.tmp")  # of a killed write_atomically
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
        """The finished artifact of a plan; None if it is absent, stale or made from other inputs."""
        artifact = self.read(self.path(plan))
        if artifact is None or artifact.key != plan.key or (artifact.tainted and not self.allow_stale):
            return None
        inputs = artifact.manifest["inputs"]
        same = all(inputs[name]["digest"] == source.digest for name, source in plan.inputs.items())
        return artifact if same and not self.stale(artifact) else None

    def done_or_copied(self, plan: Plan) -> Artifact | None:
        """As :meth:`done`. A finished artifact with the same key and another label is copied under the label of the
        plan: what is the same is made once. The files are hard links where the disk has these."""
        final = self.path(plan)
        if (found := self.done(plan)) or final.exists():
            return found
        for path in sorted(final.parent.glob(f"[!.]*-{plan.key[:8]}")):
            same = self.done(replace(plan, label=path.name.rpartition("-")[0]))
            if same is not None:
                with self.build(plan) as draft:
                    for name in [*same.manifest["files"], *([CARD] if (path / CARD).exists() else [])]:
                        (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
                        _link(path / name, draft.path / name)
                    draft.result = dict(same.result)
                return self.made(plan)
        return None

    def made(self, plan: Plan) -> Artifact:
        """The artifact that :meth:`build` has just made."""
        artifact = self.read(self.path(plan))
        assert artifact is not None
        return artifact

    @contextlib.contextmanager
    def build(self, plan: Plan, *, resumable: bool = False, force: bool = False) -> Iterator[Draft]:
        """Yields a :class:`Draft`, which becomes the artifact unless an error is raised.

        ``resumable`` keeps its files after an error, for the same command to continue; ``force`` deletes those of an
        earlier draft. Raises InputError if another process makes the same artifact, or the disk cannot be used.
        """
        final = self.path(plan)
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            hint = "--root FOLDER or GENREC_ROOT=FOLDER    chooses another folder"
            wrong = UsageError(f"{final.parent} cannot be created: {error.strerror}.", hint=hint)
            raise of_the_disk(error) or wrong from None
        started, old = time.time(), final.parent / f".{final.name}.old"
        try:
            with locked(final.parent / f".{final.name}.lock", final):
                if old.exists() and not final.exists():  # killed between the two renames below
                    old.rename(final)
                with _draft(final, self.argv, resumable, force) as draft:
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
        except GenrecError:
            raise
        except Exception as error:
            if fault := of_the_disk(error, final):
                raise fault from error
            raise
        finally:
            with contextlib.suppress(OSError):  # after a failure, remove the empty folders
                final.parent.rmdir()
                final.parent.parent.rmdir()

    def _manifest(self, plan: Plan, draft: Draft, started: float) -> dict[str, Any]:
        files = draft.files()
        packages = ("torch", "numpy", "polars", "pyarrow", "faiss", "sentence_transformers", "sklearn")
        versions = {name: str(sys.modules[name].__version__) for name in packages if name in sys.modules}
        environment = {"genrec": __version__, "python": platform.python_version(), "packages": versions}
        return {name: getattr(plan, name) for name in ("kind", "dataset", "version", "key", "config")} | {
            "schema": 1,
            "stage": STAGE_OF[plan.kind],
            "digest": plan.digest(files),
            "inputs": {name: source.reference(self.root) for name, source in plan.inputs.items()},
            "external": dict(plan.external),
            "files": files,
            "environment": environment | {"argv": self.argv},
            "started": started,
            "seconds": round(time.time() - started, 3),
            "result": draft.result,
            "tainted": any(source.tainted or self.stale(source) for source in plan.inputs.values()),
        }


def _link(old: Path, new: Path) -> None:
    """A hard link, or a copy. A model card is copied, since it may be edited."""
    if old.name == CARD:
        shutil.copy2(old, new)
        return
    try:
        new.hardlink_to(old)
    except OSError:
        shutil.copy2(old, new)


@contextlib.contextmanager
def _draft(final: Path, argv: Sequence[str], resumable: bool, force: bool) -> Iterator[Draft]:
    """The folder to write to. After an error, a resumable one is kept if it holds a file of the stage."""
    draft = Draft(final if resumable else final.parent / f".{final.name}.making")
    if draft.path.exists() and (force or not resumable):
        shutil.rmtree(draft.path)
    (draft.path / MANIFEST).unlink(missing_ok=True)
    draft.scratch.mkdir(parents=True, exist_ok=True)
    command = draft.scratch / COMMAND
    try:
        command.write_text("\0".join(argv), encoding="utf-8", errors="replace")
        yield draft
    except BaseException:
        if not (resumable and any(path.is_file() and path != command for path in final.rglob("*"))):
            shutil.rmtree(draft.path, ignore_errors=True)
        raise
