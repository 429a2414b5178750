"""Artifacts: folders that vouch for themselves.

An artifact is a folder ``<root>/<dataset>/<kind>/<label>-<8 hex of the key>`` with a ``manifest.json``
that is written last. No manifest = not finished.

* **key**: hash of the recipe (stage, version, resolved configuration, keys of the inputs, hashes of
  outside files). Same key = same artifact, so nothing is ever invalidated by hand.
* **digest**: hash of the key, the file hashes and the digests of the inputs; it vouches for all history.

A folder is built in a temporary sibling and renamed when complete; a *resumable* one (a download, a
training run, vectors of a sentence encoder) is built in place and counts as partial until its manifest is there.
"""

import contextlib
import json
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genrec_cli import __version__
from genrec_cli.config import canonical_json, did_you_mean
from genrec_cli.errors import DataError, InputError, UsageError
from genrec_cli.files import locked, sha256_file, sha256_once, sha256_text, write_atomically
from genrec_cli.manifest import is_sound, key_of

KINDS = ("raw", "data", "vectors", "codes", "runs", "eval", "cases", "comparisons", "sweeps", "figures")
"""Folders of a data set, in the order of the pipeline."""

STAGE_OF = {
    "raw": "download", "data": "preprocess", "vectors": "tokenize", "codes": "tokenize",
    "runs": "train", "eval": "evaluate", "cases": "case-study", "comparisons": "compare", "sweeps": "sweep",
    "figures": "figures",
}  # fmt: skip
MANIFEST = "manifest.json"
SCRATCH = "unfinished"
"""Folder in a draft for what only its making needs: not part of the artifact, and gone once that is there."""


@dataclass(frozen=True)
class Artifact:
    """A finished artifact on disk."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])

    @property
    def dataset(self) -> str:
        return str(self.manifest["dataset"])

    @property
    def key(self) -> str:
        return str(self.manifest["key"])

    @property
    def digest(self) -> str:
        return str(self.manifest["digest"])

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved configuration, section by section, with every default."""
        return self.manifest["config"]  # type: ignore[no-any-return]

    @property
    def result(self) -> Mapping[str, Any]:
        """What the stage reports about itself: statistics, metrics."""
        return self.manifest["result"]  # type: ignore[no-any-return]

    @property
    def tainted(self) -> bool:
        """Whether it was made from stale inputs with ``--allow-stale``."""
        return bool(self.manifest["tainted"])

    @property
    def command(self) -> str:
        """What makes it again: the line that was typed for it, as far as the manifest knows."""
        stage = "adopt" if "adopt" in self.config else STAGE_OF[self.kind]
        typed = self.manifest.get("environment", {}).get("argv", [])
        words = typed if typed[:1] == [stage] else [stage]
        named = any(word.partition("=")[0] == "--dataset" for word in words)
        where = [] if named else ["--dataset", self.dataset]
        return "genrec " + shlex.join([*(word for word in words if word != "--force"), *where])


@dataclass(frozen=True)
class Plan:
    """Everything that decides what an artifact will contain, before any work is done."""

    dataset: str
    kind: str
    label: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, Artifact] = field(default_factory=dict)
    external: Mapping[str, str] = field(default_factory=dict)
    """Name -> SHA-256 of every file or folder outside the artifact root that is read."""

    @property
    def key(self) -> str:
        inputs = {name: artifact.key for name, artifact in self.inputs.items()}
        return key_of(self.kind, self.version, self.config, inputs, dict(self.external))

    @property
    def name(self) -> str:
        return f"{self.label}-{self.key[:8]}"


