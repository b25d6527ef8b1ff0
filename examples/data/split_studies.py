"""Write each batch of a simulated file as a study of its own.

    python3 split_studies.py ALL.h5ad STUDY1.h5ad STUDY2.h5ad ...

Batches are taken in the order of their names.
"""

from __future__ import annotations

import sys

import anndata


def main(source: str, *studies: str) -> None:
    """Write one file a batch."""
    adata = anndata.read_h5ad(source)
    batches = adata.obs["batch"].astype(str)
    for name, path in zip(sorted(batches.unique()), studies, strict=True):
        part = adata[(batches == name).to_numpy()]
        anndata.AnnData(part.X, obs=part.obs[["cell_type"]], var=part.var[[]]).write_h5ad(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
