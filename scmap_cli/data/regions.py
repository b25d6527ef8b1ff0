"""Genomic intervals laid out so that compiled code finds those that a fragment meets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from scmap_cli.runtime.compiled import compiled


@dataclass(frozen=True)
class Regions:
    """Intervals sorted by chromosome and start; they may overlap, and nothing is merged.

    Attributes
    ----------
    offset
        (c + 1,) int64: where the intervals of each chromosome begin.
    start, end
        (r,) int32, 0-based and half-open.
    reach
        (r,) int32: the largest end among the intervals of the chromosome up to this one, so that a search knows when
        nothing before can reach a place.
    label
        (r,) int32: what an interval stands for, such as its row in the table it came from.
    """

    offset: np.ndarray
    start: np.ndarray
    end: np.ndarray
    reach: np.ndarray
    label: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """What the compiled code takes."""
        return self.offset, self.start, self.end, self.reach, self.label


def index_regions(table: pd.DataFrame, chroms: Sequence[str], label: np.ndarray | None = None) -> Regions:
    """Index a table with ``chrom``, ``start`` and ``end``.

    Parameters
    ----------
    table
        (r, 3 or more); chromosomes that are not in ``chroms`` are left out.
    chroms
        Names by code.
    label
        (r,) whole numbers; by default the row.
    """
    code = pd.Index(chroms).get_indexer(pd.Index(table["chrom"]))
    start, end = table["start"].to_numpy(np.int32), table["end"].to_numpy(np.int32)
    label = np.arange(len(table)) if label is None else np.asarray(label)
    order = np.lexsort((end, start, code))
    order = order[code[order] >= 0]
    code = code[order]
    offset = np.searchsorted(code, np.arange(len(chroms) + 1)).astype(np.int64)
    reach = end[order].copy()
    for first, last in pairwise(offset):
        np.maximum.accumulate(reach[first:last], out=reach[first:last])
    return Regions(offset, start[order], end[order], reach, label[order].astype(np.int32))


@compiled
def below(start, first, last, value, hint):  # type: ignore[no-untyped-def]
    """The first index in ``first..last`` whose start is at least ``value``.

    The search begins at ``hint``: in a sorted file the next fragment lies a step or none away.
    """
    i = min(max(hint, first), last)
    for _ in range(4):
        if i < last and start[i] < value:
            i += 1
        elif i > first and start[i - 1] >= value:
            i -= 1
        else:
            return i
    low, high = first, last
    while low < high:
        middle = (low + high) >> 1
        if start[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low
