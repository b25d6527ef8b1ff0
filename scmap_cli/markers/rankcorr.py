"""RankCorr (Vargo and Gilbert 2020, doi:10.1186/s12859-020-03641-z): sparse rank correlation with each class.

For every class, w maximises the correlation of the standardised ranks of the genes with the class (+1) against the
rest (-1), under ||w||_2 <= 1 and ||w||_1 <= sqrt(s). The solution is a soft-thresholded vector of those correlations:
it keeps the m largest ones, m being the first number at which the 1-norm binds.

As meant, s is the smallest sparsity at which the classes together keep k genes, and of these the ones of largest weight
are taken. As published in the MarkerMap paper, s is 20 and the first k of the genes are taken in the order of the file,
which says nothing of their worth; where s = 20 gives fewer than k genes the next best ones fill up.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from scmap_cli.markers.base import MarkerData, Selection, best, named

_PUBLISHED_SPARSITY = 20.0


def rank_correlations(matrix: sp.csr_matrix, members: sp.csr_matrix) -> np.ndarray:
    """Sums of standardised ranks over the cells of a class minus those over the rest.

    Parameters
    ----------
    matrix
        (n, g) CSR of values that are not negative; the zeros of a gene share its lowest rank.
    members
        (classes, n) CSR of 0 and 1.

    Returns
    -------
    ndarray
        (classes, g) float64; 0 for a constant gene.
    """
    columns = matrix.tocsc(copy=True)
    columns.eliminate_zeros()
    n, g = columns.shape
    stored_g = np.diff(columns.indptr)
    zeros_g = n - stored_g
    gene_of = np.repeat(np.arange(g), stored_g)
    order = np.lexsort((columns.data, gene_of))
    values, owner = columns.data[order], gene_of[order]
    place = np.arange(len(values)) - columns.indptr[owner] + 1 + zeros_g[owner]
    # Equal values of a gene share the mean of their places.
    starts = np.ones(len(values), dtype=bool)
    starts[1:] = (values[1:] != values[:-1]) | (owner[1:] != owner[:-1])
    tie = np.cumsum(starts) - 1
    shared = np.bincount(tie, weights=place) / np.bincount(tie) if len(values) else np.zeros(0)
    rank_of_zero_g = (zeros_g + 1) / 2
    centred = np.empty(len(values))
    centred[order] = shared[tie] - (n + 1) / 2
    zero_g = rank_of_zero_g - (n + 1) / 2
    squares_g = np.bincount(gene_of, weights=centred**2, minlength=g) + zeros_g * zero_g**2
    deviation_g = np.sqrt(squares_g / n)
    ranks = sp.csc_matrix((centred - zero_g[gene_of], columns.indices, columns.indptr), shape=(n, g))
    sizes_c = np.asarray(members.sum(axis=1)).ravel()
    inside_cg = np.asarray((members @ ranks).todense()) + sizes_c[:, None] * zero_g
    # Centred ranks sum to zero, so what the rest has is what the class lacks.
    return np.divide(2 * inside_cg, deviation_g, out=np.zeros_like(inside_cg), where=deviation_g > 0)


def kept(sizes: np.ndarray, sparsity: float) -> int:
    """How many of the correlations, given by falling absolute size, the constrained problem keeps."""
    if not sizes[0] > 0:
        return 0
    count = np.arange(len(sizes))
    sums = np.concatenate([[0.0], np.cumsum(sizes)[:-1]])
    squares = np.concatenate([[0.0], np.cumsum(sizes**2)[:-1]])
    # After thresholding at the value of place m: the norms of the m entries above it.
    one = sums - count * sizes
    two = np.sqrt(np.maximum(squares - 2 * sizes * sums + count * sizes**2, 0.0))
    binding = (one > np.sqrt(sparsity) * two) & (sizes < sizes[0])
    place = int(binding.argmax()) if binding.any() else len(sizes) - 1
    return int(np.count_nonzero(sizes > sizes[place]))


def _weights(correlations_cg: np.ndarray, sparsity: float) -> np.ndarray:
    """(classes, g) soft-thresholded correlations of unit 2-norm."""
    weights = np.zeros_like(correlations_cg)
    for row, correlations in zip(weights, correlations_cg, strict=True):
        sizes = -np.sort(-np.abs(correlations))
        count = kept(sizes, sparsity)
        if count:
            threshold = sizes[count] if count < len(sizes) else 0.0
            row[:] = np.sign(correlations) * np.maximum(np.abs(correlations) - threshold, 0.0)
            row /= np.linalg.norm(row)
    return weights


def select(data: MarkerData, k: int, *, seed: int, as_published: bool) -> Selection:
    """Choose k genes; the score is the largest weight in any class.

    A gene speaks for the class of its largest positive weight; one that is only told by its absence, for the class that
    it correlates with best.
    """
    # Ranks of log1p CP10k equal those of scaled values, where clipping makes no new ties.
    correlations_cg = rank_correlations(data.log1p, data.members)
    largest = float(correlations_cg.shape[1])
    low, high = 1.0, largest
    if as_published:
        high = min(_PUBLISHED_SPARSITY, largest)
    else:
        while high / low > 1.001:
            middle = np.sqrt(low * high)
            enough = np.count_nonzero(_weights(correlations_cg, middle).any(axis=0)) >= k
            low, high = (low, middle) if enough else (middle, high)
    weights_cg = _weights(correlations_cg, high)
    strength_g = np.abs(weights_cg).max(axis=0)
    found = np.flatnonzero(strength_g)[:k] if as_published else np.zeros(0, dtype=np.int64)
    relative_cg = _relative(correlations_cg)
    rest_g = np.where(strength_g > 0, 1.0 + strength_g, np.abs(relative_cg).max(axis=0))
    rest_g[found] = -np.inf
    genes = np.concatenate([found, best(rest_g, k - len(found))]).astype(np.int64)
    codes = np.where((weights_cg > 0).any(axis=0), weights_cg, relative_cg).argmax(axis=0)
    return Selection(genes, strength_g[genes], named(data, codes[genes]))


def _relative(correlations_cg: np.ndarray) -> np.ndarray:
    """(classes, g) correlations as shares of the class's largest, in absolute value at most 1."""
    top_c = np.abs(correlations_cg).max(axis=1, keepdims=True)
    return np.divide(correlations_cg, top_c, out=np.zeros_like(correlations_cg), where=top_c > 0)
