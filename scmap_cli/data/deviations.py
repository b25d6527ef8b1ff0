r"""Deviations of accessibility at motifs: chromVAR, on sparse counts.

Schep, Wu, Buenrostro, Greenleaf, Nature Methods 14 (2017), doi:10.1038/nmeth.4401. Of a motif's peaks a cell with depth
:math:`d_n` is expected to have :math:`E_{nk} = d_n \sum_{p \in k} e_p` counts, with :math:`e_p` the share of peak p in
the counts of all cells; with :math:`O_{nk}` found, the raw deviation is :math:`y = (O - E) / E`. The same is computed
with each peak replaced by a background peak of like GC content and mean accessibility, B times; their mean
:math:`\bar y'` and standard deviation (with B - 1) give the bias-corrected deviation :math:`y - \bar y'` and its
z-score :math:`(y - \bar y') / s'`.

Background peaks are drawn as chromVAR draws them: log10 of the peaks' counts and their GC content are made uncorrelated
and of variance 1, each peak goes to the nearest point of a grid, and a peak's background is first a point of the grid,
with the density of a normal distribution of the distance between the two, and then any of the peaks there.

Where this differs: entries whose expectation is below a limit (1) are 0, no evidence, in the place of missing values;
and what cells and peaks without counts cannot tell is 0 too.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from scipy import sparse

from scmap_cli.runtime.compiled import compiled
from scmap_cli.runtime.logs import progress

# Entries of the two running sums of a block of cells, 16 bytes each.
_BLOCK = 1 << 23
# Below this a spread is that of rounding alone.
_NO_SPREAD = 1e-12


def background_peaks(
    total_p: np.ndarray, gc_p: np.ndarray, *, draws: int = 50, width: float = 0.1, bins: int = 50, seed: int = 0
) -> np.ndarray:
    """Peaks of like GC content and mean accessibility for each peak, with repeats, int64 (P, draws).

    Parameters
    ----------
    total_p
        (P,) counts of each peak in all cells, above 0.
    gc_p
        (P,) share of G and C in it.
    draws
        Background peaks of each peak; chromVAR's ``niterations``.
    width
        Standard deviation of the distance of background peaks in standard deviations; chromVAR's ``w``.
    bins
        Points of the grid along each axis; chromVAR's ``bs``.
    seed
        Of the draws.
    """
    rng = np.random.default_rng(seed)
    first_p, second_p = _uncorrelated(np.log10(total_p), gc_p)
    cell_p = _on_grid(first_p, bins)[0] * bins + _on_grid(second_p, bins)[0]
    place_2 = [_on_grid(axis_p, bins)[1] for axis_p in (first_p, second_p)]
    used_c, code_p, size_c = np.unique(cell_p, return_inverse=True, return_counts=True)
    by_cell_p = np.argsort(code_p, kind="stable")
    start_c = np.cumsum(size_c) - size_c
    x_c, y_c = place_2[0][used_c // bins], place_2[1][used_c % bins]
    drawn = np.empty((len(total_p), draws), dtype=np.int64)
    for c in range(len(used_c)):
        peaks = by_cell_p[start_c[c] : start_c[c] + size_c[c]]
        square_c = ((x_c - x_c[c]) ** 2 + (y_c - y_c[c]) ** 2) / width**2
        edge_c = np.cumsum(np.exp(-0.5 * square_c))
        chosen = np.searchsorted(edge_c, rng.random((len(peaks), draws)) * edge_c[-1], side="right")
        chosen = np.minimum(chosen, len(used_c) - 1)
        within = np.floor(rng.random(chosen.shape) * size_c[chosen]).astype(np.int64)
        drawn[peaks] = by_cell_p[start_c[chosen] + within]
    return drawn


def _uncorrelated(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two properties scaled to variance 1, the second without what the first tells of it; 0 where there is no spread.

    These are the coordinates by the Cholesky factor of their covariance, up to a shift.
    """
    one, other = one - one.mean(), other - other.mean()
    parts: list[np.ndarray] = []
    for values in (one, other):
        spread = values.std(ddof=1) if len(values) > 1 else 0.0
        values = values / spread if spread > _NO_SPREAD else np.zeros(len(values))
        if parts:
            values = values - (values @ parts[0]) / max(len(values) - 1, 1) * parts[0]
            rest = values.std(ddof=1) if len(values) > 1 else 0.0
            values = values / rest if rest > _NO_SPREAD else np.zeros(len(values))
        parts.append(values)
    return parts[0], parts[1]


