"""Compressed text: what a file is packed with, whether its end is there, and its text in pieces.

BGZF (SAM specification, section 4.1) is gzip in blocks of at most 64 KiB, each with its own size in its header, so
the blocks can be inflated side by side. Its last block is empty, and a file without it was cut: gzip itself ends
quietly at any boundary between blocks. A plain gzip file says nothing of that kind; there only a cut inside the stream
can be told. Checksums are compared in all cases.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from isal import igzip, isal_zlib

from scmap_cli.errors import InputError

Packing = Literal["none", "gzip", "bgzf"]

AGAIN = "copy or make the file again"

_GZIP_MAGIC = b"\x1f\x8b"
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_BLOCK_HEADER = 18
# isal's stub calls its error class an object
_CORRUPT: tuple[type[Exception], ...] = (EOFError, zlib.error, isal_zlib.error, igzip.BadGzipFile)  # type: ignore[assignment]

# Text in one piece: long enough to be worth a thread's while, short enough to stay in a processor's cache.
_TEXT_BYTES = 1 << 22
_PACKED_BYTES = 1 << 20


def packing(path: Path | str) -> Packing:
    """Tell how a file is packed by its first bytes; a BGZF file must end as one.

    Raises
    ------
    InputError
        The file is absent, unreadable or empty, or is a BGZF file whose last block is missing.
    """
    path = Path(path)
    try:
        with path.open("rb") as handle:
            head = handle.read(_BLOCK_HEADER)
            if not head:
                raise InputError(f"{path} is empty", AGAIN)
            if not head.startswith(_GZIP_MAGIC):
                return "none"
            if not _is_block(head):
                return "gzip"
            handle.seek(0, io.SEEK_END)
            handle.seek(max(handle.tell() - len(_BGZF_END), 0))
            if handle.read() != _BGZF_END:
                raise InputError(f"{path} is truncated: its last BGZF block is missing", AGAIN)
            return "bgzf"
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _is_block(head: bytes) -> bool:
    """Whether 18 bytes are the header of a BGZF block, with its size as the first extra field."""
    return len(head) == _BLOCK_HEADER and head.startswith(_GZIP_MAGIC) and bool(head[3] & 4) and head[12:14] == b"BC"


def pieces(path: Path | str) -> Iterator[Callable[[], bytes]]:
    """Yield the text of a file in order, as functions that return one piece of about 4 MB each.

    The functions of a BGZF file inflate when they are called, so threads may share that work; those of other files
    return what was read. Pieces end anywhere, also inside a line.

    Raises
    ------
    InputError
        The file is truncated or corrupt; also when a function is called.
    """
    path = Path(path)
    packed = packing(path)
    try:
        with path.open("rb") as handle:
            if packed == "bgzf":
                yield from _block_runs(path, handle)
                return
            stream = igzip.GzipFile(fileobj=handle, mode="rb") if packed == "gzip" else handle
            while text := _read(path, stream):
                yield lambda text=text: text  # type: ignore[misc]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _read(path: Path, stream: BinaryIO | igzip.GzipFile) -> bytes:
    try:
        return stream.read(_TEXT_BYTES)
    except _CORRUPT as error:
        raise InputError(f"{path} is truncated or corrupt: {error}", AGAIN) from error


def _block_runs(path: Path, handle: BinaryIO) -> Iterator[Callable[[], bytes]]:
    """Cut a BGZF file into runs of whole blocks."""
    rest = b""
    while True:
        fresh = handle.read(_PACKED_BYTES)
        packed = rest + fresh
        end = _whole_blocks(path, packed)
        if end:
            yield lambda run=packed[:end]: _inflate(path, run)  # type: ignore[misc]
        rest = packed[end:]
        if not fresh:
            if rest:
                raise InputError(f"{path} is truncated: its last BGZF block is not whole", AGAIN)
            return


def _whole_blocks(path: Path, packed: bytes) -> int:
    """Where the last whole block ends."""
    place = 0
    while place + _BLOCK_HEADER <= len(packed):
        head = packed[place : place + _BLOCK_HEADER]
        if not _is_block(head):
            raise InputError(f"{path} is corrupt: a BGZF block has no header", AGAIN)
        end = place + int.from_bytes(head[16:18], "little") + 1
        if end > len(packed) or end <= place + _BLOCK_HEADER:
            break
        place = end
    return place


def _inflate(path: Path, run: bytes) -> bytes:
    try:
        return igzip.decompress(run)
    except _CORRUPT as error:
        raise InputError(f"{path} is truncated or corrupt: {error}", AGAIN) from error
