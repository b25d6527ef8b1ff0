"""Values of genes that are asked for, cell by cell, from a model that reads cells as tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse

from scmap_cli.data.tokens import TokenBatch, make_batch, on_device
from scmap_cli.runtime.logs import progress


def asked_batch(counts: sparse.csr_matrix, asked: sparse.csr_matrix, dtype: torch.dtype = torch.float32) -> TokenBatch:
    """Cells with the genes that are asked for among their tokens; a count of theirs is not told.

    Parameters
    ----------
    counts, asked
        (n, g) CSR: counts, and a stored entry for each gene that is asked for in a cell.
    """
    n = counts.shape[0]
    cell_m = np.repeat(np.arange(n), np.diff(counts.indptr))
    cell_q = np.repeat(np.arange(n), np.diff(asked.indptr))
    g = counts.shape[1]
    known_m = ~np.isin(cell_m * g + counts.indices, cell_q * g + asked.indices)
    cell_t = np.concatenate([cell_m[known_m], cell_q])
    gene_t = np.concatenate([counts.indices[known_m], asked.indices]).astype(np.int64)
    count_t = np.concatenate([counts.data[known_m], np.zeros(asked.nnz)])
    asked_t = np.concatenate([np.zeros(int(known_m.sum()), dtype=bool), np.ones(asked.nnz, dtype=bool)])
    order = np.lexsort((gene_t, cell_t))
    lengths = np.bincount(cell_t, minlength=n)
    return make_batch(gene_t[order], count_t[order], lengths, dtype, asked_t[order])


def impute_entries(
    model: Any, counts: sparse.csr_matrix, asked: sparse.csr_matrix, device: torch.device, batch_size: int
) -> sparse.csr_matrix:
    """Predicted values of the entries of ``asked``, given that they are expressed: log1p of counts per 10,000.

    Parameters
    ----------
    model
        Has ``impute(batch)``, see :meth:`scmap_cli.models.expresser.Expresser.impute`.
    counts, asked
        (n, g) CSR, sorted indices; counts at entries that are asked for are passed over.

    Returns
    -------
    csr_matrix
        (n, g) float32 with the structure of ``asked``.
    """
    values = np.zeros(asked.nnz, dtype=np.float32)
    batch_size = min(batch_size, model.most_cells)
    with progress("imputing cells", counts.shape[0]) as bar:
        for start in range(0, counts.shape[0], batch_size):
            stop = min(start + batch_size, counts.shape[0])
            wanted = asked[start:stop]
            if wanted.nnz:
                batch = on_device(asked_batch(counts[start:stop], wanted, model.dtype), device)
                values[asked.indptr[start] : asked.indptr[stop]] = model.impute(batch).float().cpu().numpy()
            bar.advance(stop - start)
    return sparse.csr_matrix((values, asked.indices, asked.indptr), shape=asked.shape)