def _on_grid(values: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Nearest point of an even grid over the range of the values, and where the points are."""
    points = np.linspace(values.min(), values.max(), bins)
    step = (points[-1] - points[0]) / max(bins - 1, 1)
    if step <= 0:
        return np.zeros(len(values), dtype=np.int64), points
    return np.rint((values - points[0]) / step).astype(np.int64), points


def deviations(
    counts: sparse.csr_matrix,
    match_pk: sparse.csc_matrix,
    background: np.ndarray,
    *,
    least: float = 1.0,
    threads: int = 1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deviations and their z-scores, see the top of this file.

    Parameters
    ----------
    counts
        (n, P) counts.
    match_pk
        (P, k) 1 where a peak holds a motif.
    background
        (P, draws) as :func:`background_peaks` gives it, of at least two draws.
    least
        Smallest expected counts of an entry that is not set to 0.
    threads
        Shares of the cells worked on at once; the result is the same for any number.

    Returns
    -------
    ndarray, ndarray, ndarray
        z-scores and bias-corrected deviations, float32 (n, k); entries of each motif below ``least``, int64 (k,).
    """
    n, k = counts.shape[0], match_pk.shape[1]
    draws = background.shape[1]
    total_p = np.asarray(counts.sum(0, dtype=np.float64)).ravel()
    depth_n = np.asarray(counts.sum(1, dtype=np.float64)).ravel()
    share_p = total_p / max(total_p.sum(), 1.0)
    own_pk = sparse.csr_matrix(match_pk, dtype=np.float64)
    z_nk, deviation_nk = np.zeros((n, k), dtype=np.float32), np.zeros((n, k), dtype=np.float32)
    below_k = np.zeros(k, dtype=np.int64)
    rows = max(1, _BLOCK // max(k, 1))
    starts = range(0, n, rows)
    with ThreadPoolExecutor(threads) as pool, progress("draw", len(starts) * draws) as bar:
        for start in starts:
            part = slice(start, min(start + rows, n))
            some, depth = counts[part], depth_n[part]
            sums = np.zeros((3, len(depth), k))
            _add(pool, threads, some, depth, own_pk, share_p, sums[0], sums[2])
            found_nk = sums[0].copy()
            sums[:] = 0
            for draw in range(draws):
                swapped = _swapped(own_pk, background[:, draw])
                _add(pool, threads, some, depth, swapped, share_p, sums[0], sums[1])
                bar.advance(1)
            mean_nk = sums[0] / draws
            variance_nk = (sums[1] - sums[0] * mean_nk) / (draws - 1)
            expected_nk = np.outer(depth, own_pk.T @ share_p)
            told_nk = (expected_nk >= least) & (expected_nk > 0)
            below_k += (~told_nk).sum(0)
            corrected_nk = np.where(told_nk, found_nk - mean_nk, 0.0)
            spread_nk = np.sqrt(np.maximum(variance_nk, 0.0))
            usable_nk = told_nk & (variance_nk > _NO_SPREAD * (1 + mean_nk**2))
            deviation_nk[part] = corrected_nk
            z_nk[part] = np.divide(corrected_nk, spread_nk, out=np.zeros_like(corrected_nk), where=usable_nk)
    return z_nk, deviation_nk, below_k


def _swapped(match_pk: sparse.csr_matrix, peak_p: np.ndarray) -> sparse.csr_matrix:
    """Motifs by background peaks: how many of a motif's peaks each peak stands for, CSR (P, k)."""
    size = len(peak_p)
    stands = sparse.csr_matrix((np.ones(size), (peak_p, np.arange(size))), shape=(size, size))
    return sparse.csr_matrix(stands @ match_pk)


def _add(
    pool: ThreadPoolExecutor,
    threads: int,
    counts: sparse.csr_matrix,
    depth_n: np.ndarray,
    weight_pk: sparse.csr_matrix,
    share_p: np.ndarray,
    sum_nk: np.ndarray,
    square_nk: np.ndarray,
) -> None:
    """Add raw deviations of the cells, and their squares."""
    share_k = weight_pk.T @ share_p
    edges = [len(depth_n) * i // threads for i in range(threads + 1)]

    def one(i: int) -> None:
        _add_rows(
            counts.indptr, counts.indices, counts.data, weight_pk.indptr, weight_pk.indices, weight_pk.data,
            depth_n, share_k, edges[i], edges[i + 1], sum_nk, square_nk,
        )  # fmt: skip

    list(pool.map(one, range(threads)))


@compiled
def _add_rows(
    indptr: Any,
    indices: Any,
    values: Any,
    motif_indptr: Any,
    motif_indices: Any,
    motif_values: Any,
    depth_n: Any,
    share_k: Any,
    first: int,
    last: int,
    sum_nk: Any,
    square_nk: Any,
) -> None:
    count_k = np.zeros(len(share_k), dtype=np.float64)
    for n in range(first, last):
        count_k[:] = 0.0
        for s in range(indptr[n], indptr[n + 1]):
            p = indices[s]
            x = np.float64(values[s])
            for m in range(motif_indptr[p], motif_indptr[p + 1]):
                count_k[motif_indices[m]] += x * motif_values[m]
        for k in range(len(share_k)):
            expected = depth_n[n] * share_k[k]
            if expected > 0.0:
                y = count_k[k] / expected - 1.0
                sum_nk[n, k] += y
                square_nk[n, k] += y * y
