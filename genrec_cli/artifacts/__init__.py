"""Artifacts: the results of stages, each a folder with a manifest that says how it was made.

An artifact is a folder ``<root>/<dataset>/<kind>/<label>-<8 hex of the key>``. Its ``manifest.json`` is written
last, so a folder without one is not finished.

* The **key** is the hash of the recipe: kind, version of the stage, resolved settings, keys of the inputs, hashes of
  files outside the root. The same recipe has the same key, so nobody has to invalidate an artifact by hand.
* The **digest** is the hash of the key, of all files and of the digests of the inputs: one hash for the whole lineage.

``identity`` holds keys, digests and manifests; ``trust`` checks that nothing has changed; ``finding`` selects an
artifact by name; ``building`` makes one. Each uses only those before it.
"""

from genrec_cli.artifacts.building import Draft, Workspace
from genrec_cli.artifacts.identity import KINDS, MANIFEST, STAGE_OF, Artifact, Plan

__all__ = ["KINDS", "MANIFEST", "STAGE_OF", "Artifact", "Draft", "Plan", "Workspace"]
