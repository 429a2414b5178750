"""Resumable download of one file over HTTP, with the standard library only.

The bytes arrive in ``NAME.part``; ``NAME.part.json`` beside it says of which file they are (address, ETag
or date, length). A kill leaves both, and the next call asks for the rest (Range, If-Range). Only a file
that is whole, is not a web page, unpacks to its end and has the checksum that is known of it gets its name.

An address that cannot serve the file (404, a web page, a damaged file) is left for the next mirror; one
that may serve it later (a stall, a cut connection, 503) is asked again after a growing pause. A server that
ignores Range, or that has another file by now, makes the download start over, never mix two files.
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
"""HTTP answers after which the same address may serve the file later (RFC 9110)."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server; all times in seconds."""

    timeout: float = 30.0
    """Longest silence: no connection or no byte."""
    retries: int = 5
    """Failures in a row, without a new byte, after which an address is given up."""
    pause: float = 1.0
    """First pause between two attempts; doubled each time."""
    longest: float = 60.0
    """Longest pause, also when the server asks for more (Retry-After)."""


class _AskAgain(Exception):
    """This address may serve the file later."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class _AskElsewhere(Exception):
    """This address will not serve the file."""


@dataclass(frozen=True)
class _Identity:
    """Of which file the bytes of a part are."""

    url: str
    validator: str | None
    total: int | None


class _Part:
    """The bytes that have arrived so far, and what they are bytes of."""

    def __init__(self, final: Path) -> None:
        self.path = final.with_name(f"{final.name}.part")
        self.sidecar = final.with_name(f"{final.name}.part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def resumes(self, url: str) -> _Identity | None:
        """What the part is of, if a download from this address can go on from it."""
        try:
            found = json.loads(self.sidecar.read_text(encoding="utf-8"))
            known = _Identity(found["url"], found["validator"], found["total"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        fits = known.url == url and isinstance(known.validator, str)
        fits = fits and (known.total is None or (isinstance(known.total, int) and self.size <= known.total))
        return known if fits and self.size else None

    def begin(self, identity: _Identity) -> None:
        """Start over. Old bytes go before the new identity comes: a kill between leaves no false claim."""
        self.path.write_bytes(b"")
        write_atomically(self.sidecar, json.dumps(asdict(identity)).encode())

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.sidecar.unlink(missing_ok=True)


def fetch(file: RemoteFile, folder: Path, *, patience: Patience | None = None, way_out: str) -> str:
    """Download a file into a folder and return the address that served it.

    Args:
        way_out: what to do if it cannot be fetched; the hint of the error.

    Raises:
        DownloadError: no address served the file; names each with its reason.
    """
    patience = patience or Patience()
    final = folder / file.name
    part = _Part(final)
    tried = []
    for url in file.urls:
        try:
            _fetch_from(url, file, part, patience)
            part.path.replace(final)
        except _AskElsewhere as reason:
            console.say(f"{file.name}: {url} {reason}", level=2)
            tried.append(f"  {url} {reason}")
        except OSError as error:  # the network's are dealt with below; this one is the disk's
            raise DownloadError(f"{part.path} cannot be written: {error.strerror or error}.") from None
        else:
            part.drop()
            return url
    kept = f"\n  {part.size:,} bytes are kept in {part.path} to go on from." if part.size else ""
    raise DownloadError(f"{file.name} could not be fetched.\n" + "\n".join(tried) + kept, hint=way_out)


def damage(path: Path, sha256: str | None = None) -> str | None:
    """What is wrong with a file's content, or None: its checksum, and a ``.gz`` must unpack to its end."""
    if path.stat().st_size == 0:
        return "is empty"
    if ".gz" in path.suffixes:
        try:
            with gzip.open(path) as stream:
                while stream.read(BLOCK):
                    pass
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            return f"is not a whole gzip file ({error})"
    if sha256 and (found := sha256_file(path)) != sha256:
        return f"has the SHA-256 {found}, not {sha256}"
    return None


