"""Lines of a file, plain or gzip, in blocks: bounded memory whatever the file holds.

A block is a few megabytes of whole lines, for a columnar parser or for one that reads line by line. A line longer than
:data:`LONGEST` is counted as bad and never held in memory. A separate thread reads and decompresses ahead.
"""

import zipfile
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from genrec_cli.errors import DataError
from genrec_cli.sources.base import BadRows

CHUNK = 4 * 2**20
"""Bytes read (or decompressed) at a time."""
PREFETCH = 2
"""Chunks that are read ahead."""
LONGEST = 16 * 2**20
"""Bytes of the longest line that is read."""
GZIP = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"


class Block(NamedTuple):
    """Whole lines: ``content`` ends with a line end, except perhaps at the end of the file."""

    first: int
    """Number of the first line, from 1."""
    content: bytes

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Number and bytes of each line that is not blank, without its line end."""
        for number, line in enumerate(self.content.split(b"\n"), self.first):
            if line.strip():
                yield number, line.rstrip(b"\r")

    def height(self) -> int:
        """Count of lines, including blank ones."""
        ends = np.count_nonzero(np.frombuffer(self.content, np.uint8) == ord("\n"))  # 3 times as fast as bytes.count
        return int(ends) + (not self.content.endswith(b"\n"))


def read_blocks(path: Path, bad: BadRows, *, longest: int = LONGEST) -> Iterator[Block]:
    """Blocks of a file in order. Raises :class:`DataError` for a gzip file that is cut off or damaged."""
    pending, number, dropping = b"", 1, False
    for chunk in _prefetched(_chunks(path, min(CHUNK, longest))):
        pending = b"" if dropping else pending
        pending += chunk
        if dropping or len(pending) > longest:  # only the first line can be too long: the rest is within one chunk
            end = pending.find(b"\n")
            if dropping or end > longest or end < 0:
                if not dropping:
                    bad.add(path, number, f"longer than {longest:,} bytes")
                dropping = end < 0
                if dropping:
                    continue
                pending, number = pending[end + 1 :], number + 1
        cut = pending.rfind(b"\n") + 1
        if cut:
            block, pending = Block(number, pending[:cut]), pending[cut:]
            yield block
            number += block.height()
    if pending and not dropping:
        yield Block(number, pending)


def decoded(line: bytes) -> str:
    """A line as text. Raises :class:`ValueError` with the reason if it is not UTF-8 text."""
    if b"\0" in line:
        raise ValueError("a NUL byte")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None


def _prefetched(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks and errors, read in a thread (decompression releases the lock of the interpreter)."""
    with ThreadPoolExecutor(1, "genrec-read") as thread:
        waiting = deque(thread.submit(next, chunks, None) for _ in range(PREFETCH))
        while (chunk := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, chunks, None))
            yield chunk


def _chunks(path: Path, size: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            start = stream.read(2)
            stream.seek(0)
            chunks = _inflated(path, stream, size) if start == GZIP else iter(lambda: stream.read(size), b"")
            yield next(chunks, b"").removeprefix(BOM)
            yield from chunks
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (zipfile.BadZipFile, zlib.error) as error:  # a member of a zip file
        raise DataError(f"{path} is damaged: {error}.", hint="Fetch the file again") from None


def _inflated(path: Path, stream: BinaryIO, size: int) -> Iterator[bytes]:
    """Content of a gzip file of one or more members, at most ``size`` bytes at a time."""
    member = None
    try:
        while raw := stream.read(CHUNK // 4):
            while raw:
                if member is None:
                    raw = raw.lstrip(b"\0")  # padding between members is allowed
                    if not raw:
                        break
                    member = zlib.decompressobj(wbits=31)
                if content := member.decompress(raw, size):
                    yield content
                raw = member.unused_data if member.eof else member.unconsumed_tail
                member = None if member.eof else member
    except zlib.error as error:
        raise DataError(f"{path} is a damaged gzip file: {error}.", hint="Fetch the file again") from None
    if member is not None:
        raise DataError(f"{path} is a gzip file that is cut off.", hint="Fetch the file again")
