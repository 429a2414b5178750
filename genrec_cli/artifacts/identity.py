"""Keys, digests and manifests of artifacts."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from genrec_cli.config import canonical_json
from genrec_cli.files import sha256_text

STAGE_OF = {"raw": "download", "data": "preprocess", "vectors": "tokenize", "codes": "tokenize", "runs": "train"}
STAGE_OF |= {"eval": "evaluate", "transfers": "evaluate", "reconstructions": "evaluate"}
STAGE_OF |= {"cases": "case-study", "comparisons": "compare"}
STAGE_OF |= {"sweeps": "sweep", "studies": "tune", "figures": "figures", "reports": "report"}
"""Kind of an artifact -> command that makes it, in the order of the pipeline."""
KINDS = tuple(STAGE_OF)
MANIFEST = "manifest.json"
_FIELDS = {"dataset", "digest", "environment", "started", "seconds", "result", "tainted"}
"""Fields of a manifest in addition to the key, what the key is the hash of, and the files."""
_HASHED = ("kind", "version", "config", "external")
"""What the key is the hash of, in addition to the keys of the inputs."""

T = TypeVar("T")


class _Recorded(Generic[T]):
    """An attribute whose value is the manifest's field of the same name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, artifact: "Artifact", owner: type) -> T:
        return artifact.manifest[self.name]


def typed_again(argv: Sequence[str], commands: Collection[str], dataset: str) -> str | None:
    """A recorded command line as it is typed again; None if it is not one of these commands."""
    if not argv or argv[0] not in commands:
        return None
    words = [word for word in argv if word not in ("--force", "--dry-run")]
    if not any(word.partition("=")[0] == "--dataset" for word in words):
        words += ["--dataset", dataset]
    return f"genrec {shlex.join(words)}"


@dataclass(frozen=True)
class Artifact:
    """A finished artifact. ``config``: settings with all defaults; ``result``: statistics and metrics; ``tainted``: an
    input was stale (``--allow-stale``)."""

    path: Path
    manifest: Mapping[str, Any]
    kind = _Recorded[str]()
    dataset = _Recorded[str]()
    key = _Recorded[str]()
    digest = _Recorded[str]()
    config = _Recorded[Mapping[str, Any]]()
    result = _Recorded[Mapping[str, Any]]()
    tainted = _Recorded[bool]()

    @property
    def label(self) -> str:
        """The folder's name without the key; of a renamed copy, the whole name."""
        return self.path.name.removesuffix(f"-{self.key[:8]}")

    def reference(self, root: Path) -> dict[str, str]:
        """Its entry in the manifests of artifacts that are made from it; the path is relative to the root, or absolute
        for a copy elsewhere."""
        path, root = self.path.resolve(), root.resolve()
        shown = path.relative_to(root) if path.is_relative_to(root) else path
        return {"path": shown.as_posix(), "key": self.key, "digest": self.digest}

    @property
    def command(self) -> str:
        """The command that makes it again: the recorded one, if that is a command of its stage or a sweep."""
        stage = next((name for name in ("import", "blend") if name in self.config), STAGE_OF[self.kind])
        if typed := typed_again(self.manifest["environment"]["argv"], (stage, "sweep"), self.dataset):
            return typed
        words = [stage]
        if self.kind == "runs" and {"model", "train"} <= self.config.keys():
            words += ["--model", self.config["model"]["name"], "--seed", str(self.config["train"]["seed"])]
        return f"genrec {shlex.join([*words, '--dataset', self.dataset])}"

    @property
    def remake(self) -> str:
        """The command that makes it again although it exists. A sweep makes stale runs again without ``--force``."""
        return self.command if self.command.startswith("genrec sweep ") else f"{self.command} --force"


@dataclass(frozen=True)
class Plan:
    """All that decides the content of an artifact, before it is made."""

    dataset: str
    kind: str
    label: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, Artifact] = field(default_factory=dict)
    external: Mapping[str, str] = field(default_factory=dict)
    """Name -> SHA-256 of each file or folder outside the root that is read."""

    @property
    def key(self) -> str:
        keys = {name: artifact.key for name, artifact in self.inputs.items()}
        return sha256_text(canonical_json({name: getattr(self, name) for name in _HASHED} | {"inputs": keys}))

    @property
    def name(self) -> str:
        return f"{self.label}-{self.key[:8]}"

    def digest(self, files: Mapping[str, Mapping[str, Any]]) -> str:
        """The digest of an artifact of this plan with these ``files`` (name -> entry of the manifest)."""
        hashes = {name: entry["sha256"] for name, entry in files.items()}
        inputs = {name: artifact.digest for name, artifact in self.inputs.items()}
        return sha256_text(canonical_json([self.key, hashes, inputs]))


def is_sound(manifest: Any) -> bool:
    """Whether a manifest has all fields, and its key is the right hash."""
    try:
        files, inputs = manifest["files"].values(), manifest["inputs"]
        parts = [(manifest, _FIELDS), *((entry, {"bytes", "mtime_ns", "sha256"}) for entry in files)]
        parts += [(entry, {"path", "key", "digest"}) for entry in inputs.values()]
        keys = {name: entry["key"] for name, entry in inputs.items()}
        key = sha256_text(canonical_json({name: manifest[name] for name in _HASHED} | {"inputs": keys}))
        return key == manifest["key"] and all(part.keys() >= fields for part, fields in parts)
    except (KeyError, TypeError, AttributeError, ValueError):
        return False
