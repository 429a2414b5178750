"""What an artifact is: its kind, its key, its digest, and the manifest that records them."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from genrec_cli.config import canonical_json
from genrec_cli.files import sha256_text

STAGE_OF = {"raw": "download", "data": "preprocess", "vectors": "tokenize", "codes": "tokenize", "runs": "train"}
STAGE_OF |= {
    "eval": "evaluate",
    "cases": "case-study",
    "comparisons": "compare",
    "sweeps": "sweep",
    "figures": "figures",
}
"""Kind of an artifact -> command that makes it, in the order of the pipeline."""
KINDS = tuple(STAGE_OF)
MANIFEST = "manifest.json"
_FIELDS = {"dataset", "digest", "environment", "started", "seconds", "result", "tainted"}
"""What a manifest holds beside its key, its recipe and its files."""


T = TypeVar("T")


class _Recorded(Generic[T]):
    """An attribute of an artifact whose value is in the manifest, under the attribute's name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, artifact: "Artifact", owner: type) -> T:
        return artifact.manifest[self.name]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Artifact:
    """A finished artifact on disk."""

    path: Path
    manifest: Mapping[str, Any]

    kind = _Recorded[str]()
    dataset = _Recorded[str]()
    key = _Recorded[str]()
    digest = _Recorded[str]()
    config = _Recorded[Mapping[str, Any]]()
    """The resolved configuration, section by section, with every default."""
    result = _Recorded[Mapping[str, Any]]()
    """What the stage reports: statistics, metrics."""
    tainted = _Recorded[bool]()
    """Whether it was made from stale inputs with ``--allow-stale``."""

    @property
    def label(self) -> str:
        """The folder's name without the key; for a copy under another name, all of that name."""
        return self.path.name.removesuffix(f"-{self.key[:8]}")

    def reference(self, root: Path) -> dict[str, str]:
        """How the manifest of what is made from it names it; the path holds wherever the root is moved."""
        path = self.path.resolve().relative_to(root.resolve()).as_posix()
        return {"path": path, "key": self.key, "digest": self.digest}

    @property
    def command(self) -> str:
        """The command that makes it again: the one that was typed, if that was a command of its stage."""
        stage = "import" if "import" in self.config else STAGE_OF[self.kind]
        typed = self.manifest["environment"]["argv"]
        words = [word for word in typed if word != "--force"] if typed[:1] == [stage] else [stage]
        if not any(word.partition("=")[0] == "--dataset" for word in words):
            words += ["--dataset", self.dataset]
        return f"genrec {shlex.join(words)}"


@dataclass(frozen=True)
class Plan:
    """Everything that decides what an artifact will contain, known before any work is done."""

    dataset: str
    kind: str
    label: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, Artifact] = field(default_factory=dict)
    external: Mapping[str, str] = field(default_factory=dict)
    """Name -> SHA-256 of every file or folder outside the root that is read."""

    @property
    def key(self) -> str:
        keys = {name: artifact.key for name, artifact in self.inputs.items()}
        return _key(self.kind, self.version, self.config, keys, self.external)

    @property
    def name(self) -> str:
        return f"{self.label}-{self.key[:8]}"

    def digest(self, files: Mapping[str, Mapping[str, Any]]) -> str:
        """The digest of an artifact of this plan that holds ``files`` (name -> facts)."""
        hashes = {name: facts["sha256"] for name, facts in files.items()}
        inputs = {name: artifact.digest for name, artifact in self.inputs.items()}
        return sha256_text(canonical_json([self.key, hashes, inputs]))


def is_sound(manifest: Any) -> bool:
    """Whether a manifest has all its fields, and its key is the hash of its recipe."""
    try:
        files, inputs = manifest["files"].values(), manifest["inputs"]
        parts = [(manifest, _FIELDS), *((facts, {"bytes", "mtime_ns", "sha256"}) for facts in files)]
        parts += [(facts, {"path", "key", "digest"}) for facts in inputs.values()]
        keys = {name: facts["key"] for name, facts in inputs.items()}
        recipe = manifest["kind"], manifest["version"], manifest["config"], keys, manifest["external"]
        return all(part.keys() >= fields for part, fields in parts) and manifest["key"] == _key(*recipe)
    except (KeyError, TypeError, AttributeError, ValueError):
        return False


def _key(
    kind: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, str], external: Mapping[str, str]
) -> str:
    """The hash of a recipe; ``inputs``: name -> key."""
    recipe = {"kind": kind, "version": version, "config": config, "inputs": inputs, "external": dict(external)}
    return sha256_text(canonical_json(recipe))
