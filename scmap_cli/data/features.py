"""Align the genes (or peaks) of a query with a reference by name, never by position."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from scmap_cli.errors import InputError

# A version is a dot and a number at the very end: `ENSG00000182378.14_PAR_Y` is another gene, not another version.
_VERSIONED = re.compile(r"^(ENS[A-Z]*\d{6,})\.\d+$")


@dataclass(frozen=True)
class Alignment:
    """Where each reference feature is in a query.

    Attributes
    ----------
    reference_names
        (g,) names in the order that counts.
    query_names
        (q,) names as the query has them.
    index
        (g,) int64: column of the query, or -1 where the query lacks the feature.
    by_version
        How many features matched only after Ensembl version suffixes were left out.
    ambiguous
        How many reference features stay missing because, without suffixes, several names would fit.
    """

    reference_names: np.ndarray
    query_names: np.ndarray
    index: np.ndarray
    by_version: int = 0
    ambiguous: int = 0

    @property
    def matched(self) -> int:
        """How many reference features the query has."""
        return int((self.index >= 0).sum())

    @property
    def missing(self) -> int:
        """How many reference features the query lacks."""
        return len(self.index) - self.matched

    @property
    def extra(self) -> int:
        """How many query features the reference does not know."""
        return len(self.query_names) - self.matched

    @property
    def share(self) -> float:
        """Matched share of the reference, 0 to 1."""
        return self.matched / max(len(self.index), 1)

    @property
    def identity(self) -> bool:
        """Whether the query already has exactly the reference's features in its order."""
        return len(self.index) == len(self.query_names) and bool((self.index == np.arange(len(self.index))).all())

    def report(self) -> dict[str, Any]:
        """The counts as JSON values, with up to three names of missing features."""
        missing = self.reference_names[self.index < 0]
        return {
            "reference": len(self.index),
            "query": len(self.query_names),
            "matched": self.matched,
            "missing": self.missing,
            "extra": self.extra,
            "share": round(self.share, 6),
            "matched_without_version": self.by_version,
            "ambiguous_without_version": self.ambiguous,
            "missing_examples": [str(name) for name in missing[:3]],
        }


def align(query_names: Sequence[str] | np.ndarray, reference_names: Sequence[str] | np.ndarray) -> Alignment:
    """Find every reference feature in the query.

    Exact names come first. If some are still missing, Ensembl version suffixes (``ENSG00000141510.17``) are left out on
    both sides for the features not matched yet, and only where a single name fits.

    Raises
    ------
    InputError
        A name occurs twice in the query or in the reference.
    """
    query = np.asarray(query_names, dtype=str)
    reference = np.asarray(reference_names, dtype=str)
    index = _unique_index(query, "the query").get_indexer(_unique_index(reference, "the reference")).astype(np.int64)
    missing = np.flatnonzero(index < 0)
    free = np.setdiff1d(np.arange(len(query)), index[index >= 0], assume_unique=True)
    by_version = ambiguous = 0
    if len(missing) and len(free) and (_has_version(reference[missing]) or _has_version(query[free])):
        wanted, offered = without_version(reference[missing]), without_version(query[free])
        known = wanted.isin(offered)
        single = known & ~wanted.duplicated(keep=False) & ~wanted.isin(offered[offered.duplicated(keep=False)])
        ambiguous = int((known & ~single).sum())
        by_version = int(single.sum())
        first = ~offered.duplicated(keep=False)
        index[missing[single]] = free[first][offered[first].get_indexer(wanted[single])]
    return Alignment(reference, query, index, by_version, ambiguous)


def apply(matrix: Any, alignment: Alignment) -> sparse.csr_matrix:
    """The query's columns in reference order: missing features become empty columns, extra ones are dropped.

    Parameters
    ----------
    matrix
        (n, q) CSR matrix or array in the query's column order. Not changed; returned as it is where nothing moves.
    alignment
        From :func:`align`.

    Returns
    -------
    csr_matrix
        (n, g), the dtype of the input, sorted indices.

    Raises
    ------
    InputError
        The matrix has another number of columns than the query has names.
    """
    n_cells, n_query = matrix.shape
    if n_query != len(alignment.query_names):
        raise InputError(f"the matrix has {n_query} columns but {len(alignment.query_names)} feature names")
    if alignment.identity and isinstance(matrix, sparse.csr_matrix) and matrix.has_sorted_indices:
        return matrix
    csr = sparse.csr_matrix(matrix)
    column = np.full(n_query, -1, dtype=np.int32)
    present = np.flatnonzero(alignment.index >= 0)
    column[alignment.index[present]] = present
    moved = column[csr.indices]
    kept = moved >= 0
    indptr = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])[csr.indptr]
    shape = (n_cells, len(alignment.index))
    aligned = sparse.csr_matrix((csr.data[kept], moved[kept], indptr), shape=shape)
    aligned.sort_indices()
    return aligned


def fill_missing(aligned: sparse.csr_matrix, alignment: Alignment, mean_g: np.ndarray) -> sparse.csr_matrix:
    """Give every cell, for the features that the query lacks, what the reference has on average.

    Parameters
    ----------
    aligned
        (n, g) counts from :func:`apply`.
    alignment
        From :func:`align`.
    mean_g
        (g,) mean counts of the reference.

    Returns
    -------
    csr_matrix
        float32 (n, g). A cell's counts are taken for the share of its total that the reference has on the matched
        features, and the rest is spread over the missing ones as in the reference, so its library size is that of
        all features. Stores ``n x missing`` further numbers.
    """
    missing_g = (alignment.index < 0) & (mean_g > 0)
    matched = float(mean_g[alignment.index >= 0].sum())
    if not missing_g.any() or matched <= 0:
        return aligned
    size_n = np.asarray(aligned.sum(1, dtype=np.float64)).ravel()
    column = np.flatnonzero(missing_g).astype(np.int32)
    values = (size_n[:, None] * (mean_g[column] / matched)[None, :]).astype(np.float32)
    n, width = values.shape
    indptr = np.arange(n + 1, dtype=np.int64) * width
    filled = sparse.csr_matrix((values.ravel(), np.tile(column, n), indptr), shape=aligned.shape)
    total = sparse.csr_matrix(aligned.astype(np.float32) + filled)
    total.sort_indices()
    return total


def _unique_index(names: np.ndarray, whose: str) -> pd.Index:
    index: pd.Index = pd.Index(names, dtype=object)
    repeated = index[index.duplicated()].unique()
    if len(repeated):
        examples = ", ".join(map(str, repeated[:3]))
        raise InputError(
            f"{len(repeated)} feature names occur more than once in {whose}, such as {examples}",
            "features are matched by name: make the names unique, or choose another column with --gene-column",
        )
    return index


def _has_version(names: np.ndarray) -> bool:
    return any(_VERSIONED.match(name) for name in names)


def without_version(names: np.ndarray | pd.Index) -> pd.Index:
    """Names without the version at the end of Ensembl ids."""
    stems: pd.Index = pd.Index([_VERSIONED.sub(r"\1", name) for name in names], dtype=object)
    return stems
