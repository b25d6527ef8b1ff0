"""What ``evaluate imputation --withhold`` sets beside models: a gene's mean, gene + cell effects, and MAGIC."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from scmap_cli.data.decomposition import pca
from scmap_cli.data.features import align, apply
from scmap_cli.data.gene_scores import diffuse
from scmap_cli.data.matrices import by_total, cell_totals, log1p_cp10k
from scmap_cli.metrics.graph import knn
from scmap_cli.metrics.withheld import Withheld, additive_fit, cell_effects, gene_means, withhold
from scmap_cli.stages.inputs import RnaInput

BASELINES = ("gene-mean", "additive", "magic")
USUAL = BASELINES[:2]
_NEIGHBOURS, _COMPONENTS = 15, 50


@dataclass(frozen=True)
class Hidden:
    """The test data.

    Attributes
    ----------
    counts, cells, genes
        (n, g) CSR and its names.
    known_g
        bool: the genes that are scored.
    split
        What is hidden.
    """

    counts: sparse.csr_matrix
    cells: pd.Index
    genes: pd.Index
    known_g: np.ndarray
    split: Withheld

    @property
    def scored_m(self) -> np.ndarray:
        """bool: the entries that are scored."""
        found: np.ndarray = self.split.hidden_m & self.known_g[self.split.gene_m]
        return found

    @property
    def observed(self) -> sparse.csr_matrix:
        """The counts that are left."""
        return self._some(~self.split.hidden_m, self.counts.data)

    def withheld(self, data: np.ndarray | None = None) -> sparse.csr_matrix:
        """A stored entry for each hidden one: its number among all, from 1, or ``data`` of them all."""
        return self._some(self.split.hidden_m, np.arange(1, self.counts.nnz + 1) if data is None else data)

    def _some(self, keep_m: np.ndarray, data: np.ndarray) -> sparse.csr_matrix:
        edges = np.concatenate([[0], np.cumsum(keep_m)])[self.counts.indptr]
        return sparse.csr_matrix((data[keep_m], self.counts.indices[keep_m], edges), shape=self.counts.shape)


def baseline(name: str, test: Hidden, other: RnaInput | None, share: float, seed: int) -> np.ndarray:
    """(q,) predictions of one of :data:`BASELINES` for the entries that are scored.

    With ``other`` cells, of which the same share is hidden, gene effects are learned from these: over the genes of
    both, by whose observed counts values are normalised meanwhile.
    """
    cell_q, gene_q = test.split.cell_m[test.scored_m], test.split.gene_m[test.scored_m]
    if name == "magic":
        return _magic(test.observed, cell_q, gene_q, seed)
    observed, total_n = test.observed, test.split.total_n
    if other is not None:
        alignment = align(other.genes, test.genes.to_numpy())
        thinned = withhold(apply(other.counts, alignment), share, seed, other.cells, test.genes.to_numpy())
        left_m = ~thinned.hidden_m
        learned = thinned.value_m[left_m], thinned.cell_m[left_m], thinned.gene_m[left_m], thinned.shape
        observed = sparse.csr_matrix(observed @ sparse.diags_array((alignment.index >= 0).astype(np.float32)))
        observed.eliminate_zeros()
    own_n = cell_totals(observed)
    value_m, gene_m = log1p_cp10k(observed).data.astype(np.float64), observed.indices.astype(np.int64)
    cell_m = np.repeat(np.arange(observed.shape[0]), np.diff(observed.indptr))
    if other is None:
        learned = value_m, cell_m, gene_m, test.split.shape
    if name == "gene-mean":
        found_q = gene_means(learned[0], learned[2], len(test.genes))[gene_q]
    else:
        _, gene_g = additive_fit(*learned)
        found_q = cell_effects(value_m, cell_m, gene_m, gene_g, len(test.cells))[cell_q] + gene_g[gene_q]
    return by_total(found_q, own_n[cell_q], total_n[cell_q])


def _magic(observed: sparse.csr_matrix, cell_q: np.ndarray, gene_q: np.ndarray, seed: int) -> np.ndarray:
    """Smoothed log1p CP10k; zeros count as values, which is how the method is meant."""
    components = min(_COMPONENTS, min(observed.shape) - 1)
    indices, distances = knn(pca(observed, components, seed=seed), _NEIGHBOURS, seed)
    found_q = np.zeros(len(cell_q))
    for columns, block in diffuse(log1p_cp10k(observed), indices, distances):
        inside = (gene_q >= columns.start) & (gene_q < columns.stop)
        found_q[inside] = block[cell_q[inside], gene_q[inside] - columns.start]
    return found_q
