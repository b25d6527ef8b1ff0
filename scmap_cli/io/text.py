"""Count tables as text: TSV or CSV, plain or gzip, read a block of lines at a time into a sparse matrix."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scmap_cli.errors import InputError
from scmap_cli.io.bgzf import AGAIN, packing
from scmap_cli.io.h5ad import new_adata

_BLOCK_BYTES = 1 << 24


@contextmanager
def open_text(path: Path | str) -> Iterator[TextIO]:
    """Open a UTF-8 text file, plain or gzip by its content; read it to the end to be sure that it is whole.

    Raises
    ------
    InputError
        The file is absent, empty, truncated, corrupt or not text; also when reading or splitting it fails in the block.
    """
    path = Path(path)
    try:
        opener = open if packing(path) == "none" else gzip.open
        with opener(path, "rt", encoding="utf-8-sig", newline=None) as handle:
            yield handle
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is truncated or corrupt: {error}", AGAIN) from error
    except csv.Error as error:
        raise InputError(f"{path} cannot be split into fields: {error}", 'look for a stray " in it') from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text", "give a TSV or CSV file, plain or gzip") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def _fields(line: str, separator: str) -> list[str]:
    """Split a line; quotes may protect a separator inside a name."""
    if '"' in line:
        return next(csv.reader([line], delimiter=separator))
    return line.split(separator)


def _width(line: str, separator: str) -> int:
    return len(_fields(line, separator)) if '"' in line else line.count(separator) + 1


def _separator(path: Path, header: str) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if ".csv" in suffixes:
        return ";" if header.count(";") > header.count(",") else ","
    if ".tsv" in suffixes or "\t" in header:
        return "\t"
    return max(",; ", key=header.count)


def _blocks(handle: TextIO, first: list[tuple[int, str]], start: int) -> Iterator[list[tuple[int, str]]]:
    """Numbered lines in blocks of about 16 MB; blank lines are left out."""
    block, size = list(first), sum(len(line) for _, line in first)
    for number, raw in enumerate(handle, start):
        line = raw.rstrip("\r\n")
        if not line.strip():
            continue
        block.append((number, line))
        size += len(line)
        if size >= _BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _fail_at(path: Path, block: list[tuple[int, str]], separator: str, columns: list[str]) -> InputError:
    """Find the first value of a block that is no finite number."""
    for number, line in block:
        for column, field in zip(columns, _fields(line, separator)[1:], strict=False):
            try:
                finite = bool(np.isfinite(float(field)))
            except ValueError:
                finite = False
            if not finite:
                shown = field if len(field) <= 40 else field[:37] + "..."
                return InputError(
                    f"{path}, line {number}, column {column!r}: {shown!r} is not a number",
                    "keep one column of names and one row of names; all else must be counts",
                )
    return InputError(f"{path}: lines {block[0][0]} to {block[-1][0]} hold values that are not numbers")


def _parse_block(
    path: Path, block: list[tuple[int, str]], separator: str, columns: list[str]
) -> tuple[list[str], sp.csr_matrix]:
    """Names and float32 CSR values of a block of lines, all of the same width."""
    width = len(columns) + 1
    for number, line in block:
        found = _width(line, separator)
        if found != width:
            raise InputError(
                f"{path}, line {number}: {found} fields, {width} expected from the header", "make every row as long"
            )
    text = io.StringIO("\n".join(line for _, line in block))
    types: dict[int, type] = {0: str} | dict.fromkeys(range(1, width), np.float64)
    try:
        table = pd.read_csv(
            text, sep=separator, header=None, dtype=types, keep_default_na=False, na_values={}, engine="c"
        )
        values = table.iloc[:, 1:].to_numpy(dtype=np.float64)
    except (ValueError, OverflowError, pd.errors.ParserError) as error:
        raise _fail_at(path, block, separator, columns) from error
    if len(values) != len(block) or not np.isfinite(values).all():
        raise _fail_at(path, block, separator, columns)
    return [str(name) for name in table.iloc[:, 0]], sp.csr_matrix(values.astype(np.float32))


def read_text_matrix(path: Path | str, *, transpose: bool = False) -> anndata.AnnData:
    """Read a table with one header line and one column of names.

    Parameters
    ----------
    path
        TSV or CSV, plain or gzip. The header may lack the corner field, as R writes it.
    transpose
        False: rows are cells and columns are genes, as in AnnData. True: rows are genes and columns are cells.

    Returns
    -------
    AnnData
        ``X`` is (n, g) CSR float32.

    Raises
    ------
    InputError
        A row is longer or shorter than the header says, or a value is no finite number (with its line number); the
        file has no data, or is truncated.
    """
    path = Path(path)
    names: list[str] = []
    parts: list[sp.csr_matrix] = []
    with open_text(path) as handle:
        numbered = ((number, raw.rstrip("\r\n")) for number, raw in enumerate(handle, 1))
        lines = list(islice(((number, line) for number, line in numbered if line.strip()), 2))
        if len(lines) < 2:
            raise InputError(f"{path} has a header but no data" if lines else f"{path} is empty", AGAIN)
        separator = _separator(path, lines[0][1])
        header = _fields(lines[0][1], separator)
        columns = header if len(header) == _width(lines[1][1], separator) - 1 else header[1:]
        if not columns:
            raise InputError(f"{path} has one column only", "separate the values by tabs (.tsv) or commas (.csv)")
        for block in _blocks(handle, lines[1:], lines[1][0] + 1):
            block_names, values = _parse_block(path, block, separator, columns)
            names.extend(block_names)
            parts.append(values)
    matrix = sp.csr_matrix(sp.vstack(parts, format="csr"))
    parts.clear()
    rows, others = pd.Index(names, dtype=object), pd.Index([name.strip() for name in columns], dtype=object)
    if transpose:
        matrix, rows, others = matrix.T.tocsr(), others, rows
    return new_adata(matrix, pd.DataFrame(index=rows), pd.DataFrame(index=others))


def read_json(path: Path | str, largest: int) -> Any:
    """The value of a JSON file of at most ``largest`` bytes, plain or gzip.

    Raises
    ------
    InputError
        As :func:`open_text`; also a file that is larger, no JSON, nested too deeply, or with NaN or infinities.
    """

    def refuse(word: str) -> float:
        raise InputError(f"{path} holds {word}, which is no JSON", "make the file again")

    with open_text(path) as handle:
        text = handle.read(largest + 1)
    if len(text) > largest:
        raise InputError(f"{path} is larger than {largest} bytes", "give the result of a scmap command")
    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}", "give the result of a scmap command") from None


def read_table(path: Path | str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a small TSV, as text; rows are as long as the header.

    Raises
    ------
    InputError
        As :func:`open_text`; also a table without rows, or a row of another length, named by its line.
    """
    with open_text(path) as handle:
        lines = [line.rstrip("\r\n").split("\t") for line in handle if line.strip()]
    if len(lines) < 2:
        raise InputError(f"{path} holds no table", "give a TSV with a header that a scmap command wrote")
    for number, row in enumerate(lines, 1):
        if len(row) != len(lines[0]):
            raise InputError(f"{path}, line {number} has {len(row)} columns, the header {len(lines[0])}")
    return lines[0], lines[1:]


