"""Quality-control numbers of cells and genes under scanpy's column names, from CSR without a dense step."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scmap_cli.data.matrices import cell_totals, row_chunks, rows_per_block


def cell_metrics(matrix: sp.csr_matrix, mito_g: np.ndarray) -> pd.DataFrame:
    """Genes, counts and mitochondrial share of each cell.

    Parameters
    ----------
    matrix
        (n, g) CSR of counts without stored zeros.
    mito_g
        (g,) bool: mitochondrial genes.

    Returns
    -------
    DataFrame
        n rows: ``n_genes_by_counts`` (int32), ``total_counts`` and ``total_counts_mt`` (counts, float32), their
        ``log1p_`` forms, and ``pct_counts_mt`` (percent; 0 for an empty cell).
    """
    n_genes = np.diff(matrix.indptr).astype(np.int32)
    total = cell_totals(matrix)
    mito = np.zeros(matrix.shape[0])
    weights = mito_g.astype(np.float64)
    for rows, block in row_chunks(matrix, rows_per_block(matrix)):
        mito[rows] = block @ weights
    share = np.divide(100.0 * mito, total, out=np.zeros_like(total), where=total > 0)
    return pd.DataFrame(
        {
            "n_genes_by_counts": n_genes,
            "log1p_n_genes_by_counts": np.log1p(n_genes.astype(np.float64)),
            "total_counts": total.astype(np.float32),
            "log1p_total_counts": np.log1p(total).astype(np.float32),
            "total_counts_mt": mito.astype(np.float32),
            "log1p_total_counts_mt": np.log1p(mito).astype(np.float32),
            "pct_counts_mt": share.astype(np.float32),
        }
    )


def gene_metrics(matrix: sp.csr_matrix, mito_g: np.ndarray) -> pd.DataFrame:
    """Cells and counts of each gene.

    Parameters
    ----------
    matrix, mito_g
        As :func:`cell_metrics`.

    Returns
    -------
    DataFrame
        g rows: ``mt`` (bool), ``n_cells_by_counts`` (int32), ``mean_counts`` and ``total_counts`` (counts, float32),
        their ``log1p_`` forms, and ``pct_dropout_by_counts`` (percent of cells without the gene).
    """
    n, g = matrix.shape
    n_cells = np.zeros(g, dtype=np.int64)
    total = np.zeros(g)
    for _, block in row_chunks(matrix, rows_per_block(matrix)):
        n_cells += np.bincount(block.indices, minlength=g)
        total += np.bincount(block.indices, weights=block.data, minlength=g)
    mean = total / n
    return pd.DataFrame(
        {
            "mt": mito_g,
            "n_cells_by_counts": n_cells.astype(np.int32),
            "mean_counts": mean.astype(np.float32),
            "log1p_mean_counts": np.log1p(mean).astype(np.float32),
            "pct_dropout_by_counts": (1 - n_cells / n) * 100,
            "total_counts": total.astype(np.float32),
            "log1p_total_counts": np.log1p(total).astype(np.float32),
        }
    )
