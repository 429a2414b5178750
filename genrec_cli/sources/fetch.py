"""Resumable download of one file over HTTP, with the standard library only.

The bytes are written to ``NAME.part``; ``NAME.part.json`` holds the identity of their file (address, ETag or date,
length), so a later call requests the rest (Range, If-Range). A file is renamed to ``NAME`` if it is complete, is not a
web page, decompresses to its end and has the known checksum.

After a permanent failure (404, a web page, a damaged file) the next mirror is tried; after a temporary one (a stall, a
cut connection, 503) the same address, with exponential backoff. If a server ignores Range or has a different file, the
download starts over.
"""

import email.utils
import gzip
import http.client
import json
import os
import random
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genrec_cli import __version__, console
from genrec_cli.errors import DISK_FAULTS, DownloadError
from genrec_cli.files import sha256_file, write_atomically
from genrec_cli.sources.base import RemoteFile

BLOCK = 1 << 18
ASK_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP status codes of temporary failures (RFC 9110)."""


@dataclass(frozen=True)
class Patience:
    """Timeouts and retries; all times in seconds."""

    timeout: float = 30.0
    """Longest time without a connection or a byte."""
    retries: int = 5
    """Failures in a row, without a new byte, before the next mirror."""
    pause: float = 1.0
    """First pause between two attempts; doubled each time."""
    longest: float = 60.0
    """Longest pause, also for Retry-After."""


class _AskAgain(Exception):
    """A temporary failure; ``after``: least pause in seconds."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class _AskElsewhere(Exception):
    """A permanent failure of an address."""


@dataclass(frozen=True)
class _Identity:
    """The file that the bytes of a part belong to."""

    url: str
    validator: str | None
    total: int | None


class _Part:
    """The bytes received so far, and the identity of their file."""

    def __init__(self, final: Path) -> None:
        self.path = final.with_name(f"{final.name}.part")
        self.sidecar = final.with_name(f"{final.name}.part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def resumes(self, url: str) -> _Identity | None:
        """The identity of the part, if a download from this address can continue it."""
        try:
            known = _Identity(**json.loads(self.sidecar.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        fits = known.total is None or (isinstance(known.total, int) and self.size <= known.total)
        return known if fits and self.size and known.url == url and isinstance(known.validator, str) else None

    def begin(self, identity: _Identity) -> None:
        """Start over. The old bytes are deleted first, so a kill never leaves them with a new identity."""
        self.path.write_bytes(b"")
        write_atomically(self.sidecar, json.dumps(asdict(identity)).encode())

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.sidecar.unlink(missing_ok=True)


def fetch(file: RemoteFile, folder: Path, *, patience: Patience | None = None, hint: str) -> str:
    """Download a file into a folder and return the address that served it.

    Raises:
        DownloadError: no address served the file; it lists each with its reason, and has the hint.
    """
    final = folder / file.name
    part, tried = _Part(final), []
    for url in file.urls:
        try:
            _fetch_from(url, file, part, patience or Patience())
            part.path.replace(final)
        except _AskElsewhere as reason:
            console.say(f"{file.name}: {url} {reason}", level=2)
            tried.append(f"  {url} {reason}")
        except OSError as error:  # of the disk; _transfer handles those of the network
            raise DownloadError(f"{part.path} cannot be written: {error.strerror or error}.") from None
        else:
            part.drop()
            return url
    kept = f"\n  {part.size:,} bytes are kept in {part.path} for the next call." if part.size else ""
    raise DownloadError(f"{file.name} could not be fetched.\n" + "\n".join(tried) + kept, hint=hint)


def damage(path: Path, sha256: str | None = None) -> str | None:
    """The fault of a file, or None: it is empty, a ``.gz`` or ``.zip`` that is damaged, or has another checksum."""
    if path.stat().st_size == 0:
        return "is empty"
    if ".gz" in path.suffixes:
        try:
            with gzip.open(path) as stream:
                while stream.read(BLOCK):
                    pass
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            return f"is not a whole gzip file ({error})"
    if ".zip" in path.suffixes:
        try:
            with zipfile.ZipFile(path) as archive:
                if broken := archive.testzip():
                    return f"is a zip file with a damaged member ({broken})"
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            return f"is not a whole zip file ({error})"
    if sha256 and (found := sha256_file(path)) != sha256:
        return f"has the SHA-256 {found}, not {sha256}"
    return None


def _fetch_from(url: str, file: RemoteFile, part: _Part, patience: Patience) -> None:
    """Fill the part with the complete, verified file from one address."""
    failures, furthest = 0, part.size
    while True:
        try:
            in_one_piece = _transfer(url, file, part, patience)
            wrong = damage(part.path, file.sha256)
            if wrong is None:
                return
            part.drop()
            if in_one_piece:  # the file itself is bad: a retry gives the same bytes
                raise _AskElsewhere(f"sent a file that {wrong}")
            raise _AskAgain(f"sent pieces of which the file {wrong}")
        except _AskAgain as reason:
            if part.size > furthest:
                failures, furthest = 0, part.size
            failures += 1
            if failures > patience.retries:
                raise _AskElsewhere(f"{reason}; {failures} attempts") from None
            if reason.after > patience.longest:
                raise _AskElsewhere(f"{reason} and wants {reason.after:,.0f} s of patience") from None
            backoff = min(patience.longest, patience.pause * 2 ** (failures - 1)) * random.uniform(0.5, 1.0)
            pause = max(backoff, reason.after)
            console.say(f"{file.name}: the server {reason}; again in {pause:.1f} s ({failures} of {patience.retries})")
            time.sleep(pause)


def _transfer(url: str, file: RemoteFile, part: _Part, patience: Patience) -> bool:
    """One request: append to the part, or start over. Returns whether the file was sent in one piece."""
    known = part.resumes(url)
    if known and part.size == known.total:
        return False  # killed after the last byte
    headers = {"User-Agent": f"genrec/{__version__}", "Accept-Encoding": "identity"}
    offset = 0
    if known and known.validator:
        offset = part.size
        headers |= {"Range": f"bytes={offset}-", "If-Range": known.validator}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=patience.timeout) as response:
            served = _identity(url, response, file)
            if known and offset and response.status == 206:
                if not _continues(response, known, served, offset):
                    part.drop()
                    raise _AskAgain("has another file than before")
                served = known
            elif response.status == 200:
                offset = 0
                part.begin(served)
            else:
                raise _AskElsewhere(f"answered {response.status} {response.reason}")
            _receive(response, file, part, offset, served.total)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the file is now shorter than the part
            part.drop()
            raise _AskAgain("has another file than before") from None
        answer = f"answered {error.code} {error.reason}"
        if error.code in ASK_AGAIN:
            raise _AskAgain(answer, after=_retry_after(error.headers.get("Retry-After"))) from None
        raise _AskElsewhere(answer) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, OSError) and error.errno in DISK_FAULTS:
            raise  # the part cannot be written: a retry cannot help
        raise _network_fault(error, patience) from None
    if served.total is not None and part.size != served.total:
        raise _AskAgain(f"ended the file after {part.size:,} of {served.total:,} bytes")
    return offset == 0 and served.total is not None


def _receive(response: http.client.HTTPResponse, file: RemoteFile, part: _Part, offset: int, total: int | None) -> None:
    """Append the body to the part, block by block, so that a broken connection loses nothing."""
    options: dict[str, Any] = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "desc": file.name}
    with part.path.open("ab") as out, console.progress(total=total, initial=offset, **options) as bar:
        while block := response.read1(BLOCK):
            if part.size == 0 and file.name.endswith(".gz") and not b"\x1f\x8b".startswith(block[:2]):
                part.drop()
                kind = response.headers.get_content_type()
                raise _AskElsewhere(f"sent something else ({kind}: {block[:40]!r}...) in place of a gzip file")
            out.write(block)
            out.flush()  # to the operating system, so that a kill loses nothing
            bar.update(len(block))
        os.fsync(out.fileno())


