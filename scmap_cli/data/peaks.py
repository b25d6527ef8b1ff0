"""Where peaks lie: positions from columns or names, and what follows from them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scmap_cli.errors import InputError

_NAME = re.compile(r"(.+?)[:_-](\d+)[_-](\d+)")
_COLUMNS = (("chrom", "start", "end"), ("chr", "start", "end"), ("seqnames", "start", "end"))
# Beyond the longest chromosome known by far.
_LONGEST = 1 << 40


@dataclass(frozen=True)
class Peaks:
    """Positions of P peaks in their order.

    Attributes
    ----------
    chrom
        (P,) text.
    start, end
        (P,) int64, 0-based and half-open as in BED.
    """

    chrom: np.ndarray
    start: np.ndarray
    end: np.ndarray

    def by_chromosome(self) -> tuple[np.ndarray, list[str], np.ndarray]:
        """Peaks by chromosome, start and end.

        Returns
        -------
        ndarray, list, ndarray
            (P,) their order; the chromosomes, see :func:`chromosome_order`; and how many peaks each has.
        """
        names = chromosome_order(self.chrom.tolist())
        rank_p = pd.Index(names).get_indexer(pd.Index(self.chrom))
        return np.lexsort((self.end, self.start, rank_p)), names, np.bincount(rank_p, minlength=len(names))

    def overlapping(self) -> int:
        """How many peaks begin before an earlier one of their chromosome has ended."""
        total = 0
        for name in pd.unique(self.chrom):
            here = np.flatnonzero(self.chrom == name)
            here = here[np.argsort(self.start[here], kind="stable")]
            reach = np.maximum.accumulate(self.end[here])
            total += int((self.start[here][1:] < reach[:-1]).sum())
        return total


def chromosome_order(names: Iterable[str]) -> list[str]:
    """Distinct chromosome names with numbers in them in the order of the numbers: chr1, chr2, chr10, chrX."""

    def key(name: str) -> tuple[tuple[bool, int, str], ...]:
        parts = re.split(r"(\d+)", name)
        return tuple((not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts if part)

    return sorted(set(names), key=key)


def peak_positions(var: pd.DataFrame) -> Peaks:
    """Positions of the peaks of a table.

    Parameters
    ----------
    var
        One row a peak. The columns ``chrom``, ``start``, ``end`` are taken if they are there (``chr`` and ``seqnames``
        serve as ``chrom``); else the row names must read ``chrom:start-end``, with ``-`` or ``_`` as separators too.

    Raises
    ------
    InputError
        Neither gives positions, or a peak does not end behind its start.
    """
    names = var.index.to_numpy().astype(str)
    for columns in _COLUMNS:
        if all(column in var for column in columns):
            chrom = var[columns[0]].astype(str).to_numpy().astype(str)
            edges = [pd.to_numeric(var[column], errors="coerce").to_numpy(dtype=np.float64) for column in columns[1:]]
            break
    else:
        found = [_NAME.fullmatch(name) for name in names]
        bad = [name for name, match in zip(names, found, strict=True) if match is None]
        if bad:
            raise InputError(
                f"{len(bad)} of {len(names)} peak names are no positions, such as {str(bad[0])!r}",
                "name peaks chrom:start-end, or give the columns chrom, start and end",
            )
        parts = [match.groups() for match in found if match is not None]
        chrom = np.array([part[0] for part in parts], dtype=str)
        edges = [np.array([float(part[side]) for part in parts], dtype=np.float64) for side in (1, 2)]
    start, end = edges
    wrong = ~((start >= 0) & (end > start) & (end < _LONGEST) & (start == np.rint(start)) & (end == np.rint(end)))
    if wrong.any():
        first = int(np.argmax(wrong))
        raise InputError(
            f"{int(wrong.sum())} peaks have no valid position, such as {str(names[first])!r} "
            f"({chrom[first]}, {start[first]:g} to {end[first]:g})",
            "a peak starts at 0 or later and ends behind its start",
        )
    return Peaks(chrom, start.astype(np.int64), end.astype(np.int64))
