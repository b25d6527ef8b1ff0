"""Highly variable genes by scanpy, whose implementation and column names are the field's own."""

from __future__ import annotations

import warnings
from typing import Literal

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scmap_cli.errors import InputError

Flavor = Literal["seurat_v3", "seurat", "cell_ranger"]
FLAVORS: tuple[Flavor, ...] = ("seurat_v3", "seurat", "cell_ranger")
# The fit of seurat_v3 ends the process where hardly any gene varies.
_FEWEST = 3
_REMEDY = "try another --hvg-flavor, fewer batches, or filter genes by --min-cells"


def highly_variable_genes(
    matrix: sp.csr_matrix, n_top: int, *, flavor: Flavor, batch: pd.Categorical | None = None
) -> pd.DataFrame:
    """Rank genes by variability, within each batch where batches are given.

    Parameters
    ----------
    matrix
        (n, g) CSR: counts for ``seurat_v3``, log1p CP10k for ``seurat`` and ``cell_ranger``.
    n_top
        Genes to mark.
    flavor
        As in ``scanpy.pp.highly_variable_genes``.
    batch
        (n,) batch of each cell.

    Returns
    -------
    DataFrame
        g rows in the order of the matrix; ``highly_variable`` and scanpy's statistics of the flavour.

    Raises
    ------
    InputError
        A batch has fewer than two cells, hardly any gene varies in it, or the data are too few for the flavour's fit.
    """
    import scanpy

    names = [str(i) for i in range(matrix.shape[1])]
    adata = anndata.AnnData(
        X=matrix, obs=pd.DataFrame(index=[str(i) for i in range(matrix.shape[0])]), var=pd.DataFrame(index=names)
    )
    if batch is not None:
        counts = batch.value_counts()
        small = counts[counts < 2]
        if len(small):
            raise InputError(
                f"the batch {small.index[0]!r} has {int(small.iloc[0])} cells: too few to find variable genes in it",
                "merge or remove small batches, or name another column with --hvg-batch-key",
            )
        adata.obs["batch"] = batch
    for name in [None] if batch is None else batch.categories:
        _check_varying(matrix if batch is None else matrix[np.asarray(batch == name)], name)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = scanpy.pp.highly_variable_genes(
                adata,
                n_top_genes=min(n_top, matrix.shape[1]),
                flavor=flavor,
                batch_key=None if batch is None else "batch",
                check_values=False,
                inplace=False,
            )
    except (ValueError, ZeroDivisionError, IndexError) as error:
        reason = str(error).strip().split("\n", 1)[0][:120]
        raise InputError(f"scanpy's {flavor} found no variable genes: {reason}", _REMEDY) from error
    table: pd.DataFrame = found.drop(columns=["gene_name", "mean_bin"], errors="ignore").reset_index(drop=True)
    front = ["highly_variable"]
    return table[front + [name for name in table.columns if name not in front]]


def _check_varying(matrix: sp.csr_matrix, batch: str | None) -> None:
    from sklearn.utils.sparsefuncs import mean_variance_axis

    varying = int(np.count_nonzero(mean_variance_axis(matrix, axis=0)[1] > 0))
    if varying < _FEWEST:
        where = "" if batch is None else f" in the batch {batch!r}"
        raise InputError(f"only {varying} genes vary{where}: too few to find variable ones", _REMEDY)
