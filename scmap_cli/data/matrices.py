"""Raw counts: where an AnnData keeps them, whether they are counts, and the numbers derived from them.

Everything works on CSR a block at a time, so that memory stays near the size of the matrix itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scmap_cli.errors import InputError
from scmap_cli.io.h5ad import check_csr, is_sparse
from scmap_cli.keys import COUNTS_LAYER
from scmap_cli.runtime.logs import log

_BLOCK = 1 << 22
# Beyond this float32 no longer holds every whole number.
_LARGEST = 1 << 24
_REMEDY = "give the layer that holds raw counts with --layer (X and raw are accepted too)"


@dataclass(frozen=True)
class Counts:
    """Raw counts of an AnnData, or the values that :func:`find_values` takes in their place.

    Attributes
    ----------
    matrix
        (n, g) CSR float32 of whole numbers, sorted indices, no stored zeros.
    source
        Where they were found: ``layer 'counts'``, ``raw`` or ``X``.
    var
        The genes' table that belongs to the matrix (that of ``raw`` when the counts are).
    empty_cells
        Number of cells without a count.
    """

    matrix: sp.csr_matrix
    source: str
    var: pd.DataFrame
    empty_cells: int

    @property
    def var_names(self) -> np.ndarray:
        """Gene names, (g,) array of str."""
        return self.var.index.to_numpy().astype(str)


def row_chunks(matrix: sp.csr_matrix, size: int) -> Iterator[tuple[slice, sp.csr_matrix]]:
    """Yield consecutive blocks of ``size`` rows as (rows, CSR block); the blocks share the matrix's memory."""
    n, g = matrix.shape
    for start in range(0, n, size):
        stop = min(start + size, n)
        first, last = int(matrix.indptr[start]), int(matrix.indptr[stop])
        pointers = matrix.indptr[start : stop + 1] - first
        # Set one by one: the constructor copies what it is given when it is a small part of a larger array.
        block = sp.csr_matrix((stop - start, g), dtype=matrix.dtype)
        block.data, block.indices, block.indptr = matrix.data[first:last], matrix.indices[first:last], pointers
        yield slice(start, stop), block


def rows_per_block(matrix: sp.csr_matrix) -> int:
    """Rows of which about four million stored values make a block."""
    return max(1, int(_BLOCK * matrix.shape[0] / max(matrix.nnz, 1)))


