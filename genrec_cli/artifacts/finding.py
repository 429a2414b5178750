"""Which artifact is meant: the data set and the artifact that a name, a key or a path selects."""

from pathlib import Path

from genrec_cli.artifacts.identity import KINDS, MANIFEST, STAGE_OF, Artifact
from genrec_cli.artifacts.trust import Lineage
from genrec_cli.config import did_you_mean
from genrec_cli.errors import InputError, UsageError


class Finder(Lineage):
    """Finds artifacts under a root."""

    def datasets(self) -> list[str]:
        """Names of the data sets under the root."""
        if not self.root.is_dir():
            return []
        return sorted(p.name for p in self.root.iterdir() if any((p / kind).is_dir() for kind in KINDS))

    def dataset(self, name: str | None) -> str:
        """The named data set, or the only one there is."""
        known = self.datasets()
        if name in known:
            return str(name)
        if name is not None:
            raise InputError(
                f"There is no data set '{name}' under {self.root}.{did_you_mean(name, known)}",
                hint="genrec download --dataset synthetic    makes one; genrec status lists them",
            )
        if not known:
            raise InputError(
                f"There is no data set under {self.root} yet.",
                hint="genrec download --dataset synthetic    or    genrec run quickstart",
            )
        if len(known) > 1:
            raise InputError(
                f"There are {len(known)} data sets under {self.root}: {', '.join(known)}.",
                hint="Choose one with --dataset NAME or GENREC_DATASET=NAME",
            )
        return known[0]

    def all(self, dataset: str, kind: str) -> list[Artifact]:
        """Finished artifacts of a kind, by name."""
        folder = self.root / dataset / kind
        paths = sorted(folder.glob("[!.]*")) if folder.is_dir() else []
        return [artifact for path in paths if (artifact := self.read(path))]

    def find(
        self, dataset: str, kind: str, selector: str | None = None, *, made_from: Artifact | None = None
    ) -> Artifact:
        """The one artifact of a kind that is selected.

        Args:
            selector: a label or its beginning, a prefix of the key, or a path; None: the only one that is not stale.
            made_from: consider only what was made from this artifact.

        Raises:
            InputError: none fits, several fit, or the artifact is stale.
            UsageError: the path is not an artifact of this kind under the root.
        """
        if selector and (Path(selector) / MANIFEST).is_file():
            return self.verified(self._at(Path(selector), kind))
        known = self.all(dataset, kind)
        if made_from is not None:
            digest = made_from.digest
            known = [a for a in known if a.manifest["inputs"][made_from.kind]["digest"] == digest]
        found = _selected(known, Path(selector).name) if selector else known
        if selector and not found:
            raise InputError(
                f"No {kind} '{selector}' in {self.root / dataset / kind}."
                f"{did_you_mean(selector, [a.path.name for a in known])}",
                hint="genrec status    shows what is there",
            )
        if not found:
            source = f" made from {made_from.path.name}" if made_from else ""
            raise InputError(f"'{dataset}' has no finished {kind}{source} yet.", hint=_how_to_make(kind, dataset))
        if len(found) > 1 and not self.allow_stale:
            found = [a for a in found if not self.stale(a)] or found
        if len(found) > 1:
            names = "\n".join(f"  {a.path.name}" for a in found)
            option = {"runs": "run", "sweeps": "sweep"}.get(kind, kind)
            hint = f"Choose one with --{option} NAME" + (", for figures by NAME alone" if kind == "runs" else "")
            hint = "Type one of these names in full" if selector else hint
            raise InputError(f"{len(found)} {kind} of '{dataset}' fit:\n{names}", hint=hint)
        return self.verified(found[0])

    def _at(self, path: Path, kind: str) -> Artifact:
        """The artifact at a path. It must lie under the root, where its inputs are."""
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise UsageError(f"{path} lies outside of {self.root}.", hint="Copy its data set there, or use --root")
        artifact = self.read(path)
        if artifact is None or artifact.kind != kind:
            raise UsageError(f"{path} is not an artifact of the kind '{kind}'.")
        return artifact


def _selected(known: list[Artifact], name: str) -> list[Artifact]:
    """Artifacts with this name or label; if there is none, those whose name or key begins with it."""
    return [a for a in known if name in (a.path.name, a.label)] or [
        a for a in known if a.path.name.startswith(name) or a.key.startswith(name)
    ]


def _how_to_make(kind: str, dataset: str) -> str:
    also = {
        "data": f";  genrec adopt FOLDER --dataset {dataset}    takes tables made elsewhere",
        "raw": f";  genrec preprocess --dataset {dataset} --interactions FILE    reads your own",
    }
    return f"genrec {STAGE_OF[kind]} --dataset {dataset}    makes it{also.get(kind, '')}"
