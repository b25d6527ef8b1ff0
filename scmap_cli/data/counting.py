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
from scmap_cli.io.parsing import NameTable
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

# Entries that wait for a merge: 16 bytes each here, and about as much again while they are sorted.
_WAITING = 1 << 24


@compiled
def _count(rows, n_cells, code_of, is_mito, features, promoters, tss, rule):  # type: ignore[no-untyped-def]
    """Tallies of each cell, and (cell, feature, count) of every meeting of a fragment with a feature."""
    chrom, start, end, cell, support = rows
    f_offset, f_start, f_end, f_reach, f_label = features
    p_offset, p_start, _, p_reach, _ = promoters
    t_offset, t_start, t_end, t_reach, t_label = tss
    n = len(start)
    sums = np.zeros((n_cells, 8), np.int64)
    out = np.empty((2 * n + 16, 3), np.int32)
    m = 0
    near = p_near = t_near = np.int64(0)
    for i in range(n):
        s, e, c = np.int64(start[i]), np.int64(end[i]), cell[i]
        length = e - s
        sums[c, 0] += 1
        sums[c, 2] += length < _FREE
        sums[c, 3] += _FREE <= length <= _MONO
        sums[c, 1] += is_mito[chrom[i]]
        code = code_of[chrom[i]]
        if code < 0:
            continue
        first, last = f_offset[code], f_offset[code + 1]
        if first < last:
            weight = support[i] if len(support) else np.int32(1)
            near = below(f_start, first, last, e, near)
            k = near - 1
            met = False
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
                        if m == len(out):
                            more = np.empty((2 * m, 3), np.int32)
                            more[:m] = out
                            out = more
                        out[m, 0], out[m, 1], out[m, 2] = c, f_label[k], hits * weight
                        m += 1
                k -= 1
            sums[c, 4] += met
        first, last = p_offset[code], p_offset[code + 1]
        if first < last:
            p_near = below(p_start, first, last, e, p_near)
            sums[c, 5] += p_near > first and p_reach[p_near - 1] > s
        first, last = t_offset[code], t_offset[code + 1]
        if first < last:
            for cut in (s, e - 1):
                t_near = below(t_start, first, last, cut + 1, t_near)
                k = t_near - 1
                while k >= first and t_reach[k] > cut:
                    sums[c, 6 + t_label[k]] += t_end[k] > cut
                    k -= 1
    return sums, out[:m]


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
    """What one block of fragments comes to: its barcodes, their tallies, and their entries."""

    block: Block
    sums: np.ndarray
    entries: np.ndarray


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
    return Counted(block, sums, entries)


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
        self._waiting: list[np.ndarray] = []
        self._size = 0
        self._parts: list[sp.csr_matrix] = []

    def add(self, one: Counted) -> None:
        """Take a block in."""
        block, sums, entries = one.block, one.sums, one.entries
        self.chroms |= dict.fromkeys(block.chroms)
        ids = self.names.ids(block.text, block.places, block.keys, insert=self._open)
        if len(self.names) > len(self._sums):
            self._sums = np.concatenate([self._sums, np.zeros((len(self.names), len(TALLIES)), np.int64)])
        known = ids >= 0
        if known.all():
            self._sums[ids] += sums
        else:
            self._sums[ids[known]] += sums[known]
            self.others += int(sums[~known, 0].sum())
            entries = entries[known[entries[:, 0]]]
        # A copy: the block's own array has room for many more entries than it holds.
        kept = np.empty((3, len(entries)), np.int32)
        kept[0], kept[1], kept[2] = ids[entries[:, 0]], entries[:, 1], entries[:, 2]
        self._waiting.append(kept)
        self._size += len(entries)
        if self._size >= _WAITING:
            self._merge()

    def _merge(self) -> None:
        """Make a matrix of what waits, and add up matrices of like size, so that each entry is moved few times."""
        cell, feature, count = np.concatenate([np.empty((3, 0), np.int32), *self._waiting], axis=1)
        self._waiting, self._size = [], 0
        shape = (len(self.names), self._n_features)
        # By column and then by row: two passes of a counting sort, which leave each row sorted.
        one = sp.coo_matrix((count, (cell, feature)), shape=shape).tocsc().tocsr()
        one.sum_duplicates()
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
