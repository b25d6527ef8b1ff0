"""Make a reference and query samples of a simulated file.

    python3 split_for_query.py ALL.h5ad REFERENCE.h5ad SAMPLE1.h5ad SAMPLE2.h5ad

The first batch is the reference. The others become one file each, without a fifth of the genes, the rest named by ids
of Ensembl's form with a version; the symbols are in the column ``symbol``.
"""

from __future__ import annotations

import sys

import anndata
import numpy as np


def main(source: str, reference: str, *samples: str) -> None:
    """Write the reference and one file a sample."""
    adata = anndata.read_h5ad(source)
    batches = sorted(adata.obs["batch"].astype(str).unique())
    of_cell = adata.obs["batch"].astype(str).to_numpy()
    adata[of_cell == batches[0]].copy().write_h5ad(reference)
    kept = np.sort(np.random.default_rng(0).permutation(adata.n_vars)[: adata.n_vars * 4 // 5])
    for batch, path in zip(batches[1:], samples, strict=True):
        cells = adata[of_cell == batch][:, kept]
        query = anndata.AnnData(cells.X, obs=cells.obs[["cell_type"]], var={"symbol": cells.var_names.to_numpy()})
        query.var_names = [f"ENSG{i:011d}.{1 + i % 9}" for i in range(query.n_vars)]
        query.obs_names = cells.obs_names
        query.write_h5ad(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
