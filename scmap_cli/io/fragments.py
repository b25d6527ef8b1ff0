"""Fragment files: one row a fragment, with chromosome, start, end, barcode and perhaps the number of read pairs.

The rows may be sorted or not, and the file plain, gzip or BGZF. The text goes through in pieces of about 4 MB, and
threads inflate, parse and use the pieces side by side. What comes out is in the order of the file, so nothing depends
on the number of threads. Coordinates are 0-based and half-open.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from scmap_cli.errors import InputError
from scmap_cli.io import parsing
from scmap_cli.io.bgzf import AGAIN, pieces
from scmap_cli.runtime.logs import log

T = TypeVar("T")

_LONGEST_LINE = 1 << 16
_TOLD = 3


@dataclass(frozen=True)
class Block:
    """Consecutive fragments, m of them.

    Attributes
    ----------
    chroms
        Distinct chromosomes, in order of first appearance.
    chrom, start, end, barcode
        (m,) int32: index into ``chroms``, 0-based half-open interval, index into the barcodes.
    support
        (m,) int32 read pairs of each fragment; empty where they were not asked for.
    text, places, keys
        Distinct barcodes: bytes, (k, 2) offsets and lengths in them, and (k, 2) hashes; for
        :meth:`~scmap_cli.io.parsing.NameTable.ids`.
    """

    chroms: list[str]
    chrom: np.ndarray
    start: np.ndarray
    end: np.ndarray
    barcode: np.ndarray
    support: np.ndarray
    text: np.ndarray
    places: np.ndarray
    keys: np.ndarray


@dataclass
class BadRows:
    """Rows that are no fragments: how many, and the first of them with line and reason.

    One more than ``limit`` ends the reading with an :class:`~scmap_cli.errors.InputError`.
    """

    path: Path
    limit: int
    count: int = 0
    told: list[str] = field(default_factory=list)

    def add(self, count: int, told: list[str]) -> None:
        """Take note of more of them."""
        self.count += count
        self.told += told[: _TOLD - len(self.told)]
        if self.count > self.limit:
            allowed = f"{self.limit} are allowed" if self.limit else "none is allowed"
            raise InputError(
                f"{self.path} has rows that are no fragments ({allowed}): {'; '.join(self.told)}",
                "give a file of chromosome, start, end, barcode and perhaps support, separated by tabs, or allow some "
                "with --max-bad-rows",
            )


@dataclass
class _Part(Generic[T]):
    """What a thread made of one piece: its first and last line, which others may complete, and all between them."""

    head: bytes
    tail: bytes
    lines: int
    bad: int
    told: list[tuple[int, str]]
    result: T | None


def map_blocks(
    path: Path | str,
    work: Callable[[Block], T],
    *,
    threads: int = 1,
    with_support: bool = False,
    sizes: Mapping[str, int] | None = None,
    bad_rows: BadRows | None = None,
) -> Iterator[T]:
    """Apply ``work`` to all fragments of a file, block by block, and yield its results in the file's order.

    Parameters
    ----------
    path
        TSV, plain, gzip or BGZF; 4 or 5 columns, lines that begin with ``#`` and empty lines are passed over.
    work
        Called in threads, once a block of about 100,000 fragments.
    threads
        Threads that inflate, parse and work.
    with_support
        Read the fifth column as a number.
    sizes
        Length of each chromosome: a fragment that ends beyond its chromosome is a bad row.
    bad_rows
        Where bad rows are counted; by default none is allowed.

    Raises
    ------
    InputError
        The file is absent, empty, truncated or corrupt; too many rows are bad; lines end with a carriage return.
    """
    path = Path(path)
    bad = bad_rows or BadRows(path, 0)
    line, carry = 0, b""

    def parse(text: bytes, first: int, stop: int) -> tuple[int, int, list[tuple[int, str]], T | None]:
        rows, chroms, (own, places, keys), lines, (n_bad, bad_rows_at) = parsing.parse_rows(
            np.frombuffer(text, np.uint8), first, stop, with_support
        )
        told = [
            (int(n), _reason(path, text[at : text.index(b"\n", at)], with_support)) for at, n in bad_rows_at.tolist()
        ]
        names = [_decoded(path, text[at : at + length]) for at, length in chroms.tolist()]
        if sizes is not None:
            rows, beyond, more = _inside(rows, names, sizes, text[first:stop])
            n_bad, told = n_bad + beyond, sorted(told + more)
        if not len(rows[0]):
            return lines, n_bad, told, None
        return lines, n_bad, told, work(Block(names, rows[0], rows[1], rows[2], rows[3], rows[4], own, places, keys))

    def job(piece: Callable[[], bytes]) -> _Part[T]:
        text = piece()
        first, stop = text.find(b"\n") + 1, text.rfind(b"\n") + 1
        if first == 0:
            return _Part(text, b"", 0, 0, [], None)
        return _Part(text[:first], text[stop:], *parse(text, first, stop))

    def note(lines: int, n_bad: int, told: list[tuple[int, str]]) -> None:
        nonlocal line
        if n_bad:
            bad.add(n_bad, [f"line {line + n + 1}: {why}" for n, why in told])
        line += lines

    for part in _in_order((lambda piece=piece: job(piece) for piece in pieces(path)), threads):  # type: ignore[misc]
        carry += part.head
        if not part.head.endswith(b"\n"):
            if len(carry) > _LONGEST_LINE:
                raise InputError(f"{path}, line {line + 1}: longer than {_LONGEST_LINE} bytes, so this is no such file")
            continue
        lines, n_bad, told, result = parse(carry, 0, len(carry))
        note(lines, n_bad, told)
        if result is not None:
            yield result
        note(part.lines, part.bad, part.told)
        carry = part.tail
        if part.result is not None:
            yield part.result
    if carry:
        log.warning("%s does not end with a line end: its last row may have been cut", path)
        lines, n_bad, told, result = parse(carry + b"\n", 0, len(carry) + 1)
        note(lines, n_bad, told)
        if result is not None:
            yield result


def _in_order(jobs: Iterator[Callable[[], T]], threads: int) -> Iterator[T]:
    """Results of jobs that run in threads, in the order of the jobs; few are under way at any time."""
    if threads == 1:
        for job in jobs:
            yield job()
        return
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for job in jobs:
                waiting.append(pool.submit(job))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()


def _decoded(path: Path, name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text: {name[:40]!r}", AGAIN) from None


def _inside(
    rows: tuple[np.ndarray, ...], names: list[str], sizes: Mapping[str, int], text: bytes
) -> tuple[tuple[np.ndarray, ...], int, list[tuple[int, str]]]:
    """Rows that end within their chromosome, and the number, lines and reasons of the others."""
    limits = np.array([sizes.get(name, parsing.LARGEST) for name in names] or [0])
    beyond = np.flatnonzero(rows[2] > limits[rows[0]])
    if not len(beyond):
        return rows, 0, []
    told = []
    for i in beyond[: parsing.NAMED]:
        name, start, end, limit = names[rows[0][i]], rows[1][i], rows[2][i], limits[rows[0][i]]
        # The first line of that beginning may be an earlier bad row of the same place, which is as good to name.
        row = re.search(rb"^%s\t0*%d\t0*%d\t" % (re.escape(name.encode()), start, end), text, re.MULTILINE)
        assert row is not None
        told.append((text.count(b"\n", 0, row.start()), f"end {end} lies beyond {name}, which has {limit} bases"))
    keep = np.ones(len(rows[0]), bool)
    keep[beyond] = False
    return tuple(column[keep] if len(column) else column for column in rows), len(beyond), told


def _reason(path: Path, row: bytes, with_support: bool) -> str:
    """Why a row is no fragment.

    Raises
    ------
    InputError
        It ends with a carriage return, as all rows of its file will.
    """
    if row.endswith(b"\r"):
        raise InputError(
            f"{path}: lines end with a carriage return, as Windows writes them", "convert the file, as with dos2unix"
        )
    fields = [one.decode(errors="backslashreplace") for one in row.split(b"\t")]
    if not 4 <= len(fields) <= 5:
        return (
            f"{len(fields)} column{'s' if len(fields) != 1 else ''}, 4 or 5 expected ({_short(chr(9).join(fields))!r})"
        )
    for what, value in zip(("start", "end"), fields[1:3], strict=True):
        if not (value.isascii() and value.isdigit()):
            return f"{what} {_short(value)!r} is not a whole number"
        if int(value[:20]) > parsing.LARGEST:
            return f"{what} {_short(value)} is too large for a position"
    if int(fields[1]) >= int(fields[2]):
        return f"start {fields[1]} is not below end {fields[2]}"
    for what, value in zip(("chromosome", "barcode"), (fields[0], fields[3]), strict=True):
        if not value:
            return f"the {what} is empty"
    if not with_support:
        return "it cannot be read"
    return f"support {_short(fields[4])!r} is not a number of read pairs, 1 to {parsing.MOST_COPIES}"


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
