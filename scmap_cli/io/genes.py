"""Positions of genes from BED or GTF files, plain or gzip."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scmap_cli.errors import InputError
from scmap_cli.io.text import open_text

_NAME = re.compile(r'\bgene_name "([^"]*)"')
_ID = re.compile(r'\bgene_id "([^"]*)"')
_COMMENTS = ("#", "track", "browser")
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


def read_genes(path: Path | str) -> Genes:
    """Read genes.

    Parameters
    ----------
    path
        GTF (its rows of feature ``gene``, named by ``gene_name``, else ``gene_id``), or BED with the name in the fourth
        column and the strand in the sixth, or in the fifth where there is no score. The form is told by the content.

    Raises
    ------
    InputError
        The file is no such file, a row is broken (with its line number), or it holds no gene.
    """
    path = Path(path)
    rows: list[tuple[str, str, int, int, bool]] = []
    with open_text(path) as handle:
        lines = (
            (number, line.rstrip("\r\n").split("\t"))
            for number, line in enumerate(handle, 1)
            if line.strip() and not line.startswith(_COMMENTS)
        )
        for number, fields in lines:
            try:
                rows += _gtf_row(fields) if _is_gtf(fields) else _bed_row(fields)
            except ValueError as error:
                raise InputError(f"{path}, line {number}: {error}", "give genes as BED or GTF") from None
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


def _is_gtf(fields: list[str]) -> bool:
    return len(fields) >= 9 and not fields[1].isdigit() and fields[3].isdigit() and fields[4].isdigit()


def _gtf_row(fields: list[str]) -> Iterator[tuple[str, str, int, int, bool]]:
    if fields[2] == "gene":
        found = _NAME.search(fields[8]) or _ID.search(fields[8])
        if found is None:
            raise ValueError("a gene has neither gene_name nor gene_id")
        # GTF counts from 1 and includes the end.
        yield _checked(found.group(1), fields[0], int(fields[3]) - 1, int(fields[4]), fields[6])


def _bed_row(fields: list[str]) -> Iterator[tuple[str, str, int, int, bool]]:
    if len(fields) < 5:
        raise ValueError(f"{len(fields)} columns; a gene needs chrom, start, end, name and strand")
    strand = next((fields[at] for at in _STRAND_COLUMNS if at < len(fields) and fields[at] in ("+", "-")), "")
    if not (fields[1].isdigit() and fields[2].isdigit()):
        raise ValueError(f"{fields[1]!r} and {fields[2]!r} are no start and end")
    yield _checked(fields[3], fields[0], int(fields[1]), int(fields[2]), strand)


def _checked(name: str, chrom: str, start: int, end: int, strand: str) -> tuple[str, str, int, int, bool]:
    if strand not in ("+", "-"):
        raise ValueError(f"the strand of {name!r} is not + or -")
    if not 0 <= start < end:
        raise ValueError(f"{name!r} lies from {start} to {end}")
    if not name or not chrom:
        raise ValueError("a name is empty")
    return name, chrom, start, end, strand == "+"