def _fetch_from(url: str, file: RemoteFile, part: _Part, patience: Patience) -> None:
    """Fill the part with the whole, verified file from one address."""
    failures, furthest = 0, part.size
    while True:
        try:
            in_one_piece = _transfer(url, file, part, patience)
            wrong = damage(part.path, file.sha256)
            if wrong is None:
                return
            part.drop()
            if in_one_piece:  # the file itself is bad: the same bytes would come again
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
            pause = min(patience.longest, patience.pause * 2 ** (failures - 1)) * random.uniform(0.5, 1.0)
            pause = max(pause, reason.after)
            console.say(f"{file.name}: the server {reason}; again in {pause:.1f} s ({failures} of {patience.retries})")
            time.sleep(pause)


def _transfer(url: str, file: RemoteFile, part: _Part, patience: Patience) -> bool:
    """One request: append to the part, or start it over. Returns whether the file came in one piece."""
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
            seen = _identity(url, response, file)
            if known and offset and response.status == 206:
                _check_continues(response, known, seen, offset, part)
                seen = known
            elif response.status == 200:
                offset = 0
                part.begin(seen)
            else:
                raise _AskElsewhere(f"answered {response.status} {response.reason}")
            _receive(response, file, part, offset, seen.total)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the file is shorter than the part by now
            part.drop()
            raise _AskAgain("has another file than before") from None
        answer = f"answered {error.code} {error.reason}"
        if error.code in ASK_AGAIN:
            raise _AskAgain(answer, after=_retry_after(error.headers.get("Retry-After"))) from None
        raise _AskElsewhere(answer) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, OSError) and error.errno in DISK_FAULTS:
            raise  # writing the part failed; asking the server again cannot help
        raise _network_fault(error, patience) from None
    if seen.total is not None and part.size != seen.total:
        raise _AskAgain(f"ended the file after {part.size:,} of {seen.total:,} bytes")
    return offset == 0 and seen.total is not None


def _receive(response: http.client.HTTPResponse, file: RemoteFile, part: _Part, offset: int, total: int | None) -> None:
    """Write the body to the end of the part. What has arrived is on disk when the connection breaks."""
    options: dict[str, Any] = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "desc": file.name}
    with part.path.open("ab") as out, console.progress(total=total, initial=offset, **options) as bar:
        at_start = offset == 0
        while block := response.read1(BLOCK):
            if at_start and file.name.endswith(".gz") and not b"\x1f\x8b".startswith(block[:2]):
                part.drop()
                kind = response.headers.get_content_type()
                raise _AskElsewhere(f"sent something else ({kind}: {block[:40]!r}...) in place of a gzip file")
            at_start = False
            out.write(block)
            out.flush()  # to the system: even a kill loses none of it
            bar.update(len(block))
        os.fsync(out.fileno())


def _identity(url: str, response: http.client.HTTPResponse, file: RemoteFile) -> _Identity:
    """Address, strong validator and length of the file that a server is about to send."""
    if response.headers.get_content_type() == "text/html":  # a portal's or an error page, sent as a success
        raise _AskElsewhere("sent a web page in place of the file")
    tag = response.headers.get("ETag")
    strong = tag if tag and not tag.startswith("W/") else None  # RFC 9110, 13.1.5: If-Range takes no weak tag
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() and response.status == 200 else None
    if file.bytes is not None and total not in (None, file.bytes):
        raise _AskElsewhere(f"has a file of {total:,} bytes, not {file.bytes:,}")
    return _Identity(url, strong or response.headers.get("Last-Modified"), total if total is not None else file.bytes)


def _check_continues(
    response: http.client.HTTPResponse, known: _Identity, seen: _Identity, offset: int, part: _Part
) -> None:
    """A partial answer must continue this very file at this very byte; otherwise the part is dropped."""
    said = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", said.strip())
    same = (
        match is not None
        and int(match[1]) == offset
        and (known.total is None or match[2] in ("*", str(known.total)))
        and seen.validator in (None, known.validator)  # some servers ignore If-Range
    )
    if not same:
        part.drop()
        raise _AskAgain("has another file than before")


def _retry_after(value: str | None) -> float:
    """Seconds of a Retry-After header: a number or a date; 0 if there is none or it makes no sense."""
    if value is None:
        return 0.0
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def _network_fault(error: Exception, patience: Patience) -> _AskAgain | _AskElsewhere:
    """Sort what went wrong below HTTP: nobody there (go elsewhere), or broken off (ask again)."""
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
