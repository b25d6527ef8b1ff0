"""The nine scores by which the expiMap paper judges an integration, five of batch removal and four of cell identity.

Lotfollahi et al. 2023 (doi:10.1038/s41556-022-01072-x) take them from scIB (Luecken et al. 2022,
doi:10.1038/s41592-021-01336-8). All are scaled so that 1 is good::

    pcr                  1 - Var(post | batch) / Var(pre | batch), at least 0; Var(. | batch) is the share of variance
                         that lies between batches, which is principal component regression on all components
    batch_asw            1 - |silhouette of batches| within each label, mean of the labels' means
    kbet                 share of neighbourhoods within each label that pass the test, see metrics/kbet.py
    graph_connectivity   share of each label's cells in its largest component of the neighbour graph, mean over labels
    ilisi, clisi         median of the local inverse Simpson's index, scaled, see metrics/lisi.py
    nmi, ari             of the clustering with the best NMI over a grid of resolutions
    label_asw            (silhouette of labels + 1) / 2

``overall`` is the mean of the nine, as in the paper; ``overall_weighted`` is scIB's .4 of the mean of the five and .6
of that of the four. LISI is that of Euclidean neighbours, as in scib-metrics; scIB's own walks the graph. Components
are the strong ones of the directed graph, as in scib-metrics; scIB's, of the undirected graph, are given besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from scmap_cli.metrics import clustering
from scmap_cli.metrics.graph import knn
from scmap_cli.metrics.invariance import batch_shares
from scmap_cli.metrics.kbet import GRAPH_NEIGHBOURS, connectivities, kbet_by_label
from scmap_cli.metrics.lisi import LISI_NEIGHBOURS, clisi, ilisi, lisi
from scmap_cli.metrics.mixing import NEIGHBOURS, batch_entropy, neighbour_shares

BATCH_SCORES = ("pcr", "batch_asw", "kbet", "graph_connectivity", "ilisi")
"""Scores of batch removal."""

LABEL_SCORES = ("clisi", "nmi", "ari", "label_asw")
"""Scores of what is kept of the labels."""

SCORES = (*BATCH_SCORES, *LABEL_SCORES)
"""The nine."""

OVERALLS = ("overall", "overall_weighted", "batch_removal", "label_conservation")
"""Means of them."""

RESOLUTIONS = tuple(round(0.2 * step, 1) for step in range(1, 11))
"""Resolutions of the clusterings, scIB's."""

CLUSTER_NEIGHBOURS = 15
"""Neighbours of the graph for clusters and connectivity, the cell itself counted for the latter, as in scIB."""

SILHOUETTE_CELLS = 30_000
"""Most cells that a silhouette is computed on; beyond, a seeded sample of so many."""

_BATCH_WEIGHT = 0.4


def variance_between(emb_nz: np.ndarray | sp.csr_matrix, batch: np.ndarray) -> float:
    """Share of the variance of an embedding that lies between batches, 0 to 1.

    The mean R2 of the principal components on the batches, weighed by their variances, is the same for any rotation of
    the axes, so the components themselves are not needed.
    """
    names, code_n = np.unique(batch, return_inverse=True)
    size_b = np.bincount(code_n).astype(np.float64)
    member_bn = sp.csr_matrix((np.ones(len(code_n)), (code_n, np.arange(len(code_n)))), shape=(len(names), len(code_n)))
    emb_nz = emb_nz.astype(np.float64)
    mean_bz = np.asarray((member_bn @ emb_nz).todense() if sp.issparse(emb_nz) else member_bn @ emb_nz)
    mean_bz = mean_bz / size_b[:, None]
    mean_z = size_b @ mean_bz / len(code_n)
    between = float((size_b[:, None] * (mean_bz - mean_z) ** 2).sum())
    if sp.issparse(emb_nz):
        total = float((emb_nz.data**2).sum() - len(code_n) * (mean_z**2).sum())
    else:
        total = float(((emb_nz - mean_z) ** 2).sum())
    return between / total if total > 0 else 0.0