def _identity(url: str, response: http.client.HTTPResponse, file: RemoteFile) -> _Identity:
    """Address, strong validator and length of the file of a response."""
    if response.headers.get_content_type() == "text/html":  # a login or an error page with status 200
        raise _AskElsewhere("sent a web page in place of the file")
    tag = response.headers.get("ETag")
    strong = tag if tag and not tag.startswith("W/") else None  # RFC 9110, 13.1.5: If-Range takes no weak tag
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() and response.status == 200 else None
    if file.bytes is not None and total not in (None, file.bytes):
        raise _AskElsewhere(f"has a file of {total:,} bytes, not {file.bytes:,}")
    return _Identity(url, strong or response.headers.get("Last-Modified"), total if total is not None else file.bytes)


def _continues(response: http.client.HTTPResponse, known: _Identity, served: _Identity, offset: int) -> bool:
    """Whether a partial response continues the known file at the offset."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if match is None or int(match[1]) != offset or served.validator not in (None, known.validator):
        return False  # the last: some servers ignore If-Range
    return known.total is None or match[2] in ("*", str(known.total))


def _retry_after(value: str | None) -> float:
    """Seconds of a Retry-After header: a number or a date; 0 if it is absent or not valid."""
    if value is None or value.strip().isdecimal():
        return float(value or 0)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def _network_fault(error: Exception, patience: Patience) -> _AskAgain | _AskElsewhere:
    """The failure of a network error: permanent (no such server or address) or temporary (broken off)."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return _AskAgain(f"was silent for {patience.timeout:g} s")
    if isinstance(cause, socket.gaierror | ConnectionRefusedError):
        return _AskElsewhere(f"cannot be reached ({cause.strerror or cause})")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _AskElsewhere(f"has no valid certificate ({cause.verify_message})")
    if isinstance(cause, http.client.InvalidURL | ValueError):
        return _AskElsewhere(f"is no valid address ({cause})")
    if isinstance(cause, http.client.IncompleteRead):
        return _AskAgain("ended the file too early")
    return _AskAgain(f"broke off ({type(cause).__name__}: {cause})")
