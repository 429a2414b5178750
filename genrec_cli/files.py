"""Files that can be trusted: hashed, locked, replaced in one rename."""

import contextlib
import fcntl
import functools
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from genrec_cli.errors import InputError


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@functools.cache
def sha256_once(path: Path, size: int, mtime_ns: int) -> str:
    """The same, read once in a process as long as size and time stamp stay what they are."""
    return sha256_file(path)


def sha256_text(text: str) -> str:
    """Hex SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def stamps(paths: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """Size and time stamp of files, for :func:`refuse_changed`."""
    return {path: (stat.st_size, stat.st_mtime_ns) for path in paths if (stat := path.stat())}


def refuse_changed(before: Mapping[Path, tuple[int, int]]) -> None:
    """Raise an :class:`InputError` if a file is not as :func:`stamps` has found it."""
    for path, stamp in before.items():
        if not path.is_file() or stamps([path])[path] != stamp:
            raise InputError(
                f"{path} changed while it was read.", hint="The same command again once nothing writes to the file"
            )


@contextlib.contextmanager
def locked(path: Path, what: Path) -> Iterator[None]:
    """Hold a file lock, whose file is removed at the end. The system frees the lock even if the process is killed."""
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(stream.fileno()).st_nlink == 0:  # the holder removed it after it was opened here
                raise BlockingIOError
        except BlockingIOError:
            raise InputError(
                f"Another process is making {what.name} right now.", hint="Wait for it, or end it by its pid"
            ) from None
        except OSError as error:
            raise InputError(
                f"{path.parent} lies on a file system without locks: {error.strerror}.",
                hint="--root FOLDER or GENREC_ROOT=FOLDER    chooses another place",
            ) from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a kill at any moment leaves the old content or the new, never a part.

    A kill may leave ``.NAME.tmp`` behind, which counts as no file of the folder.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
