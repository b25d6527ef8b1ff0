"""Counts of fragments in peaks, cell by cell, under three rules.

A fragment ``[s, e)`` has two cuts of the transposase, at the bases ``s`` and ``e - 1``.

- ``fragments``: a fragment counts once in every peak that it overlaps by at least one base.
- ``insertions``: each cut counts in every peak that holds it, so a fragment counts 0, 1 or 2.
- ``paired`` (paired-insertion counting, Miao and Kim 2024, doi:10.1038/s41592-023-02112-6): a fragment counts once in
  every peak that holds one or both of its cuts. It differs from ``fragments`` where a fragment spans a whole peak.

Counts are sums of whole numbers, so neither the order of the fragments nor the number of threads can change them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import scipy.sparse as sp

from scmap_cli.data.regions import Regions, below
from scmap_cli.io.fragments import Block
from scmap_cli.io.parsing import NameTable, longer
from scmap_cli.runtime.compiled import compiled

Rule = Literal["fragments", "insertions", "paired"]
RULES: tuple[str, ...] = get_args(Rule)
"""The counting rules; the kernel knows them by their place here."""

TALLIES = ("fragments", "mito", "short", "mono", "in_features", "in_promoters", "tss_centre", "tss_flank")
"""Columns of the sums of each cell; see :mod:`scmap_cli.data.qc_atac` for what they become."""

CENTRE, FLANK = 0, 1
"""Labels of the regions around transcription start sites."""

_INSERTIONS, _PAIRED = RULES.index("insertions"), RULES.index("paired")
_FREE, _MONO = 147, 294

# Entries that wait for a merge: 12 bytes each here, and twice as much again while they are sorted.
_WAITING = 1 << 24


@compiled
def _sorted_rows(cell, feature, count, n_cells):  # type: ignore[no-untyped-def]
    """Row pointers, features and counts of a matrix; entries of one cell and feature are added up.

    Entries are put to their cells in the order they come. Those of a sorted file then need no sorting, and those of any
    other file are sorted cell by cell.
    """
    indptr = np.zeros(n_cells + 1, np.int64)
    for c in cell:
        indptr[c + 1] += 1
    for i in range(n_cells):
        indptr[i + 1] += indptr[i]
    place = indptr[:-1].copy()
    # One word of feature and count, so that the far writes are half as many.
    packed = np.empty(len(cell), np.int64)
    for i in range(len(cell)):
        packed[place[cell[i]]] = (np.int64(feature[i]) << 32) | np.int64(count[i])
        place[cell[i]] += 1
    m = 0
    for row in range(n_cells):
        first, last = indptr[row], indptr[row + 1]
        indptr[row] = m
        own = packed[first:last]
        for k in range(1, len(own)):
            if own[k] >> 32 < own[k - 1] >> 32:
                own.sort()
                break
        for k in range(len(own)):
            if k and own[k] >> 32 == packed[m - 1] >> 32:
                packed[m - 1] += own[k] & 0x7FFFFFFF
            else:
                packed[m] = own[k]
                m += 1
    indptr[n_cells] = m
    indices, data = np.empty(m, np.int32), np.empty(m, np.int32)
    for i in range(m):
        indices[i], data[i] = packed[i] >> 32, packed[i] & 0x7FFFFFFF
    return indptr, indices, data


@compiled
def _fill(i, m, rows, sums, out, code_of, is_mito, features, promoters, tss, rule):  # type: ignore[no-untyped-def]
    """Count fragments from ``i`` on until they end or the entries are full; return how far it came and the entries.

    As in the parser, the arrays must stay the same inside the loop.
    """
    chrom, start, end, cell, support = rows
    out_cell, out_feature, out_count = out
    f_offset, f_start, f_end, f_reach, f_label = features
    p_offset, p_start, _, p_reach, _ = promoters
    t_offset, t_start, t_end, t_reach, t_label = tss
    near = p_near = t_near = np.int64(0)
    while i < len(start):
        s, e, c = np.int64(start[i]), np.int64(end[i]), cell[i]
        code = code_of[chrom[i]]
        met = False
        if code >= 0 and f_offset[code] < f_offset[code + 1]:
            first, before = f_offset[code], m
            weight = support[i] if len(support) else np.int32(1)
            near = below(f_start, first, f_offset[code + 1], e, near)
            k = near - 1
            while k >= first and f_reach[k] > s:
                if f_end[k] > s:
                    met = True
                    if rule == _INSERTIONS:
                        hits = np.int32(f_start[k] <= s) + np.int32(f_end[k] >= e)
                    elif rule == _PAIRED:
                        hits = np.int32(f_start[k] <= s or f_end[k] >= e)
                    else:
                        hits = np.int32(1)
                    if hits:
                        if m == len(out_cell):
                            return i, before
                        out_cell[m], out_feature[m], out_count[m] = c, f_label[k], hits * weight
                        m += 1
                k -= 1
        length = e - s
        sums[c, 0] += 1
        sums[c, 1] += is_mito[chrom[i]]
        sums[c, 2] += length < _FREE
        sums[c, 3] += _FREE <= length <= _MONO
        sums[c, 4] += met
        if code >= 0 and p_offset[code] < p_offset[code + 1]:
            p_near = below(p_start, p_offset[code], p_offset[code + 1], e, p_near)
            sums[c, 5] += p_near > p_offset[code] and p_reach[p_near - 1] > s
        if code >= 0 and t_offset[code] < t_offset[code + 1]:
            for cut in (s, e - 1):
                t_near = below(t_start, t_offset[code], t_offset[code + 1], cut + 1, t_near)
                k = t_near - 1
                while k >= t_offset[code] and t_reach[k] > cut:
                    sums[c, 6 + t_label[k]] += t_end[k] > cut
                    k -= 1
        i += 1
    return i, m


@compiled
def _count(rows, n_cells, code_of, is_mito, features, promoters, tss, rule):  # type: ignore[no-untyped-def]
    """Tallies of each cell, and (cell, feature, count) of every meeting of a fragment with a feature."""
    n = len(rows[0])
    sums = np.zeros((n_cells, 8), np.int64)
    cell, feature, count = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int32)
    i = m = 0
    while i < n:
        i, m = _fill(i, m, rows, sums, (cell, feature, count), code_of, is_mito, features, promoters, tss, rule)
        if i < n:
            cell, feature, count = longer(cell), longer(feature), longer(count)
    # Copies: the arrays have room for more, and wait for a merge.
    return sums, (cell[:m].copy(), feature[:m].copy(), count[:m].copy())


@dataclass(frozen=True)
class Tables:
    """What fragments are compared with.

    Attributes
    ----------
    codes
        Code of every chromosome that any of the regions lies on.
    features
        Peaks or bins; labels are columns of the matrix.
    promoters, tss
        Promoters, and flanks and centres of start sites with the labels :data:`CENTRE` and :data:`FLANK`; either may be
        empty.
    n_features
        Columns of the matrix.
    mito
        Names of mitochondrial chromosomes.
    """

    codes: Mapping[str, int]
    features: Regions
    promoters: Regions
    tss: Regions
    n_features: int
    mito: frozenset[str]


@dataclass(frozen=True)
class Counted:
    """What a block of fragments comes to.

    Attributes
    ----------
    chroms, names
        Its chromosomes, and its barcodes as :class:`~scmap_cli.io.fragments.Block` has them.
    sums
        (k, 8) int64 tallies of the barcodes.
    entries
        Barcode, feature and count of every meeting of a fragment with a feature, int32.
    """

    chroms: list[str]
    names: tuple[np.ndarray, np.ndarray, np.ndarray]
    sums: np.ndarray
    entries: tuple[np.ndarray, np.ndarray, np.ndarray]


def count_block(block: Block, tables: Tables, rule: Rule, use_support: bool = False) -> Counted:
    """Count the fragments of a block; safe in threads.

    Parameters
    ----------
    block
        Fragments.
    tables
        Regions; they are not changed.
    rule
        One of :data:`RULES`.
    use_support
        Count a fragment as often as its support says; otherwise once.
    """
    code_of = np.array([tables.codes.get(name, -1) for name in block.chroms], np.int32)
    is_mito = np.array([name in tables.mito for name in block.chroms], bool)
    sums, entries = _count(
        (block.chrom, block.start, block.end, block.barcode, block.support if use_support else block.support[:0]),
        len(block.places),
        code_of,
        is_mito,
        tables.features.arrays,
        tables.promoters.arrays,
        tables.tss.arrays,
        RULES.index(rule),
    )
    return Counted(block.chroms, (block.text, block.places, block.keys), sums, entries)


class Counter:
    """Sums blocks to one matrix of barcodes x features.

    Parameters
    ----------
    n_features
        Columns.
    barcodes
        The only barcodes to count; by default every barcode that turns up.
    """

    def __init__(self, n_features: int, barcodes: list[str] | None = None) -> None:
        self.names = NameTable()
        self.others = 0
        self.chroms: dict[str, None] = {}
        self._n_features = n_features
        self._open = barcodes is None
        if barcodes is not None:
            self.names.add(barcodes)
        self._sums = np.zeros((max(len(self.names), 1 << 12), len(TALLIES)), np.int64)
        self._waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._size = 0
        self._parts: list[sp.csr_matrix] = []

    def add(self, one: Counted) -> None:
        """Take a block in."""
        sums, (cell, feature, count) = one.sums, one.entries
        self.chroms |= dict.fromkeys(one.chroms)
        ids = self.names.ids(*one.names, insert=self._open)
        if len(self.names) > len(self._sums):
            self._sums = np.concatenate([self._sums, np.zeros((len(self.names), len(TALLIES)), np.int64)])
        known = ids >= 0
        if known.all():
            self._sums[ids] += sums
        else:
            self._sums[ids[known]] += sums[known]
            self.others += int(sums[~known, 0].sum())
            kept = known[cell]
            cell, feature, count = cell[kept], feature[kept], count[kept]
        self._waiting.append((ids[cell], feature, count))
        self._size += len(cell)
        if self._size >= _WAITING:
            self._merge()

    def _merge(self) -> None:
        """Make a matrix of what waits, and add up matrices of like size, so that each entry is moved few times."""
        empty = np.empty(0, np.int32)
        columns = [np.concatenate([empty, *parts]) for parts in zip(*self._waiting, strict=True)] or [empty] * 3
        self._waiting, self._size = [], 0
        shape = (len(self.names), self._n_features)
        indptr, indices, data = _sorted_rows(columns[0], columns[1], columns[2], shape[0])
        one = sp.csr_matrix((data, indices, indptr), shape=shape, copy=False)
        while self._parts and self._parts[-1].nnz < 2 * one.nnz:
            one = _with_rows(self._parts.pop(), shape[0]) + one
        self._parts.append(one)

    def finish(self) -> tuple[sp.csr_matrix, np.ndarray]:
        """Counts, CSR int32 of barcodes x features, and tallies, int64 of barcodes x :data:`TALLIES`."""
        self._merge()
        total = self._parts.pop()
        while self._parts:
            total = _with_rows(self._parts.pop(), total.shape[0]) + total
        total.sort_indices()
        return total.astype(np.int32, copy=False), self._sums[: len(self.names)]


def _with_rows(matrix: sp.csr_matrix, rows: int) -> sp.csr_matrix:
    """The matrix with empty rows added up to ``rows``."""
    indptr = np.pad(matrix.indptr, (0, rows - matrix.shape[0]), mode="edge")
    return sp.csr_matrix((matrix.data, matrix.indices, indptr), shape=(rows, matrix.shape[1]), copy=False)
