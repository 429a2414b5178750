"""What a manifest must hold for anyone to build on it; a file that was edited or cut off does not."""

from collections.abc import Mapping
from typing import Any

from genrec_cli.config import canonical_json
from genrec_cli.files import sha256_text

FIELDS = {"kind", "dataset", "version", "key", "digest", "config", "inputs", "external", "files", "result", "tainted"}
"""What every manifest holds; one without them is damaged."""


def key_of(
    kind: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, str], external: Mapping[str, str]
) -> str:
    """The hash of a recipe; ``inputs``: name -> key."""
    recipe = {"kind": kind, "version": version, "config": config, "inputs": inputs, "external": external}
    return sha256_text(canonical_json(recipe))


def is_sound(manifest: Any) -> bool:
    """Whether all is there, and the key is that of the recipe."""
    try:
        files, inputs = manifest["files"].values(), manifest["inputs"]
        parts = [(f, {"bytes", "mtime_ns", "sha256"}) for f in files]
        parts += [(i, {"path", "key", "digest"}) for i in inputs.values()]
        complete = all(part.keys() >= names for part, names in [(manifest, FIELDS), *parts])
        keys = {name: facts["key"] for name, facts in inputs.items()}
        recipe = manifest["kind"], manifest["version"], manifest["config"], keys, manifest["external"]
        return complete and manifest["key"] == key_of(*recipe)
    except (KeyError, TypeError, AttributeError, ValueError):
        return False
