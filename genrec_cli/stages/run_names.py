"""How runs are named in tables: by their label, by the label without the seed, or by their folder."""

import re
from collections.abc import Sequence
from pathlib import Path

from genrec_cli.artifacts import Artifact


def labels_of(runs: Sequence[Artifact]) -> list[str]:
    """The labels of runs, or their folders where two labels are equal."""
    labels = [run.label for run in runs]
    return labels if len(set(labels)) == len(labels) else [run.path.name for run in runs]


def without_seed(label: str) -> str:
    """``rpg`` of ``rpg-s0``."""
    return re.sub(r"-s\d+$", "", label)


def run_name(artifact: Artifact) -> str:
    """The folder of a run, or of the run of an evaluation."""
    return Path(artifact.manifest["inputs"]["runs"]["path"]).name if artifact.kind == "eval" else artifact.path.name
