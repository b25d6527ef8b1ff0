"""Make multiome cells, and cells with ATAC alone, of simulated RNA and ATAC.

    python3 pair_cells.py RNA.h5ad ATAC.h5ad PAIRED_RNA.h5ad PAIRED_ATAC.h5ad ATAC_ONLY.h5ad

Each cell of the first batch of the ATAC gets the RNA of another cell of its type, as long as there are any, and then
its name. Cells of the other batches keep their ATAC alone.
"""

from __future__ import annotations

import sys

import anndata
import numpy as np


def main(rna_path: str, atac_path: str, *outputs: str) -> None:
    """Write RNA and ATAC of the paired cells, and the ATAC of the others."""
    rna, atac = anndata.read_h5ad(rna_path), anndata.read_h5ad(atac_path)
    first = (atac.obs["batch"] == sorted(atac.obs["batch"].unique())[0]).to_numpy()
    kinds = [np.unique(one.obs["cell_type"].astype(str), return_inverse=True)[1] for one in (rna, atac)]
    rows, partners = [], []
    for kind in np.unique(kinds[1]):
        ours, theirs = np.flatnonzero(first & (kinds[1] == kind)), np.flatnonzero(kinds[0] == kind)
        paired = min(len(ours), len(theirs))
        rows += ours[:paired].tolist()
        partners += theirs[:paired].tolist()
    found = anndata.AnnData(rna.X[partners], var=rna.var[[]])
    found.obs_names = atac.obs_names[rows]
    found.write_h5ad(outputs[0])
    for path, cells in zip(outputs[1:], (rows, np.flatnonzero(~first)), strict=True):
        part = anndata.AnnData(atac.X[cells], obs=atac.obs.iloc[cells][["cell_type", "batch"]], var=atac.var[[]])
        part.write_h5ad(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