class Draft:
    """An artifact being made: write files under :attr:`path`, put findings in :attr:`result`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scratch = path / SCRATCH
        self.result: dict[str, Any] = {}


class Workspace:
    """The artifact root: finds, checks and builds artifacts."""

    def __init__(self, root: Path, *, allow_stale: bool = False, argv: Sequence[str] | None = None) -> None:
        self.root, self.allow_stale = root, allow_stale
        self.argv = sys.argv[1:] if argv is None else argv  # manifests record it; a step of a recipe has its own

    # ---- finding -------------------------------------------------------------------------------

    def datasets(self) -> list[str]:
        """Names of the data sets under the root."""
        if not self.root.is_dir():
            return []
        return sorted(p.name for p in self.root.iterdir() if any((p / kind).is_dir() for kind in KINDS))

    def dataset(self, name: str | None) -> str:
        """The named data set, or the only one there is."""
        known = self.datasets()
        if name is not None:
            if name not in known:
                raise InputError(
                    f"There is no data set '{name}' under {self.root}.{did_you_mean(name, known)}",
                    hint="genrec download --dataset synthetic    makes one; genrec status lists them",
                )
            return name
        if len(known) == 1:
            return known[0]
        if not known:
            raise InputError(
                f"There is no data set under {self.root} yet.",
                hint="genrec download --dataset synthetic    or    genrec run quickstart",
            )
        raise InputError(
            f"There are {len(known)} data sets under {self.root}: {', '.join(known)}.",
            hint="Choose one with --dataset NAME or GENREC_DATASET=NAME",
        )

    def all(self, dataset: str, kind: str) -> list[Artifact]:
        """Finished artifacts of a kind, by name."""
        folder = self.root / dataset / kind
        if not folder.is_dir():
            return []
        found = (self.read(path) for path in sorted(folder.iterdir()) if not path.name.startswith("."))
        return [artifact for artifact in found if artifact is not None]

    def partial(self, dataset: str, kind: str) -> list[Path]:
        """Folders of a kind that were begun and not finished."""
        folder = self.root / dataset / kind
        if not folder.is_dir():
            return []
        return sorted(p for p in folder.iterdir() if p.is_dir() and not (p / MANIFEST).exists())

    def find(
        self, dataset: str, kind: str, selector: str | None = None, *, made_from: Artifact | None = None
    ) -> Artifact:
        """One artifact by label or its beginning, key prefix or path; without a selector, the only fresh one."""
        if selector and (Path(selector) / MANIFEST).is_file():
            if not Path(selector).resolve().is_relative_to(self.root.resolve()):  # nor are its inputs
                hint = "Copy its data set there, or use --root"
                raise UsageError(f"{selector} lies outside of {self.root}.", hint=hint)
            artifact = self.read(Path(selector))
            if artifact is None or artifact.kind != kind:
                raise UsageError(f"{selector} is not an artifact of the kind '{kind}'.")
            return self.verified(artifact)
        everything = self.all(dataset, kind)
        if made_from is not None:
            source = made_from.manifest["kind"], made_from.digest
            everything = [a for a in everything if a.manifest["inputs"][source[0]]["digest"] == source[1]]
        found = everything
        if selector:
            wanted = Path(selector).name
            found = [a for a in everything if wanted in (a.path.name, a.path.name.rpartition("-")[0])]
            found = found or [a for a in everything if a.path.name.startswith(wanted) or a.key.startswith(wanted)]
            if not found:
                raise InputError(
                    f"No {kind} '{selector}' in {self.root / dataset / kind}."
                    f"{did_you_mean(selector, [a.path.name for a in everything])}",
                    hint="genrec status    shows what is there",
                )
        if len(found) > 1 and self.allow_stale is False:
            found = [a for a in found if not self.stale(a)] or found
        if len(found) == 1:
            return self.verified(found[0])
        if not found:
            of = f" made from {made_from.path.name}" if made_from else ""
            raise InputError(
                f"'{dataset}' has no finished {kind}{of} yet.",
                hint=f"genrec {STAGE_OF[kind]} --dataset {dataset}    makes it"
                + (f";  genrec adopt FOLDER --dataset {dataset}    takes tables made elsewhere" * (kind == "data"))
                + (f";  genrec preprocess --dataset {dataset} --interactions FILE    reads your own" * (kind == "raw")),
            )
        lines = "\n".join(f"  {a.path.name}" for a in found)
        option = {"runs": "run", "sweeps": "sweep"}.get(kind, kind)
        hint = f"Choose one with --{option} NAME" + (", for figures by NAME alone" * (kind == "runs"))
        hint = "Type one of these names in full" if selector else hint
        raise InputError(f"{len(found)} {kind} of '{dataset}' fit:\n{lines}", hint=hint)

    def read(self, path: Path) -> Artifact | None:
        """The artifact in a folder, or None if it is not finished."""
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError:
            manifest = None
        if not is_sound(manifest):
            raise DataError(
                f"{path / MANIFEST} is damaged.",
                hint=f"Delete it and run the stage again: rm {path / MANIFEST}    keeps what else is there",
            )
        return Artifact(path, manifest)

    def input(self, artifact: Artifact, name: str) -> Artifact:
        """An input that an artifact was made from, verified to be the same as then."""
        if (why := self.stale(artifact)) and not self.allow_stale:
            raise self._refusal(artifact, why)
        found = self.read(self.root / artifact.manifest["inputs"][name]["path"])
        if found is None:
            raise InputError(f"{artifact.path.name} was made from a {name} that is gone.")
        return self.verified(found)

    # ---- trust ---------------------------------------------------------------------------------

    def verified(self, artifact: Artifact) -> Artifact:
        """The artifact itself if it and all its inputs are unchanged; else an error that names the file."""
        why = self.stale(artifact)
        if why and not self.allow_stale:
            raise self._refusal(artifact, why)
        return artifact

    def stale(self, artifact: Artifact) -> str | None:
        """Why an artifact must not be used, or None: a changed file, or an input changed since."""
        for name, facts in artifact.manifest["files"].items():
            path = artifact.path / name
            if not path.is_file():
                return f"{path} is gone"
            stat = path.stat()
            same = stat.st_size == facts["bytes"]
            if same and stat.st_mtime_ns != facts["mtime_ns"]:
                same = sha256_once(path, stat.st_size, stat.st_mtime_ns) == facts["sha256"]
            if not same:
                return f"{path} was changed after it was made"
        for name, facts in artifact.manifest["inputs"].items():
            found = self.read(self.root / facts["path"])
            if found is None:
                return f"its input {name} ({facts['path']}) is gone"
            if found.digest != facts["digest"]:
                return f"its input {name} ({facts['path']}) was made again with other content"
            if why := self.stale(found):
                return why
        return None

    def _refusal(self, artifact: Artifact, why: str) -> InputError:
        return InputError(
            f"{artifact.path.name} is stale: {why}.",
            hint=f"{artifact.command} --force    makes it again; --allow-stale uses it and marks every later number",
        )

    # ---- building ------------------------------------------------------------------------------

    def path(self, plan: Plan) -> Path:
        return self.root / plan.dataset / plan.kind / plan.name

    def done(self, plan: Plan) -> Artifact | None:
        """The finished artifact of a plan if it is there, unchanged and made from these very inputs."""
        artifact = self.read(self.path(plan))
        if (
            artifact is None
            or artifact.key != plan.key
            or self.stale(artifact)
            or (artifact.tainted and not self.allow_stale)
        ):
            return None
        same = all(artifact.manifest["inputs"][n]["digest"] == a.digest for n, a in plan.inputs.items())
        return artifact if same else None

    def made(self, plan: Plan) -> Artifact:
        """What :meth:`build` has just made of a plan."""
        artifact = self.read(self.path(plan))
        assert artifact is not None
        return artifact

    @contextlib.contextmanager
    def build(self, plan: Plan, *, resumable: bool = False, force: bool = False) -> Iterator[Draft]:
        """Make an artifact: yields a :class:`Draft`; on leaving without an error it is committed.

        ``force`` starts a resumable artifact anew. Two processes cannot build the same artifact at once.
        """
        final = self.path(plan)
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            hint = "--root FOLDER or GENREC_ROOT=FOLDER    chooses another place"
            raise UsageError(f"{final.parent} cannot be made: {error.strerror}.", hint=hint) from None
        started = time.time()
        old = final.parent / f".{final.name}.old"
        with locked(final.parent / f".{final.name}.lock", final):
            if old.exists() and not final.exists():  # a kill between the two renames below
                old.rename(final)
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
                if not resumable:
                    shutil.rmtree(draft.path, ignore_errors=True)
                raise
            manifest = canonical_json(self._manifest(plan, draft, started))
            pretty = json.dumps(json.loads(manifest), indent=2) + "\n"
            write_atomically(draft.path / MANIFEST, pretty.encode("utf-8"))
            shutil.rmtree(draft.scratch, ignore_errors=True)
            if not resumable:
                shutil.rmtree(old, ignore_errors=True)
                if final.exists():
                    final.rename(old)
                draft.path.rename(final)
                shutil.rmtree(old, ignore_errors=True)

    def _manifest(self, plan: Plan, draft: Draft, started: float) -> dict[str, Any]:
        files = {}
        for path in sorted(p for p in draft.path.rglob("*") if p.is_file() and p.name != MANIFEST):
            if path.is_relative_to(draft.scratch) or path.match(".*.tmp"):  # what a kill left of a write
                continue
            stat = path.stat()
            facts = {"bytes": stat.st_size, "sha256": sha256_file(path), "mtime_ns": stat.st_mtime_ns}
            files[path.relative_to(draft.path).as_posix()] = facts
        inputs = {
            name: {
                "path": a.path.resolve().relative_to(self.root.resolve()).as_posix(), "key": a.key, "digest": a.digest,
            }
            for name, a in plan.inputs.items()
        }  # fmt: skip
        tainted = any(a.tainted or self.stale(a) for a in plan.inputs.values())
        history = [
            plan.key,
            {n: f["sha256"] for n, f in files.items()},
            {n: i["digest"] for n, i in inputs.items()},
        ]
        return {
            "schema": 1,
            "stage": STAGE_OF[plan.kind],
            "kind": plan.kind,
            "dataset": plan.dataset,
            "version": plan.version,
            "key": plan.key,
            "digest": sha256_text(canonical_json(history)),
            "config": plan.config,
            "inputs": inputs,
            "external": dict(plan.external),
            "files": files,
            "environment": environment(self.argv),
            "started": started,
            "seconds": round(time.time() - started, 3),
            "result": draft.result,
            "tainted": tainted,
        }


def environment(argv: Sequence[str]) -> dict[str, Any]:
    """Versions and the command line, for the manifest. Imports nothing that is not imported yet."""
    packages = ("torch", "numpy", "polars", "pyarrow", "faiss", "sentence_transformers", "sklearn")
    versions = {name: str(getattr(sys.modules.get(name), "__version__", "")) for name in packages}
    return {
        "genrec": __version__,
        "python": platform.python_version(),
        "packages": {name: version for name, version in versions.items() if version},
        "argv": list(argv),
    }
