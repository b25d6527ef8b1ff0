"""Regions as text: BED and narrowPeak, chromosome sizes, barcodes. 0-based, half-open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from scmap_cli.errors import InputError
from scmap_cli.io.atomic import atomic_file
from scmap_cli.io.text import open_text

LARGEST = 2**31 - 1
"""Largest coordinate: positions are kept in 32 bits."""

_NOT_DATA = ("#", "track", "browser")
_NARROW_PEAK = 10


def numbered_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Numbered rows by tab, or by white space where there is none; comments and empty lines are left out."""
    with open_text(path) as handle:
        for number, raw in enumerate(handle, 1):
            line = raw.rstrip("\n")
            if line.strip() and not line.startswith(_NOT_DATA):
                yield number, line.split("\t") if "\t" in line else line.split()


def position(path: Path, number: int, what: str, text: str) -> int:
    """A coordinate; :class:`InputError` names the line."""
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(LARGEST)) or int(text) > LARGEST:
        raise InputError(f"{path}, line {number}: {what} {text[:40]!r} is not a position")
    return int(text)


def interval(path: Path, number: int, row: list[str]) -> tuple[str, int, int]:
    """Chromosome, start and end of the first three fields of a row.

    Raises
    ------
    InputError
        They are no interval of at least one base.
    """
    if len(row) < 3 or not row[0]:
        raise InputError(f"{path}, line {number}: chromosome, start and end are expected", "give a BED file")
    start, end = position(path, number, "start", row[1]), position(path, number, "end", row[2])
    if start >= end:
        raise InputError(f"{path}, line {number}: start {start} is not below end {end}")
    return row[0], start, end


def read_bed(path: Path | str) -> pd.DataFrame:
    """Read intervals in file order.

    Parameters
    ----------
    path
        BED of three columns or more, or narrowPeak; plain or gzip. A first line that names the columns is passed over.

    Returns
    -------
    DataFrame
        ``chrom`` (str), ``start`` and ``end`` (int64), ``score`` (float64; narrowPeak's signal, else BED's fifth
        column, NaN where there is none) and ``summit`` (int64; narrowPeak's, else the middle).

    Raises
    ------
    InputError
        The file is absent, empty, truncated or not text; a row is no interval, with its line number.
    """
    path = Path(path)
    found: list[tuple[str, int, int, float, int]] = []
    first = True
    for number, row in numbered_rows(path):
        if first and len(row) > 2 and row[1].lower() in ("start", "chromstart"):
            first = False
            continue
        first = False
        chrom, start, end = interval(path, number, row)
        narrow = len(row) == _NARROW_PEAK
        column = 6 if narrow else 4
        try:
            score = float(row[column]) if len(row) > column else np.nan
        except ValueError:
            score = np.nan
        offset = row[9] if narrow else ""
        summit = start + int(offset) if offset.isascii() and offset.isdigit() else (start + end) // 2
        if summit >= end:
            raise InputError(f"{path}, line {number}: the summit lies {offset} from start {start}, beyond end {end}")
        found.append((chrom, start, end, score, summit))
    if not found:
        raise InputError(f"{path} holds no intervals", "give a BED file with at least one row")
    return pd.DataFrame(found, columns=["chrom", "start", "end", "score", "summit"])


def write_bed(path: Path | str, table: pd.DataFrame, force: bool = False) -> None:
    """Write ``chrom``, ``start`` and ``end`` as BED.

    Raises
    ------
    OutputExistsError, WriteError
        As :func:`~scmap_cli.io.atomic.atomic_file`.
    """
    with atomic_file(path, force) as tmp:
        table[["chrom", "start", "end"]].to_csv(tmp, sep="\t", header=False, index=False, lineterminator="\n")


def read_sizes(path: Path | str) -> dict[str, int]:
    """Read chromosome lengths from the first two columns, in file order; a FASTA index serves too.

    Raises
    ------
    InputError
        As :func:`read_bed`; a length is no number above 0, or a name is repeated.
    """
    path = Path(path)
    sizes: dict[str, int] = {}
    for number, row in numbered_rows(path):
        if len(row) < 2:
            raise InputError(f"{path}, line {number}: a chromosome and its length are expected")
        length = position(path, number, "length", row[1])
        if row[0] in sizes or length == 0:
            raise InputError(f"{path}, line {number}: {row[0]} {'is repeated' if length else 'has no length'}")
        sizes[row[0]] = length
    if not sizes:
        raise InputError(f"{path} holds no chromosome", "give lines of a name and a length")
    return sizes


def read_barcodes(path: Path | str) -> list[str]:
    """Read barcodes from the first column, in file order; a first line ``barcode`` is a header.

    Raises
    ------
    InputError
        The file is absent, empty, truncated or not text, or a barcode is repeated, with its line number.
    """
    path = Path(path)
    found: dict[str, None] = {}
    with open_text(path) as handle:
        for number, raw in enumerate(handle, 1):
            name = raw.rstrip("\n").replace(",", "\t").split("\t")[0].strip()
            if not name or name.startswith("#") or (number == 1 and name.lower() in ("barcode", "barcodes", "cell")):
                continue
            if name in found:
                raise InputError(f"{path}, line {number}: the barcode {name!r} is repeated")
            found[name] = None
    if not found:
        raise InputError(f"{path} holds no barcodes", "give one barcode a line")
    return list(found)
