"""Values of genes that are asked for, cell by cell, from a model that reads cells as tokens.

A model normalises by the counts of its own genes that it is shown. Data may hold more genes, and whoever compares wants
all values of a cell by one total: predictions are brought to the total that the caller names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse

from scmap_cli.data.matrices import by_total, cell_totals
from scmap_cli.data.tokens import TokenBatch, make_batch, on_device
from scmap_cli.errors import InputError
from scmap_cli.runtime.logs import log, progress

# Candidates of all cells of a batch: of tokens 200 wide a hidden layer takes 200 MB.
_CANDIDATES = 1 << 16


def check_told(counts: sparse.csr_matrix) -> None:
    """Warn of cells that tell a model nothing.

    Raises
    ------
    InputError
        No cell tells anything.
    """
    empty = int((cell_totals(counts) == 0).sum())
    if empty == counts.shape[0]:
        raise InputError("no cell has an observed count in a gene of the model", "look at how genes are named")
    if empty:
        log.warning("%d cells have no observed count in a gene of the model and get no values (0)", empty)


def asked_batch(counts: sparse.csr_matrix, asked: sparse.csr_matrix, dtype: torch.dtype = torch.float32) -> TokenBatch:
    """Cells with the genes that are asked for among their tokens.

    Parameters
    ----------
    counts, asked
        (n, g) CSR: counts, and a stored entry for each gene that is asked for in a cell; none has both.
    """
    n = counts.shape[0]
    cell_t = np.concatenate([np.repeat(np.arange(n), np.diff(one.indptr)) for one in (counts, asked)])
    gene_t = np.concatenate([counts.indices, asked.indices]).astype(np.int64)
    count_t = np.concatenate([counts.data, np.zeros(asked.nnz)])
    asked_t = np.repeat([False, True], [counts.nnz, asked.nnz])
    order = np.lexsort((gene_t, cell_t))
    lengths = np.bincount(cell_t, minlength=n)
    return make_batch(gene_t[order], count_t[order], lengths, dtype, asked_t[order])


def impute_entries(
    model: Any,
    counts: sparse.csr_matrix,
    asked: sparse.csr_matrix,
    total_n: np.ndarray,
    device: torch.device,
    batch_size: int,
) -> sparse.csr_matrix:
    """Predicted values of the entries of ``asked``, given that these are what else is expressed in their cells.

    Parameters
    ----------
    model
        Has ``impute(batch)``, see :meth:`scmap_cli.models.expresser.Expresser.impute`.
    counts, asked
        (n, g) CSR, sorted indices, no entry in both.
    total_n
        (n,) counts that values are normalised by.

    Returns
    -------
    csr_matrix
        (n, g) float32 log1p of counts per 10,000, with the structure of ``asked``; 0 in cells without counts.
    """
    values = np.zeros(asked.nnz, dtype=np.float32)
    own_n, batch_size = cell_totals(counts), min(batch_size, model.most_cells)
    with progress("imputing cells", counts.shape[0]) as bar:
        for start in range(0, counts.shape[0], batch_size):
            stop = min(start + batch_size, counts.shape[0])
            wanted = asked[start:stop]
            if wanted.nnz:
                batch = on_device(asked_batch(counts[start:stop], wanted, model.dtype), device)
                cell_q = start + np.repeat(np.arange(stop - start), np.diff(wanted.indptr))
                found_q = model.impute(batch).double().cpu().numpy()
                values[asked.indptr[start] : asked.indptr[stop]] = by_total(found_q, own_n[cell_q], total_n[cell_q])
            bar.advance(stop - start)
    return sparse.csr_matrix((values, asked.indices, asked.indptr), shape=asked.shape)


def impute_genes(
    model: Any,
    counts: sparse.csr_matrix,
    gene_g: np.ndarray,
    total_n: np.ndarray,
    device: torch.device,
    batch_size: int,
) -> np.ndarray:
    """Predicted values of candidate genes in every cell, each as if it alone were expressed beside those that are.

    Parameters
    ----------
    model
        Has ``impute_each(batch, genes)``, see :meth:`scmap_cli.models.expresser.Expresser.impute_each`.
    counts, total_n
        As :func:`impute_entries`.
    gene_g
        (g,) places of the candidates among the model's genes.

    Returns
    -------
    array
        (n, g) float32 log1p of counts per 10,000; 0 in cells without counts.
    """
    found_ng = np.zeros((counts.shape[0], len(gene_g)), dtype=np.float32)
    own_n = cell_totals(counts)
    wanted = torch.from_numpy(gene_g.astype(np.int64)).to(device)
    size = max(1, min(batch_size, model.most_cells, _CANDIDATES // len(gene_g)))
    for start in range(0, counts.shape[0], size):
        rows = slice(start, start + size)
        part = counts[rows]
        batch = on_device(make_batch(part.indices, part.data, np.diff(part.indptr), model.dtype), device)
        value_ng = model.impute_each(batch, wanted).double().cpu().numpy()
        found_ng[rows] = by_total(value_ng, own_n[rows, None], total_n[rows, None])
    return found_ng
