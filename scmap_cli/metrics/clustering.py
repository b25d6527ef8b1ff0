"""How well an embedding agrees with known labels: clusterings over a grid, silhouette, and neighbours' labels.

One partition at one resolution says little, since the resolution can be chosen to please. So partitions are made over a
grid of neighbourhood sizes and resolutions, and two summaries are given: the best agreement over the grid, and the mean
agreement where the number of clusters is nearest to the number of labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scmap_cli.metrics.graph import cluster, knn, to_igraph

GRAPH_K = (15, 30)
"""Neighbours of the graphs that are clustered."""

RESOLUTIONS = tuple(float(r) for r in np.geomspace(0.1, 3.0, 15))
"""Resolutions tried on each graph."""

SILHOUETTE_CELLS = 10_000
"""Most cells a silhouette is computed on; its cost grows with their square."""

ACCURACY_K, ACCURACY_FOLDS = 15, 5


@dataclass(frozen=True)
class Partition:
    """One point of the grid: where it is, how many clusters, and its agreement with the labels."""

    k: int
    resolution: float
    clusters: int
    ari: float
    nmi: float


def sweep(
    indices: np.ndarray,
    labels: np.ndarray,
    *,
    k: Sequence[int] = GRAPH_K,
    resolutions: Sequence[float] = RESOLUTIONS,
    method: str = "leiden",
    backend: str = "igraph",
    seed: int = 0,
) -> list[Partition]:
    """Cluster over the grid and compare each partition with the labels.

    Parameters
    ----------
    indices
        (n, at least max(k)) neighbours, nearest first, from :func:`scmap_cli.metrics.graph.knn`.
    labels
        (n,) labels.
    k, resolutions
        The grid.
    method, backend
        As :func:`scmap_cli.metrics.graph.cluster`.
    seed
        Used afresh for every partition.

    Returns
    -------
    list of Partition
        For each k, each resolution. ARI is adjusted for chance (1 is equal, 0 is chance); NMI is divided by the mean
        of both entropies.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    code_n = np.unique(labels, return_inverse=True)[1]
    rows = []
    for neighbours in k:
        graph = to_igraph(indices[:, :neighbours])
        for resolution in resolutions:
            found_n = cluster(graph, method, resolution, seed, backend)
            ari = float(adjusted_rand_score(code_n, found_n))
            nmi = float(normalized_mutual_info_score(code_n, found_n))
            rows.append(Partition(int(neighbours), float(resolution), len(np.unique(found_n)), ari, nmi))
    return rows


def summarise(partitions: Sequence[Partition], n_labels: int) -> dict[str, Any]:
    """Best partitions by ARI and by NMI, and the mean over those with the number of clusters nearest to the labels'."""
    distance = [abs(one.clusters - n_labels) for one in partitions]
    matched = [one for one, d in zip(partitions, distance, strict=True) if d == min(distance)]
    return {
        "n_labels": n_labels,
        "best_ari": vars(max(partitions, key=lambda one: one.ari)).copy(),
        "best_nmi": vars(max(partitions, key=lambda one: one.nmi)).copy(),
        "matched": {
            "ari": float(np.mean([one.ari for one in matched])),
            "nmi": float(np.mean([one.nmi for one in matched])),
            "clusters": float(np.mean([one.clusters for one in matched])),
            "partitions": len(matched),
        },
    }


def silhouette(emb_nz: np.ndarray, labels: np.ndarray, seed: int = 0) -> float | None:
    """Mean silhouette of labels or clusters, -1 to 1, Euclidean, on at most :data:`SILHOUETTE_CELLS` seeded cells.

    None where it is not defined: a single label among the cells, or one for each.
    """
    from sklearn.metrics import silhouette_score

    emb_nz = np.asarray(emb_nz, dtype=np.float64)
    size = min(SILHOUETTE_CELLS, len(emb_nz))
    try:
        return float(silhouette_score(emb_nz, labels, sample_size=size, random_state=seed))
    except ValueError:
        return None


def knn_accuracy(emb_nz: np.ndarray, labels: np.ndarray, seed: int = 0) -> float | None:
    """Share of cells whose label the majority of 15 neighbours tells, mean of 5 stratified folds.

    None where folds cannot be made: no label has 5 cells, or fewer than 15 cells would be left to learn from.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    n, largest = len(labels), int(np.unique(labels, return_counts=True)[1].max())
    if largest < ACCURACY_FOLDS or n - -(-n // ACCURACY_FOLDS) < ACCURACY_K:
        return None
    folds = StratifiedKFold(ACCURACY_FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A label with fewer cells than folds is simply absent from some of them.
        warnings.filterwarnings("ignore", message="The least populated class")
        scores = cross_val_score(
            KNeighborsClassifier(ACCURACY_K), np.asarray(emb_nz, dtype=np.float64), labels, cv=folds
        )
    return float(scores.mean())


def score(
    emb_nz: np.ndarray,
    labels: np.ndarray,
    *,
    k: Sequence[int] = GRAPH_K,
    resolutions: Sequence[float] = RESOLUTIONS,
    method: str = "leiden",
    backend: str = "igraph",
    seed: int = 0,
    indices: np.ndarray | None = None,
) -> dict[str, Any]:
    """All scores of this file as JSON values; ``indices`` spares the neighbour search where it was done already.

    ``silhouette`` is that of the labels, ``silhouette_clusters`` that of the first partition whose number of clusters
    is nearest to that of the labels: how well parted the clusters are that one would find.
    """
    if indices is None:
        indices, _ = knn(emb_nz, max(k), seed)
    partitions = sweep(indices, labels, k=k, resolutions=resolutions, method=method, backend=backend, seed=seed)
    n_labels = len(np.unique(labels))
    # Clusters are not kept: those of one partition are as soon made again.
    near = min(partitions, key=lambda one: abs(one.clusters - n_labels))
    found_n = cluster(to_igraph(indices[:, : near.k]), method, near.resolution, seed, backend)
    return {
        **summarise(partitions, n_labels),
        "silhouette": silhouette(emb_nz, labels, seed),
        "silhouette_clusters": silhouette(emb_nz, found_n, seed),
        "knn_accuracy": knn_accuracy(emb_nz, labels, seed),
        "partitions": [vars(one) for one in partitions],
    }