def pcr_comparison(before: float, after: float) -> float:
    """Share of the variance between batches that an integration has removed, 0 where it has added some."""
    return max(0.0, (before - after) / before) if before > 0 else 0.0


def silhouettes(emb_nz: np.ndarray | sp.csr_matrix, groups: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Silhouette of each cell, and which cells those are: all, or a seeded sample of :data:`SILHOUETTE_CELLS`.

    The groups must be at least two and fewer than the cells.
    """
    from sklearn.metrics import silhouette_samples
    from threadpoolctl import threadpool_limits

    cells = np.arange(emb_nz.shape[0])
    if len(cells) > SILHOUETTE_CELLS:
        cells = np.sort(np.random.default_rng(seed).choice(len(cells), SILHOUETTE_CELLS, replace=False))
    codes = np.unique(groups[cells], return_inverse=True)[1]
    with threadpool_limits(1, user_api="blas"):
        return np.asarray(silhouette_samples(emb_nz[cells].astype(np.float64), codes)), cells


def label_asw(emb_nz: np.ndarray | sp.csr_matrix, labels: np.ndarray, seed: int = 0) -> float:
    """Mean silhouette of the labels, scaled to 0 to 1."""
    return float((silhouettes(emb_nz, labels, seed)[0].mean() + 1) / 2)


def batch_asw(
    emb_nz: np.ndarray | sp.csr_matrix, batch: np.ndarray, labels: np.ndarray, seed: int = 0
) -> dict[str, Any]:
    """1 - |silhouette of the batches| within each label: ``score``, the mean over labels, and ``by_label``.

    A label of one batch, or with as many batches as cells, has None and does not count.
    """
    scores: dict[str, float | None] = {}
    for label in np.unique(labels):
        cells = np.flatnonzero(labels == label)
        count = len(np.unique(batch[cells]))
        found = 1 < count < len(cells)
        values = silhouettes(emb_nz[cells], batch[cells], seed)[0] if found else None
        scores[str(label)] = None if values is None else float((1 - np.abs(values)).mean())
    known = [score for score in scores.values() if score is not None]
    return {"score": float(np.mean(known)) if known else None, "by_label": scores}


def graph_connectivity(
    indices: np.ndarray, labels: np.ndarray, connection: Literal["strong", "weak"] = "strong"
) -> float:
    """Mean over labels of the share of cells in the label's largest component.

    Parameters
    ----------
    indices
        (n, k) neighbours of each cell.
    labels
        (n,) labels.
    connection
        ``strong`` components of the directed graph, or ``weak`` ones, which are those of the undirected graph.
    """
    n, k = indices.shape
    graph = sp.csr_matrix((np.ones(n * k, dtype=np.int8), indices.ravel(), np.arange(n + 1) * k), shape=(n, n))
    shares = []
    for label in np.unique(labels):
        cells = np.flatnonzero(labels == label)
        part = connected_components(graph[cells][:, cells], directed=True, connection=connection)[1]
        shares.append(np.bincount(part).max() / len(cells))
    return float(np.mean(shares))


def overall(scores: Mapping[str, float | None]) -> dict[str, float | None]:
    """Means of the nine scores; None where one that they need is not defined."""

    def mean(names: Sequence[str]) -> float | None:
        values = [scores[name] for name in names]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if len(known) == len(values) else None

    batch, label = mean(BATCH_SCORES), mean(LABEL_SCORES)
    weighted = None if batch is None or label is None else _BATCH_WEIGHT * batch + (1 - _BATCH_WEIGHT) * label
    return {
        "overall": mean(SCORES),
        "overall_weighted": weighted,
        "batch_removal": batch,
        "label_conservation": label,
    }


def score(
    emb_nz: np.ndarray | sp.csr_matrix,
    batch: np.ndarray,
    labels: np.ndarray,
    *,
    between_before: float | None = None,
    resolutions: Sequence[float] = RESOLUTIONS,
    method: str = "leiden",
    backend: str = "igraph",
    seed: int = 0,
) -> dict[str, Any]:
    """The nine scores of an embedding, their means, and what lies behind them, as JSON values.

    Parameters
    ----------
    emb_nz
        (n, z) embedding; finite.
    batch, labels
        (n,) text; at least two of each.
    between_before
        :func:`variance_between` batches before the integration; without it ``pcr`` is None, and so are means with it.
    resolutions, method, backend
        Clusterings, as :func:`scmap_cli.metrics.clustering.sweep`.
    seed
        For clusterings, and for samples of very many cells.

    Raises
    ------
    InputError
        Fewer cells than the neighbourhoods of :mod:`scmap_cli.metrics.lisi` hold.
    """
    indices, distances = knn(emb_nz, LISI_NEIGHBOURS - 1, seed)
    n_batches, n_labels = len(np.unique(batch)), len(np.unique(labels))
    perplexity = LISI_NEIGHBOURS // 3
    between = variance_between(emb_nz, batch)
    asw = batch_asw(emb_nz, batch, labels, seed)
    width = GRAPH_NEIGHBOURS - 1
    kbet = kbet_by_label(connectivities(indices[:, :width], distances[:, :width]), batch, labels)
    partitions = clustering.sweep(
        indices, labels, k=[CLUSTER_NEIGHBOURS], resolutions=resolutions, method=method, backend=backend, seed=seed
    )
    summary = clustering.summarise(partitions, n_labels)
    close = indices[:, : CLUSTER_NEIGHBOURS - 1]
    scores: dict[str, float | None] = {
        "pcr": None if between_before is None else pcr_comparison(between_before, between),
        "batch_asw": asw["score"],
        "kbet": kbet["score"],
        "graph_connectivity": graph_connectivity(close, labels),
        "ilisi": ilisi(lisi(indices, distances, batch, perplexity), n_batches),
        "clisi": clisi(lisi(indices, distances, labels, perplexity), n_labels),
        "nmi": summary["best_nmi"]["nmi"],
        "ari": summary["best_nmi"]["ari"],
        "label_asw": label_asw(emb_nz, labels, seed),
    }
    return {
        "scores": scores | overall(scores),
        "details": {
            "variance_between_batches": between,
            "variance_between_batches_before": between_before,
            "graph_connectivity_undirected": graph_connectivity(close, labels, "weak"),
            "batch_asw_by_label": asw["by_label"],
            "kbet_by_label": kbet["by_label"],
            "best_nmi": summary["best_nmi"],
            "matched": summary["matched"],
            "partitions": [vars(one) for one in partitions],
            "mixing": batch_entropy(indices[:, :NEIGHBOURS], batch),
            "batch_shares": batch_shares(indices[:, :NEIGHBOURS], batch) | share_histogram(indices, batch),
        },
    }


def share_histogram(indices: np.ndarray, batch: np.ndarray, bins: int = 20) -> dict[str, Any]:
    """How the share of each batch among 50 neighbours is distributed over the cells of every batch.

    Shares are divided by the numbers of cells and scaled to sum to 1, as in
    :func:`scmap_cli.metrics.invariance.batch_shares`; in a mixed embedding they lie about 1 / B.

    Returns
    -------
    dict
        ``edges`` of the bins, and ``histogram``: for each batch, shares of all cells in each bin.
    """
    share_nb, names, _ = neighbour_shares(indices[:, :NEIGHBOURS], batch)
    edges = np.linspace(0, 1, bins + 1)
    counts = {str(name): np.histogram(share_nb[:, b], edges)[0] / len(share_nb) for b, name in enumerate(names)}
    return {
        "edges": [round(float(edge), 6) for edge in edges],
        "histogram": {name: [float(value) for value in values] for name, values in counts.items()},
    }
