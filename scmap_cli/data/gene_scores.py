"""Gene scores of scATAC: counts of the peaks at a gene's promoter and body, as one sparse product.

A gene reaches from ``upstream`` bp before its start to ``downstream`` bp behind its end, along its strand. By default
the peaks that overlap this stretch count in full (as in Signac's GeneActivity, Stuart et al. 2021,
doi:10.1038/s41592-021-01282-5). With ``decay`` peaks farther off count too, by ``exp(-distance / decay)`` (after ArchR,
Granja et al. 2021, doi:10.1038/s41588-021-00790-6, without its further weights).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from scmap_cli.data.peaks import Peaks
from scmap_cli.errors import InputError
from scmap_cli.io.genes import Genes

FARTHEST = 5.0
"""Peaks count up to this many times ``decay`` from a gene, where their weight is below 0.01."""


@dataclass(frozen=True)
class GeneWeights:
    """What each peak adds to each gene.

    Attributes
    ----------
    weight_pg
        (P, g) CSC float32, above 0 to 1.
    var
        One row a gene that has a peak: ``chrom``, ``start``, ``end``, ``strand``, ``n_peaks``. Of a name that occurs
        more than once, the position of the first, and for each peak the largest of the weights.
    without_peaks
        Number of gene names that no peak is near to.
    """

    weight_pg: sparse.csc_matrix
    var: pd.DataFrame
    without_peaks: int


def gene_weights(
    peaks: Peaks, genes: Genes, *, upstream: int = 2000, downstream: int = 0, decay: float | None = None
) -> GeneWeights:
    """Weights of peaks for genes, see the top of this file.

    Parameters
    ----------
    peaks, genes
        Positions in the same genome.
    upstream, downstream
        bp added before the start and behind the end of a gene.
    decay
        bp over which the weight of a farther peak falls by a factor e; None counts overlapping peaks alone.

    Raises
    ------
    InputError
        Peaks and genes share no chromosome, or no gene has a peak.
    """
    reach = 0 if decay is None else round(FARTHEST * decay)
    low = genes.start - np.where(genes.forward, upstream, downstream)
    high = genes.end + np.where(genes.forward, downstream, upstream)
    shared = set(genes.chrom.tolist()) & set(peaks.chrom.tolist())
    if not shared:
        raise InputError(
            f"peaks and genes share no chromosome name (such as {str(peaks.chrom[0])!r} and {str(genes.chrom[0])!r})",
            "name chromosomes alike",
        )
    pairs = [_near(peaks, chrom, low, high, genes.chrom, reach) for chrom in sorted(shared)]
    peak_m, gene_m = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    # Base pairs between the two; 0 where they overlap or touch.
    distance_m = np.maximum(np.maximum(peaks.start[peak_m] - high[gene_m], low[gene_m] - peaks.end[peak_m]), 0)
    weight_m = np.ones(len(peak_m)) if decay is None else np.exp(-distance_m / decay)
    names, first = np.unique(genes.names, return_index=True)
    by_place = np.argsort(first)
    code_g = np.empty(len(names), dtype=np.int64)
    code_g[by_place] = np.arange(len(names))
    name_m = code_g[np.searchsorted(names, genes.names)][gene_m]
    first = np.sort(first)
    # The largest weight of a pair comes first, and what follows of the same pair is dropped.
    order = np.lexsort((-weight_m, peak_m, name_m))
    peak_m, name_m, weight_m = peak_m[order], name_m[order], weight_m[order]
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (peak_m[1:] != peak_m[:-1]) | (name_m[1:] != name_m[:-1])
    shape = (len(peaks.chrom), len(names))
    weight_pg = sparse.csc_matrix((weight_m[fresh].astype(np.float32), (peak_m[fresh], name_m[fresh])), shape=shape)
    n_peaks = np.diff(weight_pg.indptr)
    kept = n_peaks > 0
    if not kept.any():
        raise InputError("no gene has a peak", "check that peaks and genes are of the same genome")
    at = first[kept]
    var = pd.DataFrame(
        {
            "chrom": pd.Categorical(genes.chrom[at]),
            "start": genes.start[at],
            "end": genes.end[at],
            "strand": pd.Categorical(np.where(genes.forward[at], "+", "-")),
            "n_peaks": n_peaks[kept].astype(np.int32),
        },
        index=pd.Index(genes.names[at], dtype=object),
    )
    return GeneWeights(sparse.csc_matrix(weight_pg[:, np.flatnonzero(kept)]), var, int((~kept).sum()))


def _near(
    peaks: Peaks, chrom: str, low: np.ndarray, high: np.ndarray, chrom_g: np.ndarray, reach: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of peaks and genes of a chromosome that overlap, or lie at most ``reach`` apart."""
    peak_p = np.flatnonzero(peaks.chrom == chrom)
    peak_p = peak_p[np.argsort(peaks.start[peak_p], kind="stable")]
    gene_g = np.flatnonzero(chrom_g == chrom)
    start, end = peaks.start[peak_p], peaks.end[peak_p]
    # The furthest end so far rises, so peaks before the first that reaches the gene cannot touch it.
    first = np.searchsorted(np.maximum.accumulate(end), low[gene_g] - reach, side="right")
    last = np.searchsorted(start, high[gene_g] + reach, side="left")
    length = np.maximum(last - first, 0)
    which = np.repeat(np.arange(len(gene_g)), length)
    at = np.arange(len(which)) - np.repeat(np.cumsum(length) - length, length) + first[which]
    touching = end[at] > low[gene_g][which] - reach
    return peak_p[at[touching]], gene_g[which[touching]]


