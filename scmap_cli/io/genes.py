"""Genes of BED or GTF files, plain or gzip: where they lie, and where they start. 0-based, half-open."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scmap_cli.errors import InputError
from scmap_cli.io.bed import interval, numbered_rows, position

_NAME = re.compile(r'\bgene_name "([^"]*)"')
_ID = re.compile(r'\bgene_id "([^"]*)"')
_STRANDS = ("+", "-")
# Columns of BED that may hold the strand: the sixth by its definition, the fifth in files without a score.
_STRAND_COLUMNS = (5, 4)


@dataclass(frozen=True)
class Genes:
    """Genes in the order of their file; a name may occur more than once.

    Attributes
    ----------
    names, chrom
        (g,) text.
    start, end
        (g,) int64, 0-based and half-open.
    forward
        (g,) bool: on the + strand, where a gene begins at ``start``.
    """

    names: np.ndarray
    chrom: np.ndarray
    start: np.ndarray
    end: np.ndarray
    forward: np.ndarray


@dataclass(frozen=True)
class _Row:
    """A row of BED, or one of GTF with its feature as ``form``; ``strand`` is empty where none is given."""

    number: int
    form: str
    chrom: str
    start: int
    end: int
    strand: str
    fields: list[str]


def _located(path: Path, features: tuple[str, ...]) -> Iterator[_Row]:
    """Rows of BED, and those of GTF that have one of these features; the form of a row is told by its content."""
    for number, fields in numbered_rows(path):
        if len(fields) >= 9 and fields[6] in (*_STRANDS, ".") and not fields[1].isdigit():
            if fields[2] in features:
                # GTF counts from 1 and includes the end.
                if not (first := position(path, number, "start", fields[3])):
                    raise InputError(f"{path}, line {number}: start 0, but GTF counts from 1")
                place = interval(path, number, [fields[0], str(first - 1), fields[4]])
                yield _Row(number, fields[2], *place, fields[6].replace(".", ""), fields)
            continue
        strand = next((fields[i] for i in _STRAND_COLUMNS if len(fields) > i and fields[i] in _STRANDS), "")
        yield _Row(number, "bed", *interval(path, number, fields), strand, fields)


def _name(row: _Row) -> str:
    if row.form == "bed":
        return row.fields[3] if len(row.fields) > 3 else ""
    found = _NAME.search(row.fields[8]) or _ID.search(row.fields[8])
    return found.group(1) if found else ""


def read_genes(path: Path | str) -> Genes:
    """Read genes.

    Parameters
    ----------
    path
        GTF (its rows of feature ``gene``, named by ``gene_name``, else ``gene_id``), or BED with the name in the fourth
        column and the strand in the sixth, or in the fifth where there is no score.

    Raises
    ------
    InputError
        The file is no such file, a row is broken (with its line number), or it holds no gene.
    """
    path = Path(path)
    rows = []
    for row in _located(path, ("gene",)):
        name = _name(row)
        if not name or not row.strand:
            what = f"the strand of {name!r} is not + or -" if name else "a gene has no name"
            raise InputError(f"{path}, line {row.number}: {what}", "give genes as BED or GTF")
        rows.append((name, row.chrom, row.start, row.end, row.strand == "+"))
    if not rows:
        raise InputError(f"{path} holds no gene", "a GTF needs rows of feature gene; a BED needs names and strands")
    names, chrom, start, end, forward = zip(*rows, strict=True)
    return Genes(
        np.array(names, dtype=str),
        np.array(chrom, dtype=str),
        np.array(start, dtype=np.int64),
        np.array(end, dtype=np.int64),
        np.array(forward, dtype=bool),
    )


def read_tss(path: Path | str) -> pd.DataFrame:
    """Read the start sites of genes or transcripts.

    Parameters
    ----------
    path
        GTF (its transcripts; its genes where it has none), or BED with the strand in column 6 or 5; without a strand
        the intervals must be single bases.

    Returns
    -------
    DataFrame
        Distinct ``chrom`` and ``position`` (int64, 0-based), sorted.

    Raises
    ------
    InputError
        As :func:`read_genes`, or intervals of several bases have no strand.
    """
    path = Path(path)
    forms: dict[str, list[tuple[str, int]]] = {"bed": [], "transcript": [], "gene": []}
    for row in _located(path, ("transcript", "gene")):
        if row.form == "bed" and not row.strand and row.end - row.start > 1:
            raise InputError(
                f"{path}, line {row.number}: an interval of {row.end - row.start} bases without a strand has no start "
                "site",
                "give a GTF, a BED with + or - in column 6, or single bases",
            )
        forms[row.form].append((row.chrom, row.end - 1 if row.strand == "-" else row.start))
    found = forms["bed"] or forms["transcript"] or forms["gene"]
    if not found:
        raise InputError(f"{path} holds no genes", "give a GTF with transcripts or genes, or a BED")
    table = pd.DataFrame(found, columns=["chrom", "position"]).drop_duplicates()
    return table.sort_values(["chrom", "position"], ignore_index=True)
