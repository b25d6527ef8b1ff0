"""How much an embedding tells of depth and batch: mutual information by dimension, and batches among neighbours.

The measures of Cao's SAILER thesis (2023): section 2.2.5 takes the mean, over the dimensions, of the mutual information
with a confounder by the nearest-neighbour estimator of Kraskov et al. (2004, doi:10.1103/PhysRevE.69.066138); notes
2.5.3 take the share of each batch among the 50 nearest neighbours "after cell number normalization".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from scmap_cli.errors import InputError
from scmap_cli.metrics.mixing import neighbour_shares

NEIGHBOURS_MI = 3
"""Neighbours of the estimator, scikit-learn's default and that of the thesis's notebooks."""

ESTIMATORS = ("classification", "regression")
"""Estimators for batches: for a discrete variable (Ross 2014), or the continuous one on the batch's number."""


def mutual_information(
    emb_nz: np.ndarray, target_n: np.ndarray, *, discrete: bool = False, cells: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Mutual information of each dimension with a variable, in nats.

    Parameters
    ----------
    emb_nz
        (n, z) embedding.
    target_n
        (n,) depth on its raw scale, or batches.
    discrete
        The variable has categories (any type): the estimator of Ross (2014, doi:10.1371/journal.pone.0087357) for a
        continuous and a discrete variable. Else that of Kraskov et al. for two continuous ones.
    cells
        Take so many seeded cells at most; None takes all.
    seed
        Orders the cells, and breaks ties: the estimators add a little noise.

    Returns
    -------
    dict
        ``mean`` and ``max`` over the dimensions, ``by_dimension`` and ``cells``. Estimates below 0 become 0.

    Raises
    ------
    InputError
        Fewer cells than the estimator has neighbours to look for.
    """
    from sklearn.feature_selection import mutual_info_classif, mutual_info_regression

    pick = np.random.default_rng(seed).permutation(len(emb_nz))[:cells]
    if len(pick) <= NEIGHBOURS_MI:
        raise InputError(f"{len(pick)} cells are too few for mutual information", "give more cells")
    estimator = mutual_info_classif if discrete else mutual_info_regression
    found_z = estimator(
        np.asarray(emb_nz[pick], dtype=np.float64), target_n[pick], n_neighbors=NEIGHBOURS_MI, random_state=seed
    )
    return {
        "mean": float(found_z.mean()),
        "max": float(found_z.max()),
        "by_dimension": [float(value) for value in found_z],
        "cells": len(pick),
    }


def shuffled_within(values_n: np.ndarray, labels_n: np.ndarray, seed: int = 0) -> np.ndarray:
    """Values dealt out anew among the cells of each label.

    What an embedding tells of these is what it tells through the labels alone: an embedding that keeps the labels where
    they are cannot tell less of the true values, but for the error of the estimate.

    Parameters
    ----------
    values_n
        (n,) of any type.
    labels_n
        (n,) label of each cell.
    seed
        Of the order.
    """
    rng = np.random.default_rng(seed)
    # Sorted by label both times, in random order within it the second time.
    return values_n[np.lexsort((rng.random(len(labels_n)), labels_n))][np.argsort(np.argsort(labels_n, kind="stable"))]


def batch_shares(indices: np.ndarray, batch: np.ndarray) -> dict[str, Any]:
    """Shares of the batches among neighbours, after normalisation by the numbers of cells.

    For each cell, the share of its k neighbours that are of batch b is divided by the number of cells of b, and the
    results are scaled to sum to 1 over the batches. In a well mixed embedding each is then 1 / B.

    Parameters
    ----------
    indices
        (n, k) neighbours of each cell.
    batch
        (n,) batch of each cell.

    Returns
    -------
    dict
        ``mean`` share of each batch over the cells of all batches weighed alike, its quartiles over the cells in
        ``quartiles``; ``own``, the mean share of a cell's own batch (1 / B mixed, 1 apart); ``imbalance``, the mean
        over cells of the total variation distance from equal shares, over its largest possible value (0 mixed, 1
        apart).

    Raises
    ------
    InputError
        There is only one batch.
    """
    share_nb, names, code_n = neighbour_shares(indices, batch)
    size_b = np.bincount(code_n)
    even = 1 / len(names)
    distance_n = 0.5 * np.abs(share_nb - even).sum(axis=1) / (1 - even)
    # Each batch counts alike, or the larger one would decide.
    weight_n = 1 / (len(names) * size_b[code_n])
    quartiles_qb = np.quantile(share_nb, (0.25, 0.5, 0.75), axis=0)
    return {
        "mean": {str(name): float(weight_n @ share_nb[:, b]) for b, name in enumerate(names)},
        "quartiles": {str(name): [float(value) for value in quartiles_qb[:, b]] for b, name in enumerate(names)},
        "own": float(weight_n @ share_nb[np.arange(len(code_n)), code_n]),
        "imbalance": float(weight_n @ distance_n),
    }