def diffuse(
    values_ng: sparse.csr_matrix,
    indices: np.ndarray,
    distances: np.ndarray,
    *,
    k: int = 5,
    decay: float = 1.0,
    steps: int = 3,
    columns: int = 512,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Smooth values over a cell graph by MAGIC (van Dijk et al. 2018, doi:10.1016/j.cell.2018.05.061).

    The affinity of cell i to neighbour j is ``exp(-(d_ij / s_i)^decay)`` with ``s_i`` the distance to its k-th
    neighbour, and 1 to itself; affinities are averaged with their transpose and divided by their row sums. The result
    is the operator applied ``steps`` times. k, decay and steps are the defaults of the authors' package, which looks at
    3 k neighbours; it asks for a pandas older than the one needed here, hence this one.

    Parameters
    ----------
    values_ng
        (n, g) values.
    indices, distances
        (n, at least k) nearest other cells, nearest first.
    columns
        Genes smoothed at once.

    Yields
    ------
    slice, ndarray
        Columns, and their (n, columns) float32 smoothed values.
    """
    n = len(indices)
    width_n = distances[:, min(k, distances.shape[1]) - 1]
    scaled = np.divide(distances, width_n[:, None], out=np.zeros_like(distances), where=width_n[:, None] > 0)
    rows = np.repeat(np.arange(n), indices.shape[1])
    affinity = sparse.csr_matrix((np.exp(-(scaled**decay)).ravel(), (rows, indices.ravel())), shape=(n, n))
    affinity = affinity + sparse.identity(n, format="csr")
    affinity = sparse.csr_matrix(0.5 * (affinity + affinity.T))
    total_n = np.asarray(affinity.sum(axis=1)).ravel()
    operator = sparse.csr_matrix(sparse.diags(1 / total_n) @ affinity)
    by_column = values_ng.tocsc()
    for start in range(0, values_ng.shape[1], columns):
        part = slice(start, min(start + columns, values_ng.shape[1]))
        block = by_column[:, part].toarray().astype(np.float64)
        for _ in range(steps):
            block = np.asarray(operator @ block)
        yield part, block.astype(np.float32)
