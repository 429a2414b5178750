"""The errors a user can meet. Each says what happened, where, and what to type next.

An exception that is not a :class:`GenrecError` is a bug of ours (exit code 1).
"""


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
    """An input artifact is missing, ambiguous, stale or locked."""

    exit_code = 4


class DownloadError(GenrecError):
    """A file could not be fetched, or is not the file that was asked for."""

    exit_code = 5


class DivergedError(GenrecError):
    """Training met a loss that is not finite."""

    exit_code = 6


class Interrupted(GenrecError):
    """Ctrl-C or SIGTERM, after whatever can be resumed was saved."""

    exit_code = 130
