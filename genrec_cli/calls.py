"""What the functions of :mod:`genrec_cli.api` share: results, keyword arguments, settings, errors, data frames."""

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import narwhals as nw
import polars as pl

from genrec_cli import console
from genrec_cli.artifacts import Artifact, Plan, Workspace
from genrec_cli.config import READS, did_you_mean, merge, parse_set, read_toml
from genrec_cli.errors import GenrecError, UsageError, of_memory, of_the_disk
from genrec_cli.sources.histories import read_histories
from genrec_cli.stages.recipe_step import Step, typed

Frame = Any
"""A data frame of polars, pandas or another library that narwhals reads."""


@dataclass(frozen=True)
class Made:
    """A finished artifact. Give it to the next function, or its path or name."""

    artifact: Artifact
    root: Path

    @property
    def path(self) -> Path:
        """The folder of the artifact."""
        return self.artifact.path

    @property
    def name(self) -> str:
        """The name of the folder, which commands take."""
        return self.artifact.path.name

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings, with all defaults."""
        return self.artifact.config

    @property
    def result(self) -> Mapping[str, Any]:
        """Statistics and metrics: the field ``result`` of ``--json``."""
        return self.artifact.result

    def frame(self, name: str) -> pl.DataFrame:
        """A table of the folder: ``per_user`` of an evaluation, ``log`` of a run, ``table`` of a comparison."""
        file = self.path / f"{name}.parquet"
        if not file.is_file():
            known = ", ".join(sorted(path.stem for path in self.path.glob("*.parquet"))) or "none"
            raise UsageError(f"{self.name} has no table '{name}'.", hint=f"Its tables: {known}")
        return pl.read_parquet(file)

    def __fspath__(self) -> str:
        return str(self.path)


Given = Made | str | os.PathLike[str]
"""An artifact: a result of these functions, a path, a label or a key."""


class Shared(TypedDict, total=False):
    """Keyword arguments of all functions that make an artifact."""

    dataset: str | None
    """Default: that of the given artifact, or the only one."""
    root: str | os.PathLike[str] | None
    """Folder of all artifacts. Default: that of the given artifact, GENREC_ROOT, or artifacts."""
    settings: Mapping[str, Any] | None
    """As ``--set``: {"model.width": 64} or {"model": {"width": 64}}."""
    config: str | os.PathLike[str] | None
    """A TOML file of settings."""
    force: bool
    """Make it again even if it is up to date."""
    allow_stale: bool
    """Use changed inputs; marks all results."""
    verbose: bool
    """Print messages to stderr."""


class Call:
    """One call: the workspace, the data set and the settings. ``options`` are those of the command."""

    def __init__(self, command: str, shared: Shared, options: Mapping[str, Any], given: Sequence[Any] = ()) -> None:
        if unknown := shared.keys() - Shared.__annotations__.keys():
            name = min(unknown)
            message = f"There is no argument '{name}'.{did_you_mean(name, [*options, *Shared.__annotations__])}"
            raise UsageError(message, hint='Other settings: settings={"section.key": value}')
        made = next((artifact for artifact in given if isinstance(artifact, Made)), None)
        root = shared.get("root") or (made and made.root) or os.environ.get("GENREC_ROOT") or "artifacts"
        self.command, self.force, self.verbose = command, shared.get("force", False), shared.get("verbose", False)
        self.assigned = Step(stage=command, set=_plain(shared.get("settings") or {}))
        self.config = shared.get("config")
        self.name = shared.get("dataset") or (made.artifact.dataset if made else None)
        words = {name: "DATAFRAME" if hasattr(type(value), "columns") else value for name, value in options.items()}
        words = {n: os.fspath(v) if isinstance(v, os.PathLike) else v for n, v in words.items()}
        argv = [command, *typed({"dataset": self.name, **words, "config": self.config})]
        self.argv, self.allow_stale = argv, shared.get("allow_stale", False)
        self.ws = Workspace(Path(root), allow_stale=self.allow_stale, argv=argv)

    @property
    def dataset(self) -> str:
        """The data set that was named, or the only one of the workspace. Raises UsageError if there are several."""
        return self.ws.dataset(self.name)

    def layers(self, named: Mapping[str, Mapping[str, Any]], sections: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
        """Merge the ``config`` file < ``settings`` < named arguments; sections that the command reads."""
        assigned = self.assigned.assigned
        self.ws.argv += typed({"set": assigned})
        file = read_toml(Path(self.config)) if self.config else {}
        merged = merge(file, parse_set(assigned), named)
        return {name: merged.get(name, {}) for name in sections or READS[self.command]}

    def make(self, plan: Plan, work: Callable[[], Artifact | None]) -> Made:
        """The finished artifact of a plan, or the one that ``work`` makes."""
        artifact = None if self.force else self.ws.done_or_copied(plan)
        artifact = artifact or work()
        assert artifact is not None  # Python runs as one process
        return Made(artifact, self.ws.root)


@contextmanager
def calling(verbose: bool) -> Iterator[None]:
    """Prints nothing unless ``verbose``; errors of the disk and of memory become a GenrecError, as in a command."""
    with console.for_python(verbose=verbose):
        try:
            yield
        except GenrecError:
            raise
        except Exception as error:
            if known := of_the_disk(error) or of_memory(error):
                raise known from error
            raise


@contextmanager
def frames_as_files() -> Iterator[Path]:
    """A folder to which frames are written. Errors name the frame in place of its file."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield Path(folder)
        except GenrecError as error:
            if folder not in error.message:
                raise
            named = re.sub(rf"{re.escape(folder)}/(\w+)\.parquet", r"the frame '\1'", error.message)
            raise type(error)(named[:1].upper() + named[1:], hint=error.hint) from None


