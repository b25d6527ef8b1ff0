"""COSG (Dai et al. 2022, doi:10.1093/bib/bbab579), by its authors' package: cosine similarity of a gene with a class.

The score of gene g in class c is cos_gc^3 / ((1 - mu) cos_gc^2 + mu sum_k cos_gk^2), where cos_gc is the cosine of the
gene's expression with the indicator of the class, and mu = 1. Cosines are meant for expression, which is not negative;
as published in the MarkerMap paper they are of scaled values, half of which are. Genes found in less than a tenth of a
class, or in fewer than three of its cells, come last in it: the package's default, which the paper's version had not.
"""

from __future__ import annotations

import warnings

import numpy as np
from cosg import cosg

from scmap_cli.markers.base import MarkerData, Selection, published_rows, rows_by_class
from scmap_cli.markers.rank_tests import as_anndata, ranked


def select(data: MarkerData, k: int, *, seed: int, as_published: bool) -> Selection:
    """Choose k genes; classes take turns."""
    adata = as_anndata(data.scaled if as_published else data.log1p, data)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        cosg(
            adata,
            groupby="class",
            mu=1,
            n_genes_user=data.n_genes,
            remove_lowly_expressed=not as_published,
            key_added="cosg",
            return_by_group=True,
        )
    scores_cg = ranked(adata.uns["cosg"], len(data.classes), data.n_genes)
    return (published_rows if as_published else rows_by_class)(data, scores_cg, k)
