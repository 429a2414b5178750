"""The interface of a source: the files to download, and a reader that turns them into two frames."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from genrec_cli.errors import DataError

if TYPE_CHECKING:
    import polars as pl

    from genrec_cli.sources.row_filter import RowFilter


class RemoteFile(NamedTuple):
    """A file to download: its name on disk, its addresses in order of preference, its checksum and size if known."""

    name: str
    urls: tuple[str, ...]
    sha256: str | None = None
    bytes: int | None = None


class Tables(NamedTuple):
    """The result of a reader.

    ``interactions``: blocks of rows in the order of the file, read lazily, so the log is never in memory as a whole:
    ``user str, item str, micros i64 (microseconds since 1970), row i64 (ascending)``, without nulls. ``user`` or
    ``item`` may be ``i64`` if all of its values are integers. ``bad`` is complete after the last block.
    ``items``: ``raw_id str, title str | null``, one ``str`` column per further text field, and ``attributes
    list[str]`` such as ``brand: Canon``; None without metadata.
    """

    interactions: "Iterable[pl.DataFrame]"
    items: "pl.LazyFrame | None"


@dataclass
class BadRows:
    """Counts the lines that cannot be read and keeps the first; :meth:`check` refuses them unless ``skip`` is set."""

    skip: bool = False
    most: float = 1.0
    """Largest fraction of bad lines in a file that may be skipped."""
    count: int = 0
    first: str | None = None
    by_reason: dict[str, int] = field(default_factory=dict)
    hints: dict[str, str] = field(default_factory=dict)
    """Reason -> what to type instead, where the value of the first such line says it."""
    by_file: dict[str, list[int]] = field(default_factory=dict)
    """Counts of lines and of bad lines."""

    def saw(self, file: Path | str, count: int) -> None:
        """Record lines that have been read, bad or not."""
        self.by_file.setdefault(str(file), [0, 0])[0] += count

    def add(
        self,
        file: Path | str,
        line: int,
        reason: str,
        count: int = 1,
        *,
        value: str | None = None,
        hint: str | None = None,
    ) -> None:
        """Record bad lines. ``line`` (from 1) and ``value`` are those of the first one."""
        given = "" if value is None else f", given: {value[:40]!r}"
        if hint:
            self.hints.setdefault(reason, hint)
        self.first = self.first or f"{file}, line {line}: {reason}{given}"
        self.count += count
        self.by_reason[reason] = self.by_reason.get(reason, 0) + count
        self.by_file.setdefault(str(file), [0, 0])[1] += count

    def check(self) -> None:
        """Raise a :class:`DataError` if there were bad lines and they are not to be skipped, or too many of them."""
        reasons = ", ".join(f"{n} x {reason}" for reason, n in self.by_reason.items())
        hint = self.hints.get(max(self.by_reason, key=lambda reason: self.by_reason[reason], default=""))
        for file, (lines, bad) in self.by_file.items():
            if self.skip and bad > self.most * max(lines, bad):
                raise DataError(
                    f"{bad:,} of {max(lines, bad):,} lines of {file} are bad, more than {self.most:.0%} "
                    f"({reasons}). The first: {self.first}.",
                    hint=hint or "Correct the file or the options of its columns, or allow more: --max-bad-rows 0.1",
                )
        if self.count and not self.skip:
            raise DataError(
                f"{self.count} bad line(s) ({reasons}). The first: {self.first}.",
                hint=hint or "Correct the file, or add --skip-bad-rows to leave them out",
            )


class Source(Protocol):
    """A family of raw files. The defaults are those of a source without downloads."""

    def files(self) -> list[RemoteFile]:
        """The files to download; empty for a source that generates its files."""
        return []

    def generate(self, folder: Path, progress: Callable[[float], None]) -> None:
        """Write the raw files of a generated source into a folder; ``progress`` gets the fraction done."""
        return

    def paths(self, raw: Path) -> list[Path]:
        """The files of a folder that :meth:`read` reads; by default all of them."""
        return sorted(path for path in raw.iterdir() if path.is_file() and not path.name.startswith("."))

    def expects(self) -> str:
        """Which files :meth:`read` reads, in words."""
        return "genrec list sources    says what each source reads"

    def read(self, raw: Path, bad: BadRows, rows: "RowFilter | None" = None) -> Tables:
        """Parse the raw files in a folder. Never evaluates their content; bad lines go to ``bad``, and interactions
        that ``rows`` leaves out are not in the result."""
