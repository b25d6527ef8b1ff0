"""How well the expression of all genes is got back: equations 7 to 11 and Tables 2 and 4 of the MarkerMap paper."""

from __future__ import annotations

import numpy as np

TOP_SHARE = 0.2
"""Share of genes, by variance, whose sets are compared (equation 7)."""

_COLUMNS = 256  # genes in double precision at a time


def linear_map(x_train: np.ndarray, all_train: np.ndarray, x_test: np.ndarray) -> np.ndarray:
    """All genes of unseen cells by ordinary least squares on some of them.

    Parameters
    ----------
    x_train, x_test
        (n, k) and (m, k) values of the chosen genes.
    all_train
        (n, g) values of all genes.

    Returns
    -------
    ndarray
        (m, g) float64. Where genes are collinear, the solution of least norm.
    """
    inside = np.column_stack([np.ones(len(x_train)), x_train]).astype(np.float64)
    outside = np.column_stack([np.ones(len(x_test)), x_test]).astype(np.float64)
    # The same as least squares of all genes at once, without a copy of their values in double precision.
    inverse = np.linalg.pinv(inside, rcond=np.finfo(np.float64).eps * max(inside.shape))
    found = np.empty((len(outside), all_train.shape[1]))
    for start in range(0, found.shape[1], _COLUMNS):
        some = slice(start, start + _COLUMNS)
        found[:, some] = outside @ (inverse @ all_train[:, some].astype(np.float64))
    return found


def _ranks(values: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return np.asarray(rankdata(values))


def jaccard_of_top(variance_g: np.ndarray, other_g: np.ndarray) -> float | None:
    """Overlap of the fifth of genes with the largest variances (equations 7 and 8); None for fewer than five genes.

    Equal variances are taken in the order of the genes.
    """
    count = int(len(variance_g) * TOP_SHARE)
    if count == 0:
        return None
    one, two = (set(np.argsort(-v, kind="stable")[:count].tolist()) for v in (variance_g, other_g))
    return len(one & two) / len(one | two)


def spearman(variance_g: np.ndarray, other_g: np.ndarray) -> float | None:
    """Pearson correlation of the ranks (equation 9), equal values sharing theirs; None where all are equal."""
    one, two = _ranks(variance_g), _ranks(other_g)
    one, two = one - one.mean(), two - two.mean()
    length = np.sqrt((one**2).sum() * (two**2).sum())
    return float((one * two).sum() / length) if length > 0 else None


def gene_variances(
    original_ng: np.ndarray, rebuilt_ng: np.ndarray, unit_g: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Variance of every gene over the cells, original and rebuilt, (g,) each, as before scaling by ``unit_g``.

    See :func:`reconstruction_scores` for the parameters.
    """
    square_g = 1.0 if unit_g is None else unit_g**2
    return original_ng.var(axis=0) * square_g, rebuilt_ng.var(axis=0) * square_g


def reconstruction_scores(
    original_ng: np.ndarray, rebuilt_ng: np.ndarray, unit_g: np.ndarray | None = None
) -> dict[str, float | None]:
    """Every score of one set of cells.

    Parameters
    ----------
    original_ng, rebuilt_ng
        (n, g) values on the same scale.
    unit_g
        (g,) what one unit of each gene's values is, where genes were scaled one by one: their variances are compared as
        they were before, because all that were scaled to variance 1 are alike.

    Returns
    -------
    dict
        ``mse`` and ``mae``: mean squared and absolute error of an entry (Table 2). ``jaccard`` and ``spearman`` of the
        variances over these cells. ``l2`` and ``l1``: mean over cells of the norm of a cell's error (equations 10, 11).
    """
    original_ng, rebuilt_ng = (one.astype(np.float64, copy=False) for one in (original_ng, rebuilt_ng))
    wrong = original_ng - rebuilt_ng
    size = np.abs(wrong)
    variances = gene_variances(original_ng, rebuilt_ng, unit_g)
    return {
        "mse": float((wrong**2).mean()),
        "mae": float(size.mean()),
        "jaccard": jaccard_of_top(*variances),
        "spearman": spearman(*variances),
        "l2": float(np.sqrt((wrong**2).sum(axis=1)).mean()),
        "l1": float(size.sum(axis=1).mean()),
    }


def by_type(
    original_ng: np.ndarray, rebuilt_ng: np.ndarray, types_n: np.ndarray, unit_g: np.ndarray | None = None
) -> dict[str, dict[str, float | None]]:
    """The scores of the cells of each type, by its name, with their number."""
    groups = {str(name): types_n == name for name in np.unique(types_n)}
    return {
        name: {"cells": int(cells.sum()), **reconstruction_scores(original_ng[cells], rebuilt_ng[cells], unit_g)}
        for name, cells in groups.items()
    }
