"""Gene sets from text: GMT, two columns (program, gene), or a 0/1 matrix of genes x programs; plain or gzip.

Set names are kept whole. When a name returns, the later set is kept apart as ``NAME__2``, ``NAME__3``, ...; a gene that
returns inside one set counts once.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import IO, cast

from scmap_cli.errors import InputError, UsageError

FORMS = ("auto", "gmt", "tsv", "matrix")
"""How a gene-set file may be laid out; ``auto`` looks at the name and the first lines."""

# All of MSigDB is about 60 MB of text; far more than that is a mistake or a bomb.
_MAX_TEXT = 1 << 28
_SNIFFED_LINES = 20
_PROGRAM_HEADERS = {"program", "programs", "set", "gene_set", "geneset", "gs_name", "term", "pathway", "name", "list"}
_GENE_HEADERS = {"gene", "genes", "symbol", "symbols", "gene_symbol", "gene_name", "gene_id"}
_ZERO_ONE = {"0": False, "1": True, "0.0": False, "1.0": True, "FALSE": False, "TRUE": True}
_ZERO_ONE |= {"False": False, "True": True}


@dataclass(frozen=True)
class GeneSet:
    """One set of genes.

    Attributes
    ----------
    name
        Unique within what was read together.
    genes
        Distinct genes in file order, spelled as in the file.
    renamed
        Whether ``name`` got a suffix because an earlier set had it.
    """

    name: str
    genes: tuple[str, ...]
    renamed: bool = False


def unique_sets(sets: Iterable[GeneSet]) -> list[GeneSet]:
    """The same sets with repeated names told apart by ``__2``, ``__3``, ...; first comers keep their name."""
    sets = list(sets)
    taken = {one.name for one in sets}
    seen: dict[str, int] = {}
    result = []
    for one in sets:
        count = seen.get(one.name, 0) + 1
        name = one.name
        if count > 1:
            while (name := f"{one.name}__{count}") in taken:
                count += 1
            taken.add(name)
        seen[one.name] = count
        result.append(one if count == 1 else replace(one, name=name, renamed=True))
    return result


def read_gene_sets(path: Path | str, form: str = "auto") -> list[GeneSet]:
    """Read gene sets of any accepted form.

    Parameters
    ----------
    path
        Text file, plain or gzip (told by its first bytes, not its name).
    form
        ``gmt``, ``tsv`` (program, gene), ``matrix`` (genes x programs of 0/1), or ``auto``: a name ending in ``.gmt``
        is a GMT; otherwise two columns are ``tsv``, numbers of 0/1 after the first column are ``matrix``, and the rest
        is GMT.

    Raises
    ------
    InputError
        The file is missing, not text, or a line does not fit the form; the message gives the line number.
    UsageError
        ``form`` is unknown.
    """
    readers = {"gmt": read_gmt, "tsv": read_program_tsv, "matrix": read_binary_matrix}
    if form == "auto":
        form = _sniff(Path(path))
    if form not in readers:
        raise UsageError(f"unknown form {form!r} of gene sets", f"known forms: {', '.join(FORMS)}")
    return readers[form](path)


def read_gmt(path: Path | str) -> list[GeneSet]:
    """Read a GMT: name, description (never a gene), genes, all separated by tabs. Sets without genes are kept.

    Raises
    ------
    InputError
        As :func:`read_gene_sets`.
    """
    sets = []
    for number, fields in _rows(path):
        name = fields[0].strip()
        if len(fields) == 1 and name.startswith("#"):
            continue
        if len(fields) < 2 or not name:
            raise _bad_line(path, number, "is not name, description and genes separated by tabs")
        sets.append(GeneSet(name, _distinct(fields[2:])))
    return _some(path, unique_sets(sets))


def read_program_tsv(path: Path | str) -> list[GeneSet]:
    """Read two columns, program and gene, one pair a line; rows of a program need not be adjacent.

    A first line such as ``program<TAB>gene`` is a header: it may then name the two among more columns, in any order.

    Raises
    ------
    InputError
        As :func:`read_gene_sets`.
    """
    members: dict[str, list[str]] = {}
    program_at, gene_at, first, width = 0, 1, True, 2
    for number, fields in _rows(path):
        if first:
            first, width = False, len(fields)
            lowered = [field.strip().lower() for field in fields]
            programs = [i for i, field in enumerate(lowered) if field in _PROGRAM_HEADERS]
            genes = [i for i, field in enumerate(lowered) if field in _GENE_HEADERS]
            if programs and genes:
                program_at, gene_at = programs[0], genes[0]
                continue
            if width != 2:
                raise _bad_line(path, number, f"has {width} columns where two (program, gene) are needed")
        if len(fields) != width:
            raise _bad_line(path, number, f"has {len(fields)} columns where {width} are needed")
        program, gene = fields[program_at].strip(), fields[gene_at].strip()
        if not program or not gene:
            raise _bad_line(path, number, "has an empty program or gene")
        members.setdefault(program, []).append(gene)
    return _some(path, [GeneSet(program, _distinct(genes)) for program, genes in members.items()])


def read_binary_matrix(path: Path | str) -> list[GeneSet]:
    """Read a tab-separated matrix of genes (rows) x programs (columns) of 0 and 1, with a header of program names.

    The header may leave out the corner cell, as R writes it. Rows of the same gene are united.

    Raises
    ------
    InputError
        As :func:`read_gene_sets`.
    """
    rows = _rows(path)
    header = next(rows, None)
    if header is None:
        raise InputError(f"{path} is empty", "give a matrix of genes x programs")
    names = [field.strip() for field in header[1]]
    members: list[list[str]] = []
    for number, fields in rows:
        if not members:
            if len(names) == len(fields):
                names = names[1:]
            if not names or not all(names):
                raise _bad_line(path, header[0], "has an empty program name")
            members = [[] for _ in names]
        if len(fields) != len(names) + 1:
            raise _bad_line(path, number, f"has {len(fields)} columns where {len(names) + 1} are needed")
        gene = fields[0].strip()
        if not gene:
            raise _bad_line(path, number, "has an empty gene")
        flags = [_ZERO_ONE.get(field.strip()) for field in fields[1:]]
        if None in flags:
            column = flags.index(None) + 2
            raise _bad_line(path, number, f"has {fields[column - 1]!r} in column {column} where 0 or 1 is needed")
        for member in compress(members, flags):
            member.append(gene)
    return _some(
        path, unique_sets(GeneSet(name, _distinct(genes)) for name, genes in zip(names, members, strict=False))
    )


def _distinct(genes: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(gene for gene in (field.strip() for field in genes) if gene))


def _some(path: Path | str, sets: list[GeneSet]) -> list[GeneSet]:
    if not sets:
        raise InputError(f"{path} holds no gene set", "give a GMT, a table of program and gene, or a 0/1 matrix")
    return sets


def _bad_line(path: Path | str, number: int, what: str) -> InputError:
    return InputError(f"{path}, line {number} {what}", "correct the line, or name the layout with --form")


def _rows(path: Path | str) -> Iterator[tuple[int, list[str]]]:
    """Line number (from 1) and tab-separated fields of every line that is not blank."""
    for number, raw in enumerate(_read_text(Path(path)).split(b"\n"), start=1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r")
        except UnicodeDecodeError:
            raise _bad_line(path, number, "is not UTF-8 text") from None
        if any(ord(letter) < 32 and letter != "\t" for letter in line):
            raise _bad_line(path, number, "holds control characters, so this is no text table")
        if line.strip():
            yield number, line.split("\t")


def _read_text(path: Path) -> bytes:
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            handle = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if packed else raw
            text = handle.read(_MAX_TEXT + 1)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}", "check that the file is whole") from error
    if len(text) > _MAX_TEXT:
        raise InputError(f"{path} holds more than {_MAX_TEXT:,} bytes of text, too much for gene sets")
    return text


def _sniff(path: Path) -> str:
    if path.name.lower().removesuffix(".gz").endswith(".gmt"):
        return "gmt"
    rows = [fields for (_, fields), _ in zip(_rows(path), range(_SNIFFED_LINES), strict=False)]
    body = rows[1:]
    if body and all(len(fields) > 1 and all(f.strip() in _ZERO_ONE for f in fields[1:]) for fields in body):
        return "matrix"
    if rows and all(len(fields) == 2 for fields in rows):
        return "tsv"
    lowered = {field.strip().lower() for field in rows[0]} if rows else set()
    return "tsv" if lowered & _PROGRAM_HEADERS and lowered & _GENE_HEADERS else "gmt"
