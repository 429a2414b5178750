"""Completion of the shell (``genrec --install-completion``): names of models, recipes, sweeps and artifacts."""

import os
from collections.abc import Iterable
from pathlib import Path


def models(incomplete: str) -> list[str]:
    """Names of models."""
    from genrec_cli.registry import names

    return _starting(names("model"), incomplete)


def recipes(incomplete: str) -> list[str]:
    """Names of recipes."""
    return _starting(_files("*.toml"), incomplete)


def sweeps(incomplete: str) -> list[str]:
    """Names of sweeps."""
    return _starting(_files("sweeps/*.toml"), incomplete)


def runs(incomplete: str) -> list[str]:
    """Folders of runs under GENREC_ROOT, of the data set GENREC_DATASET or of all; with commas, the last name."""
    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in _starting(_artifacts("runs"), last)]


def artifacts(incomplete: str) -> list[str]:
    """Folders of all artifacts, as KIND/NAME where the word has a slash."""
    kind, slash, name = incomplete.rpartition("/")
    return [kind + slash + found for found in _starting(_artifacts(kind or "*"), name)]


def _artifacts(kind: str) -> list[str]:
    root = Path(os.environ.get("GENREC_ROOT") or "artifacts")
    return [path.name for path in root.glob(f"{os.environ.get('GENREC_DATASET') or '*'}/{kind}/[!.]*/")]


def _files(pattern: str) -> list[str]:
    folder = Path(__file__).resolve().parent.parent / "recipes"
    return [path.stem for path in folder.glob(pattern)]


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted({name for name in names if name.startswith(incomplete)})