def _plain(settings: Any) -> dict[str, Any]:
    """Settings without scalars of NumPy, paths and None, which a file of settings cannot hold."""
    if not isinstance(settings, Mapping):
        raise UsageError("settings are a dictionary.", hint='settings={"model.width": 64}')

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return _plain(value)
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        return value.item() if hasattr(value, "item") else value

    return {name: plain(value) for name, value in settings.items() if value is not None}


def listed(given: Any) -> list[Any] | None:
    """A sequence, or one value of it, as a list; the values of a text are separated by commas. None stays None."""
    if given is None:
        return None
    if isinstance(given, str):
        return given.split(",")
    return list(given) if isinstance(given, Sequence) else [given]


def name_of(given: Given | None) -> str | None:
    """An artifact, a path or a label as the text that a command takes."""
    return None if given is None else os.fspath(given)


def table_of(frame: Frame, what: str) -> pl.DataFrame:
    """Any frame as one of polars."""
    try:
        native: Any = nw.from_native(frame.collect() if hasattr(frame, "collect") else frame, eager_only=True)
        return native.to_polars()
    except TypeError:
        message = f"{what} is of the type {type(frame).__name__}, which is neither a data frame nor a path."
        raise UsageError(message, hint="Give a frame of polars or pandas, or a file") from None


def file_of(given: Any, folder: Path, name: str) -> Path:
    """The path of a file, or a frame written to one. The key of the data has the hash of the file, not its path."""
    if isinstance(given, (str, os.PathLike)):
        return Path(given)
    path = folder / f"{name}.parquet"
    table_of(given, name).write_parquet(path)
    return path


def histories_of(given: Any, folder: Path) -> dict[str, list[str]]:
    """Histories in any form as user -> raw item ids, oldest first; a frame is written to ``folder`` first."""
    if isinstance(given, Mapping):
        pairs = [(str(user), items) for user, items in given.items()]
    elif isinstance(given, (list, tuple)):
        pairs = [(str(number), items) for number, items in enumerate(given)]
    else:
        return read_histories(file_of(given, folder, "histories"))
    if wrong := [user for user, items in pairs if isinstance(items, str)]:
        raise UsageError(f"The history of '{wrong[0]}' is a text.", hint='Give a list of items: {"anna": ["tent"]}')
    return {user: [str(item) for item in items] for user, items in pairs}


def alike(asked: Any, answer: pl.DataFrame) -> Frame:
    """The answer as a frame of the library of ``asked``; of polars if ``asked`` is no frame."""
    try:
        backend = nw.from_native(asked).implementation
    except TypeError:
        return answer
    return nw.from_arrow(answer.to_arrow(), backend=backend).to_native()
