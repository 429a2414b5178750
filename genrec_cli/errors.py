"""Errors for the user: what happened, where, and what to type next.

All other exceptions are bugs (exit code 1), but for those that :func:`of_the_disk` and :func:`of_memory` translate.
"""

import errno
import os
import re
from pathlib import Path

DISK_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM})
"""A disk that is full, read-only, damaged or not accessible."""


class GenrecError(Exception):
    """Base class. ``message``: what happened, with the file, line or value; ``hint``: what to type or change next."""

    exit_code = 1

    def __init_subclass__(cls, exit_code: int) -> None:
        cls.exit_code = exit_code

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


class UsageError(GenrecError, exit_code=2):
    """The command line is wrong."""


class ConfigError(GenrecError, exit_code=3):
    """A setting is wrong."""


class DataError(GenrecError, exit_code=3):
    """The content of a file is wrong."""


class InputError(GenrecError, exit_code=4):
    """An input artifact is missing, ambiguous, stale or locked, or the disk cannot be used."""


def of_the_disk(error: Exception, place: Path | None = None) -> InputError | UsageError | None:
    """The error for a disk that cannot be used or a name that is too long; None for any other exception. ``place``:
    what was being written, as a full disk is often reported without a path."""
    number = getattr(error, "errno", None)
    if number is None and (match := re.search(r"\(os error (\d+)\)", str(error))):  # of polars and safetensors
        number = int(match[1])
    where = getattr(error, "filename", None) or place or "A file could not be written or read"
    if number in (errno.ENAMETOOLONG, errno.ELOOP):
        return UsageError(f"{where}: {os.strerror(number)}.", hint="Give another path; a name has at most 255 bytes")
    if number not in DISK_FAULTS:
        return None
    hint = "Free disk space, correct the permissions, or choose another --root FOLDER; the same command continues"
    return InputError(f"{where}: {os.strerror(number)}.", hint=hint)


def of_memory(error: Exception) -> ConfigError | None:
    """The error for a failed allocation; None for any other exception. Those of torch are found by their text, so that
    torch is not imported."""
    text = str(error).strip().partition("\n")[0]
    of_torch = re.search(r"can't allocate memory|out of memory|size calculation overflowed", text, re.I)
    if not (isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and of_torch)):
        return None
    hint = "--set train.micro_batch_size=32    in training; --set evaluate.batch_size=32    in evaluation"
    return ConfigError(f"Memory ran out{text and f': {text}'}", hint=hint)


class DownloadError(GenrecError, exit_code=5):
    """A file could not be downloaded, or its checksum is wrong."""


class DivergedError(GenrecError, exit_code=6):
    """A loss is not finite."""


class Interrupted(GenrecError, exit_code=130):
    """Ctrl-C or SIGTERM, after the state was saved."""


def refuse_special(path: Path) -> None:
    """Raise an :class:`InputError` for a folder, pipe or device: reading a pipe may never end."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe or a device"
        raise InputError(f"{path} is {kind}, not a file.", hint="Give a regular file")
