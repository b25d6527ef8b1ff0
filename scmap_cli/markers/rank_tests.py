"""Tests of each class against the rest, by scanpy's ``rank_genes_groups``.

Scanpy: Wolf et al. 2018, doi:10.1186/s13059-017-1382-0.

Classes take turns in choosing their best gene. As published in the MarkerMap paper, the tests see scaled and clipped
values instead of log1p CP10k, a gene that several classes rank equally high is counted once for all of them, and of the
last row those of smallest p-value are taken.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scmap_cli.markers.base import MarkerData, Selection, published_rows, rows_by_class


def as_anndata(values: Any, data: MarkerData) -> AnnData:
    """The values with classes in ``obs["class"]`` and genes named by their numbers."""
    names = pd.Index([str(code) for code in range(len(data.classes))])
    classes = pd.Categorical.from_codes(data.labels, names)
    obs = pd.DataFrame({"class": classes}, index=[str(i) for i in range(values.shape[0])])
    return AnnData(values, obs=obs, var=pd.DataFrame(index=[str(i) for i in range(values.shape[1])]))


def ranked(found: Any, n_classes: int, n_genes: int, field: str = "scores") -> np.ndarray:
    """(classes, g) numbers of a result in scanpy's form: ``names`` and the field, an array a class, sorted by score."""
    numbers_cg = np.full((n_classes, n_genes), np.nan)
    for code in range(n_classes):
        names = np.asarray(found["names"][str(code)]).astype(str)
        known = np.char.isdigit(names)
        numbers_cg[code, names[known].astype(np.int64)] = np.asarray(found[field][str(code)], np.float64)[known]
    return numbers_cg


def _select(
    data: MarkerData, k: int, *, seed: int, as_published: bool, method: str, tie_correct: bool = False
) -> Selection:
    import scanpy

    adata = as_anndata(data.scaled if as_published else data.log1p, data)
    # Of a constant gene scanpy divides by zero; its score is then NaN and it comes last.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        scanpy.tl.rank_genes_groups(adata, "class", method=method, tie_correct=tie_correct, use_raw=False)
    found, shape = adata.uns["rank_genes_groups"], (len(data.classes), data.n_genes)
    scores_cg = ranked(found, *shape)
    if as_published:
        return published_rows(data, scores_cg, k, ranked(found, *shape, "pvals"))
    return rows_by_class(data, scores_cg, k)


select_t_test = partial(_select, method="t-test")
select_t_test_overestim_var = partial(_select, method="t-test_overestim_var")
select_wilcoxon = partial(_select, method="wilcoxon")
select_wilcoxon_tie = partial(_select, method="wilcoxon", tie_correct=True)
