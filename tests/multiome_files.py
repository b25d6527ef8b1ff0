"""Paired RNA and ATAC made in code: three types, two batches, cells in another order in either file."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

CELLS, GENES, PEAKS = 240, 60, 120
CHROMS = ("chr10", "chr2", "chrX", "chr1")


def peak_names(n: int = PEAKS) -> list[str]:
    """Positions that are not sorted, on chromosomes that are not in order."""
    order = np.random.default_rng(7).permutation(n)
    return [f"{CHROMS[i % 4]}:{1000 * (i // 4)}-{1000 * (i // 4) + 500}" for i in order]


def multiome(seed: int = 0, cells: int = CELLS, prefix: str = "c") -> tuple[anndata.AnnData, anndata.AnnData]:
    """Counts of genes and counts of peaks of the same cells, the former in reverse order."""
    rng = np.random.default_rng(seed)
    kind, batch = rng.integers(3, size=cells), rng.integers(2, size=cells)
    genes, peaks = np.full((3, GENES), 0.3), np.full((3, PEAKS), 0.04)
    places = np.random.default_rng(1).permutation(PEAKS)
    for k in range(3):
        genes[k, 20 * k : 20 * k + 20] = 3.0
        peaks[k, places[30 * k : 30 * k + 30]] = 0.5
    x = rng.poisson(genes[kind] * rng.lognormal(0, 0.3, cells)[:, None])
    x[:, 0] += 1
    y = (rng.random((cells, PEAKS)) < peaks[kind] * np.where(batch == 0, 0.5, 1.0)[:, None]).astype(np.int32)
    y[:, 0] = 1
    y *= rng.integers(1, 4, y.shape)
    names = [f"{prefix}{i}" for i in range(cells)]
    obs = pd.DataFrame({"type": kind.astype(str), "batch": np.where(batch == 0, "poor", "rich")}, index=names)
    rna = anndata.AnnData(
        sparse.csr_matrix(x.astype(np.float32)),
        obs=obs[["type"]],
        var=pd.DataFrame(index=[f"G{i}" for i in range(GENES)]),
    )
    atac = anndata.AnnData(sparse.csr_matrix(y), obs=obs[["batch"]], var=pd.DataFrame(index=peak_names()))
    return rna[::-1].copy(), atac
