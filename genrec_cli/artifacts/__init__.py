"""Artifacts: the results of stages, each a folder with a manifest that says how it was made.

The folder is ``<root>/<dataset>/<kind>/<label>-<8 hex digits of the key>``. The **key** is the hash of all that decides
the content: kind, stage version, settings, keys of the inputs, hashes of files outside the root. The **digest** is the
hash of the key, all files and the digests of the inputs. ``identity``, ``trust``, ``finding`` and ``building`` each
import only those before them.
"""

from genrec_cli.artifacts.building import Draft, Workspace
from genrec_cli.artifacts.identity import KINDS, MANIFEST, STAGE_OF, Artifact, Plan, typed_again

__all__ = ["KINDS", "MANIFEST", "STAGE_OF", "Artifact", "Draft", "Plan", "Workspace", "typed_again"]
