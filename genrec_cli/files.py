"""Hashes, locks and atomic writes of files."""

import contextlib
import fcntl
import functools
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from genrec_cli.errors import InputError


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@functools.cache
def sha256_once(path: Path, size: int, mtime_ns: int) -> str:
    """The same, cached while size and time stamp are the same."""
    return sha256_file(path)


def sha256_text(text: str) -> str:
    """Hex SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def stamps(paths: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """Size and time stamp of each file."""
    return {path: (stat.st_size, stat.st_mtime_ns) for path in paths if (stat := path.stat())}


def refuse_changed(before: Mapping[Path, tuple[int, int]]) -> None:
    """Raise an :class:`InputError` if a file has changed since :func:`stamps`."""
    for path, stamp in before.items():
        if not path.is_file() or stamps([path])[path] != stamp:
            hint = "Type the same command again when no program writes to the file"
            raise InputError(f"{path} changed while it was read.", hint=hint)


@contextlib.contextmanager
def locked(path: Path, what: Path) -> Iterator[None]:
    """Hold a file lock, which the system frees even if the process is killed; the InputError of a second process names
    ``what``."""
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(stream.fileno()).st_nlink == 0:  # removed by its holder in the meantime
                raise BlockingIOError
        except BlockingIOError:
            message = f"Another process is making {what.name}."
            raise InputError(message, hint="Wait for it, or end it by its pid") from None
        except OSError as error:
            message = f"{path.parent} is on a file system without locks: {error.strerror}."
            hint = "--root FOLDER or GENREC_ROOT=FOLDER    chooses another folder"
            raise InputError(message, hint=hint) from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``.NAME.tmp`` and rename it, so that a killed process never leaves a part of the content."""
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
