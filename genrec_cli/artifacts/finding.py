"""Selection of data sets and artifacts by name, key or path."""

from pathlib import Path

from genrec_cli.artifacts.identity import KINDS, MANIFEST, STAGE_OF, Artifact
from genrec_cli.artifacts.trust import Lineage
from genrec_cli.config import did_you_mean
from genrec_cli.errors import InputError, UsageError


class Finder(Lineage):
    """Finds artifacts under a root."""

    def datasets(self) -> list[str]:
        """Names of all data sets under the root."""
        return sorted({path.parent.name for kind in KINDS for path in self.root.glob(f"*/{kind}/")})

    def dataset(self, name: str | None) -> str:
        """The named data set; without a name, the only one with a finished artifact, such as a complete download."""
        known, own = self.datasets(), f"genrec preprocess --dataset {name or 'NAME'} --interactions FILE"
        if name is None and len(known) > 1:
            known = [found for found in known if any(self.root.glob(f"{found}/*/[!.]*/{MANIFEST}"))] or known
        if name in known or (name is None and len(known) == 1):
            return name or known[0]
        if name is not None:
            message = f"There is no data set '{name}' under {self.root}.{did_you_mean(name, known)}"
            there = f"There are: {', '.join(known)}" if known else "genrec list datasets    names those to download"
            raise InputError(message, hint=f"{there};  {own}    makes it from your log")
        if not known:
            hint = f"{own}    takes your log;  genrec run quickstart    makes a small shop"
            raise InputError(f"There is no data set under {self.root} yet.", hint=hint)
        message = f"There are {len(known)} data sets under {self.root}: {', '.join(known)}."
        raise InputError(message, hint="Choose one with --dataset NAME or GENREC_DATASET=NAME")

    def all(self, dataset: str, kind: str) -> list[Artifact]:
        """Finished artifacts of a kind, sorted by name."""
        paths = sorted((self.root / dataset / kind).glob("[!.]*/"))
        return [artifact for path in paths if (artifact := self.read(path))]

    def find(
        self,
        dataset: str,
        kind: str,
        selector: str | None = None,
        *,
        made_from: Artifact | None = None,
        choice: str | None = None,
    ) -> Artifact:
        """The artifact of a kind, verified; without a selector, the only one that is not stale.

        Args:
            selector: a label or its prefix, a prefix of the key, or a path, which may lie outside of the root.
            made_from: an input that the artifact must have.
            choice: what to type to choose one of several, of a command that has no option named for the kind.

        Raises:
            InputError: no artifact or several match, or it is stale.
            UsageError: the path is not an artifact of this kind, or was not made from ``made_from``.
        """
        if selector and (Path(selector) / MANIFEST).is_file():
            at = self.verified(self._at(Path(selector), kind))
            source = at.manifest["inputs"].get(made_from.kind, {}) if made_from else {}
            if made_from and source.get("digest") != made_from.digest:
                raise UsageError(f"{at.path.name} was made from other {made_from.kind} than {made_from.path.name}.")
            return at
        known = found = self.all(dataset, kind)
        if made_from:
            known = found = [a for a in known if a.manifest["inputs"][made_from.kind]["digest"] == made_from.digest]
        if selector:
            name = self._name(selector, dataset, kind)
            found = [a for a in known if name in (a.path.name, a.label)]
            if name and not found:
                found = [a for a in known if a.path.name.startswith(name) or a.key.startswith(name)]
        if selector and not found:
            near = did_you_mean(selector, [a.path.name for a in known])
            message = f"No {kind} '{selector}' in {self.root / dataset / kind}.{near}"
            raise InputError(message, hint="genrec status    lists all artifacts")
        if not found:
            source = f" made from {made_from.path.name}" if made_from else ""
            of_these = f" --data {made_from.path.name}" if made_from and made_from.kind == "data" else ""
            hint = f"genrec {STAGE_OF[kind]} --dataset {dataset}{of_these}    makes it"
            hint += f";  genrec import FOLDER --dataset {dataset}    takes other tables" if kind == "data" else ""
            hint += f";  genrec preprocess --dataset {dataset} --interactions FILE" if kind == "raw" else ""
            raise InputError(f"'{dataset}' has no finished {kind}{source} yet.", hint=hint)
        if len(found) > 1 and not self.allow_stale:
            found = [a for a in found if not self.stale(a)] or found
        if len(found) > 1:
            names = "\n".join(f"  {a.path.name}" for a in found)
            option = {"runs": "run", "sweeps": "sweep"}.get(kind, kind)
            hint = f"Choose one with {choice or f'--{option} NAME'}"
            hint = "Type one of these names in full" if selector else hint
            raise InputError(f"{len(found)} {kind} of '{dataset}' match:\n{names}", hint=hint)
        return self.verified(found[0])

    def _name(self, selector: str, dataset: str, kind: str) -> str | None:
        """The name of an artifact by its name or path; None for a path that leads elsewhere, also if its last part is
        the name of an artifact here."""
        if not {"/", "\n"} & set(selector):
            return selector
        place = (self.root / dataset / kind).resolve()
        bases = (Path(), self.root, self.root / dataset)
        return Path(selector).name if any((base / selector).resolve().parent == place for base in bases) else None

    def _at(self, path: Path, kind: str) -> Artifact:
        """The artifact at a path. A copy elsewhere can be used with the root that holds its inputs."""
        artifact = self.read(path)
        if artifact is None or artifact.kind != kind:
            raise UsageError(f"{path} is not an artifact of the kind '{kind}'.")
        for entry in artifact.manifest["inputs"].values():
            if not (self.root / entry["path"] / MANIFEST).is_file() and not self.allow_stale:
                hint = f"--root FOLDER    that holds {entry['path']}"
                raise InputError(f"{path} was made from {entry['path']}, which is not under {self.root}.", hint=hint)
        return artifact