def read_names(path: Path | str) -> list[str]:
    """Names from a text file, one a line; empty lines and lines that begin with ``#`` are passed over.

    Raises
    ------
    InputError
        The file is unfit (see :func:`open_text`), holds no name, or holds one twice.
    """
    with open_text(path) as handle:
        names = [line.strip() for line in handle]
    names = [name for name in names if name and not name.startswith("#")]
    if not names:
        raise InputError(f"{path} holds no names", "write one name a line")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{path} holds {name!r} twice", "write each name once")
        seen.add(name)
    return names


def read_numbers(path: Path | str) -> dict[str, float]:
    """Numbers by name from a table ``name<TAB>number``; the first line may be a header.

    Raises
    ------
    InputError
        The file is unfit (see :func:`open_text`), holds no number, a line is broken, or a name is there twice.
    """
    found: dict[str, float] = {}
    with open_text(path) as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip() or line.startswith("#"):
                continue
            name, _, text = line.rstrip("\r\n").partition("\t")
            try:
                value = float(text)
            except ValueError:
                if number == 1:
                    continue
                raise InputError(
                    f"{path}, line {number}: {text!r} is not a number", "one name<TAB>number a line"
                ) from None
            if not math.isfinite(value):
                raise InputError(f"{path}, line {number}: {text} is not finite")
            if name in found:
                raise InputError(f"{path}, line {number}: {name!r} is there twice")
            found[name] = value
    if not found:
        raise InputError(f"{path} holds no numbers", "one name<TAB>number a line")
    return found
