"""What a source offers: files to fetch, and a reader that turns them into two frames."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from genrec_cli.errors import DataError

if TYPE_CHECKING:
    import polars as pl


class RemoteFile(NamedTuple):
    """A file to download: its name on disk, its addresses in order of preference, what is known of it."""

    name: str
    urls: tuple[str, ...]
    sha256: str | None = None
    bytes: int | None = None


class Tables(NamedTuple):
    """What a source reads from its files.

    ``interactions``: blocks of rows in the order of the file, read while they are asked for, so that the log
    is never held as a whole: ``user str, item str, micros i64 (microseconds since 1970), row i64``. Where all
    users (or all items) of a file are whole numbers, the column may be ``i64``. No value is null, and ``row``
    counts upwards. Bad lines are known when the last block has been read.
    ``items``: ``raw_id str, title str | null``, one ``str`` column for each further text field in the
    field's own name, and ``attributes list[str]`` such as ``brand: Canon``; may be None.
    """

    interactions: "Iterable[pl.DataFrame]"
    items: "pl.LazyFrame | None"


@dataclass
class BadRows:
    """Counts lines that cannot be used and remembers the first; refuses them unless told to skip."""

    skip: bool = False
    count: int = 0
    first: str | None = None
    by_reason: dict[str, int] = field(default_factory=dict)

    def add(self, file: Path | str, line: int, reason: str, count: int = 1, *, value: str | None = None) -> None:
        """Record bad lines; ``line`` counts from 1 and is that of the first one, and so is the ``value``."""
        given = "" if value is None else f", given: {value[:40]!r}"
        self.first = self.first or f"{file}, line {line}: {reason}{given}"
        self.count += count
        self.by_reason[reason] = self.by_reason.get(reason, 0) + count

    def check(self) -> None:
        """Raise if there were bad lines and they are not to be skipped."""
        if self.count and not self.skip:
            reasons = ", ".join(f"{n} x {reason}" for reason, n in self.by_reason.items())
            raise DataError(
                f"{self.count} bad line(s) ({reasons}). The first: {self.first}.",
                hint="Mend the file, or add --skip-bad-rows to leave them out",
            )


class Source(Protocol):
    """A family of raw files."""

    def files(self) -> list[RemoteFile]:
        """What to download. Empty for a source that generates its files."""
        ...

    def generate(self, folder: Path, progress: Callable[[float], None]) -> None:
        """Write the raw files of a generated source into a folder."""
        ...

    def read(self, raw: Path, bad: BadRows) -> Tables:
        """Parse the raw files. Never evaluates their content; bad lines go to ``bad``."""
        ...
