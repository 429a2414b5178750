"""The errors a user can meet. Each says what happened, where, and what to type next.

An exception that is not a :class:`GenrecError`, and neither :func:`of_the_disk` nor :func:`of_memory`, is a bug of
ours (exit code 1).
"""

import errno
import os
import re
from pathlib import Path

DISK_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM})
"""What a disk says that is full, read-only, worn or closed to this user."""


class GenrecError(Exception):
    """Base class.

    Args:
        message: what happened, with the offending file, line or value.
        hint: what to type or change next; printed on its own line.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(GenrecError):
    """The command line asks for something that cannot be meant."""

    exit_code = 2


class ConfigError(GenrecError):
    """A configuration key or value is wrong."""

    exit_code = 3


class DataError(GenrecError):
    """A file's content is not what it has to be."""

    exit_code = 3


class InputError(GenrecError):
    """An input artifact is missing, ambiguous, stale or locked, or the disk cannot be used."""

    exit_code = 4


def of_the_disk(error: Exception) -> InputError | UsageError | None:
    """The error for a disk that cannot be used (:data:`DISK_FAULTS`) or a name that is too long for it, else None."""
    number = getattr(error, "errno", None)
    if number is None and (said := re.search(r"\(os error (\d+)\)", str(error))):  # by polars and safetensors
        number = int(said[1])
    where = getattr(error, "filename", None) or "A file could not be written or read"
    if number in (errno.ENAMETOOLONG, errno.ELOOP):
        return UsageError(f"{where}: {os.strerror(number)}.", hint="Give another path; a name has at most 255 bytes")
    if number not in DISK_FAULTS:
        return None
    return InputError(
        f"{where}: {os.strerror(number)}.",
        hint="Make room or give the right to write, or choose --root ELSEWHERE; the same command goes on",
    )


def of_memory(error: Exception) -> ConfigError | None:
    """An allocation that failed as an error of the user's, or None. Torch's are known by their words: it stays out."""
    said = str(error).strip().partition("\n")[0]
    by_torch = re.search(r"can't allocate memory|out of memory|size calculation overflowed", said, re.I)
    if not (isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and by_torch)):
        return None
    hint = "--set train.micro_batch_size=32    where it trains; --set evaluate.batch_size=32    where it evaluates"
    return ConfigError(f"Memory ran out{said and f': {said}'}", hint=hint)


class DownloadError(GenrecError):
    """A file could not be fetched, or is not the file that was asked for."""

    exit_code = 5


class DivergedError(GenrecError):
    """Training met a loss that is not finite."""

    exit_code = 6


class Interrupted(GenrecError):
    """Ctrl-C or SIGTERM, after whatever can be resumed was saved."""

    exit_code = 130


def refuse_special(path: Path) -> None:
    """Raise an :class:`InputError` for a path that is there and no regular file: reading a pipe may never end."""
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe or a device"
        raise InputError(f"{path} is {what}, not a file.", hint="Give a regular file")