def _value_blocks(matrix: Any) -> Iterator[np.ndarray]:
    """The stored values as flat blocks; of a dense matrix, all values."""
    if is_sparse(matrix):
        for start in range(0, len(matrix.data), _BLOCK):
            yield matrix.data[start : start + _BLOCK]
        return
    rows = max(1, _BLOCK // max(matrix.shape[1], 1))
    for start in range(0, matrix.shape[0], rows):
        yield np.asarray(matrix[start : start + rows]).ravel()


def count_faults(matrix: Any) -> str | None:
    """Tell why the values are no counts, or None when they are.

    Parameters
    ----------
    matrix
        (n, g) scipy CSR or CSC in memory, or a dense numpy or HDF5 array.

    Returns
    -------
    str or None
        Numbers of NaN or infinite, negative and non-integer values, whichever comes first.
    """
    if matrix.dtype.kind not in "buif":
        return f"values of type {matrix.dtype}"
    missing = negative = fractional = 0
    example = largest = 0.0
    for block in _value_blocks(matrix):
        if not len(block):
            continue
        if block.dtype.kind == "f":
            finite = np.isfinite(block)
            missing += len(block) - int(np.count_nonzero(finite))
            uneven = finite & (block != np.rint(block))
            found = int(np.count_nonzero(uneven))
            if found and not fractional:
                example = float(block[np.argmax(uneven)])
            fractional += found
        negative += int(np.count_nonzero(block < 0)) if block.dtype.kind in "if" else 0
        largest = max(largest, float(block.max()))
    if missing:
        return f"{missing} NaN or infinite values"
    if negative:
        return f"{negative} negative values"
    if fractional:
        return f"{fractional} non-integer values (such as {example:.4g})"
    if largest > _LARGEST:
        return f"values up to {largest:.0f}, beyond the largest exact count of {_LARGEST}"
    return None


def _dense_to_csr(matrix: Any) -> sp.csr_matrix:
    """Turn a dense array, in memory or on disk, into CSR without a second dense copy."""
    rows = max(1, _BLOCK // max(matrix.shape[1], 1))
    starts = range(0, matrix.shape[0], rows)
    blocks = [sp.csr_matrix(np.asarray(matrix[start : start + rows]).astype(np.float32)) for start in starts]
    return sp.csr_matrix(sp.vstack(blocks, format="csr")) if blocks else sp.csr_matrix(matrix.shape, dtype=np.float32)


def _in_memory(matrix: Any, name: str) -> Any:
    """Read a sparse matrix that lies on disk; check the structure of any sparse matrix."""
    if not is_sparse(matrix) and hasattr(matrix, "to_memory"):
        matrix = matrix.to_memory()
    check_csr(matrix, name)
    return matrix


def to_counts(matrix: Any) -> sp.csr_matrix:
    """Return checked counts as CSR float32 with sorted indices and no stored zeros.

    The argument is not changed; where it is in this form already its arrays are shared, not copied.
    """
    if not is_sparse(matrix):
        return _dense_to_csr(matrix)
    rows = matrix.tocsr()
    owned = rows is not matrix and matrix.format != "csr"
    data = rows.data.astype(np.float32, copy=False)
    csr = sp.csr_matrix((data, rows.indices, rows.indptr), shape=rows.shape, copy=False)
    untidy = not csr.has_canonical_format or not csr.data.all()
    if untidy:
        if not owned:
            csr = csr.copy()
        csr.sum_duplicates()
        csr.eliminate_zeros()
    return csr


def _candidates(adata: anndata.AnnData, layer: str | None) -> list[tuple[str, Any, pd.DataFrame]]:
    """The places that may hold counts, in the order they are tried."""
    if layer is not None:
        if layer in adata.layers:
            return [(f"layer {layer!r}", adata.layers[layer], adata.var)]
        if layer == "X" and adata.X is not None:
            return [("X", adata.X, adata.var)]
        if layer == "raw" and adata.raw is not None:
            return [("raw", adata.raw.X, adata.raw.var)]
        names = ", ".join(repr(name) for name in adata.layers) or "none"
        raise InputError(f"there is no layer {layer!r} (layers: {names})", "X and raw are accepted by --layer, too")
    if COUNTS_LAYER in adata.layers:
        return [(f"layer {COUNTS_LAYER!r}", adata.layers[COUNTS_LAYER], adata.var)]
    places: list[tuple[str, Any, pd.DataFrame]] = []
    if adata.raw is not None:
        places.append(("raw", adata.raw.X, adata.raw.var))
    if adata.X is not None:
        places.append(("X", adata.X, adata.var))
    return places


def find_counts(adata: anndata.AnnData, layer: str | None = None) -> Counts:
    """Find the raw counts: ``layer``, else layer ``counts``, else ``raw`` or ``X``, whichever first holds counts.

    A layer that is asked for, or called ``counts``, must hold counts; nothing else is tried in its place.

    Parameters
    ----------
    adata
        Cells x genes, in memory or backed; not changed.
    layer
        A layer's name; ``X`` and ``raw`` name those slots where no layer is called so.

    Raises
    ------
    InputError
        No place holds counts (the message says what was looked at and what it holds instead), the matrix is empty or
        all zero, or its sparse structure is broken.
    """
    looked: list[str] = []
    for name, found, var in _candidates(adata, layer):
        matrix = _in_memory(found, name)
        fault = count_faults(matrix)
        if fault is not None:
            looked.append(f"{name} holds {fault}")
            continue
        csr = to_counts(matrix)
        n, g = csr.shape
        _check_filled(csr, name, "count above zero", _REMEDY)
        for skipped in looked:
            log.info("%s: not counts, passed over", skipped)
        empty = int(np.count_nonzero(np.diff(csr.indptr) == 0))
        log.info("counts from %s: %d cells x %d features%s", name, n, g, f", {empty} cells empty" if empty else "")
        return Counts(csr, name, var, empty)
    what = "; ".join(looked) if looked else "the file has neither X nor raw nor layers"
    raise InputError(f"no raw counts: {what}", _REMEDY)


def find_values(adata: anndata.AnnData, layer: str | None = None) -> Counts:
    """The values of ``layer``, which may be ``X`` or ``raw``, by default of ``X``, whatever their scale.

    Raises
    ------
    InputError
        There is no such place, its values are no finite numbers, the matrix is empty or all zero, or its sparse
        structure is broken.
    """
    if layer is None and adata.X is None:
        names = ", ".join(repr(name) for name in adata.layers) or "none"
        raise InputError(f"there is no X (layers: {names})", "name the layer of the values with --layer")
    name, found, var = _candidates(adata, layer)[0] if layer is not None else ("X", adata.X, adata.var)
    matrix = _in_memory(found, name)
    if matrix.dtype.kind not in "buif":
        raise InputError(f"{name} holds values of type {matrix.dtype}, which are no numbers")
    csr = to_counts(matrix)
    wrong = int(np.count_nonzero(~np.isfinite(csr.data)))
    if wrong:
        raise InputError(f"{name} holds {wrong} values that are not finite", "check the step that wrote the file")
    _check_filled(csr, name, "value but zero", "name a layer with --layer")
    return Counts(csr, name, var, int(np.count_nonzero(np.diff(csr.indptr) == 0)))


def _check_filled(csr: sp.csr_matrix, name: str, kind: str, remedy: str) -> None:
    n, g = csr.shape
    if n == 0 or g == 0:
        raise InputError(f"{name} is empty: {n} cells x {g} features", "check the step that wrote the file")
    if csr.nnz == 0:
        raise InputError(f"{name} holds no {kind} in {n} cells x {g} features", remedy)


def column_means(matrix: sp.csr_matrix, rows: np.ndarray | None = None) -> np.ndarray:
    """Mean of each column, (g,) float64; of the ``rows`` alone that are true in a boolean (n,) mask.

    The matrix is looked at in blocks, where ``matrix.mean`` would copy all of it to float64.
    """
    total_g = np.zeros(matrix.shape[1])
    for which, block in row_chunks(matrix, rows_per_block(matrix)):
        kept = slice(None) if rows is None else np.repeat(rows[which], np.diff(block.indptr))
        total_g += np.bincount(block.indices[kept], block.data[kept], minlength=len(total_g))
    n = matrix.shape[0] if rows is None else int(np.count_nonzero(rows))
    return total_g * (1.0 / max(n, 1))


def cell_totals(matrix: sp.csr_matrix) -> np.ndarray:
    """Counts of each cell, (n,) float64, summed in blocks of rows: ``matrix.sum`` would copy all of it to float64."""
    blocks = (block for _, block in row_chunks(matrix, rows_per_block(matrix)))
    totals = [np.asarray(block.sum(axis=1, dtype=np.float64)).ravel() for block in blocks]
    return np.concatenate(totals) if totals else np.zeros(0)


def log1p_cp10k(matrix: sp.csr_matrix, target_sum: float = 1e4, totals: np.ndarray | None = None) -> sp.csr_matrix:
    """Log-normalise: log(1 + count * target_sum / total of the cell), natural logarithm.

    Parameters
    ----------
    matrix
        (n, g) CSR of counts; not changed.
    target_sum
        Counts every cell is scaled to.
    totals
        (n,) counts of each cell over all its genes, for a matrix that holds only some of them; by default its own sums.

    Returns
    -------
    csr_matrix
        (n, g) float32; it shares the index arrays of ``matrix``. Empty cells stay empty.
    """
    totals = cell_totals(matrix) if totals is None else np.asarray(totals, dtype=np.float64)
    scale = np.divide(target_sum, totals, out=np.zeros_like(totals), where=totals > 0)
    values = np.empty(len(matrix.data), dtype=np.float32)
    position = 0
    for which, block in row_chunks(matrix, rows_per_block(matrix)):
        scaled = block.data * np.repeat(scale[which], np.diff(block.indptr))
        values[position : position + len(scaled)] = np.log1p(scaled)
        position += len(scaled)
    result = sp.csr_matrix((values, matrix.indices, matrix.indptr), shape=matrix.shape, copy=False)
    result.has_sorted_indices = True
    return result


def by_total(values: np.ndarray, own: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """log1p CP10k by the total ``own`` as it is by ``wanted``: log1p(expm1(value) own / wanted); 0 where ``own`` is."""
    found: np.ndarray = np.log1p(np.expm1(values) * (own / np.maximum(wanted, 1.0)))
    return found


def binarised(counts: sp.csr_matrix) -> sp.csr_matrix:
    """1 wherever a count is above 0, int16, without stored zeros."""
    opened = sp.csr_matrix((counts.data > 0, counts.indices, counts.indptr), shape=counts.shape, dtype=np.int16)
    opened.eliminate_zeros()
    return opened
