"""The server of the application: an address, uvicorn, and its end."""

import gc
import socket
from contextlib import suppress
from importlib.util import find_spec

from genrec_cli.errors import InputError, UsageError


def require_extra() -> None:
    """Raise UsageError if the extra ``serve`` is not installed."""
    if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
        raise UsageError(f"genrec serve needs {missing[0]}.", hint='pip install "genrec-cli[serve]"')


def set_imports_aside() -> None:
    """Take all objects that exist out of Python's garbage collection: called after the imports and before runs load.

    What is imported stays to the end: over 200,000 objects, and a full collection would look at all of them while no
    request is answered. Runs are loaded later, so one that is exchanged is still freed.
    """
    gc.collect()
    gc.freeze()


def listening(host: str, port: int) -> socket.socket:
    """A socket at an address; port 0: a free port. Raises InputError if the address cannot be used."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        message = f"The service cannot listen at {host}, port {port}: {error.strerror}."
        raise InputError(message, hint=f"--port {port + 1 if port < 65_535 else 0}") from None


def serve(app: object, at: socket.socket) -> None:
    """Answer requests until the process gets a signal; requests that have begun are answered first."""
    import uvicorn

    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=10)  # type: ignore[arg-type]
    with suppress(KeyboardInterrupt):  # uvicorn repeats the signal that ended it
        uvicorn.Server(config).run(sockets=[at])
