"""Highly variable genes, by scanpy's flavour ``seurat`` as in the MarkerMap paper."""

from __future__ import annotations

import numpy as np

from scmap_cli.data.hvg import highly_variable_genes
from scmap_cli.markers.base import MarkerData, Selection, best


def select(data: MarkerData, k: int, *, seed: int, as_published: bool) -> Selection:
    """The k genes of largest normalised dispersion of log1p CP10k, which is their score."""
    table = highly_variable_genes(data.log1p, k, flavor="seurat")
    scores_g = table["dispersions_norm"].to_numpy(dtype=np.float64)
    genes = best(scores_g, k)
    return Selection(genes, np.nan_to_num(scores_g[genes], nan=-np.inf))
