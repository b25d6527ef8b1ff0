"""The k-nearest-neighbour batch-effect test (kBET), by label, as scIB has it.

Büttner et al. 2019 (doi:10.1038/s41592-018-0254-1): in a neighbourhood of a well mixed embedding, batches are found as
often as in all cells; a chi-squared test tells each neighbourhood where they are not. scIB (Luecken et al. 2022,
doi:10.1038/s41592-021-01336-8) tests the cells of one label at a time, by neighbours within the label's part of the
graph, and takes the mean share of accepted neighbourhoods over the labels.

Neighbours within a label follow from diffusion on UMAP's weights of 50 neighbours, by the maps of scib-metrics:
Euclidean distance between leading eigenvectors of the transition matrix, each times e / (1 - e). We differ from
scib-metrics 0.5.10 where it depends on luck or order: neighbours are exact and not from a random search; the start of
the eigensolver is fixed; the first eigenvalue is 1 by construction, and not what float32 leaves of it; parts of a
label that are not connected diffuse apart; a small label does not lower the number of eigenvectors for those after it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from scmap_cli.metrics.graph import knn

GRAPH_NEIGHBOURS = 50
"""Neighbours of the graph on which cells diffuse, the cell itself counted, as in scIB."""

ALPHA = 0.05
"""Level of the tests."""

_COMPONENTS = 100
_SMALLEST_LABEL, _SMALLEST_K, _LARGEST_K = 10, 10, 70
_USABLE_SHARE = 0.75
_DENSE_CELLS = 400
_STEPS, _TOLERANCE = 64, 1e-5


def accepted(indices: np.ndarray, batch: np.ndarray, alpha: float = ALPHA) -> np.ndarray:
    """Which neighbourhoods hold the batches in the shares that all cells have: (n,) bool.

    Parameters
    ----------
    indices
        (n, k) members of each neighbourhood, the cell itself counted.
    batch
        (n,) batch of each cell.
    alpha
        Level of the chi-squared tests.
    """
    from scipy.stats import chi2

    names, code_n = np.unique(batch, return_inverse=True)
    expected_b = np.bincount(code_n) / len(code_n) * indices.shape[1]
    around_nk = code_n[indices]
    found_nb = np.stack([(around_nk == b).sum(axis=1) for b in range(len(names))], axis=1)
    statistic_n = ((found_nb - expected_b) ** 2 / expected_b).sum(axis=1)
    return np.asarray(chi2.sf(statistic_n, len(names) - 1) >= alpha)


def connectivities(indices: np.ndarray, distances: np.ndarray) -> sp.csr_matrix:
    """UMAP's fuzzy weights of a neighbour graph, CSR (n, n), symmetric.

    Parameters
    ----------
    indices, distances
        (n, k) neighbours of each cell without itself, and how far they are; the cell itself is one more.
    """
    n, k = indices.shape
    # What is nearer than the nearest neighbour at another place counts in full.
    first_n = np.where(distances > 0, distances, np.inf).min(axis=1)
    first_n[np.isinf(first_n)] = 0.0
    beyond_nk = np.maximum(distances - first_n[:, None], 0.0)
    width_n = _widths(beyond_nk, np.log2(k + 1))
    # As in UMAP: no width is below a thousandth of the mean distance, in which the cell itself counts.
    mean_n = np.where(first_n > 0, distances.sum(axis=1), distances.sum() / n) / (k + 1)
    width_n = np.maximum(width_n, 1e-3 * mean_n)[:, None]
    ratio_nk = np.divide(beyond_nk, width_n, out=np.zeros_like(beyond_nk), where=width_n > 0)
    weight_nk = np.exp(-ratio_nk)
    directed = sp.csr_matrix((weight_nk.ravel(), indices.ravel(), np.arange(n + 1) * k), shape=(n, n))
    graph = sp.csr_matrix(directed + directed.T - directed.multiply(directed.T))
    graph.sort_indices()
    return graph


def _widths(beyond_nk: np.ndarray, wanted: float) -> np.ndarray:
    """Width of each cell's kernel, at which its weights sum to ``wanted``, by UMAP's bisection."""
    n = len(beyond_nk)
    width_n, low_n, high_n = np.ones(n), np.zeros(n), np.full(n, np.inf)
    for _ in range(_STEPS):
        excess_n = np.exp(-beyond_nk / width_n[:, None]).sum(axis=1) - wanted
        todo = np.abs(excess_n) >= _TOLERANCE
        if not todo.any():
            break
        above = todo & (excess_n > 0)
        below = todo & ~above
        high_n[above] = width_n[above]
        low_n[below] = width_n[below]
        middle_n = np.where(np.isinf(high_n), 2 * width_n, (low_n + np.where(np.isinf(high_n), 0, high_n)) / 2)
        width_n = np.where(todo, middle_n, width_n)
    return width_n


def diffusion_map(graph: sp.csr_matrix, components: int = _COMPONENTS) -> np.ndarray:
    """Coordinates whose Euclidean distances are diffusion distances over all numbers of steps, (n, components) float64.

    Parameters
    ----------
    graph
        (n, n) symmetric weights of one connected component.
    components
        Leading eigenvectors of the density-normalised transition matrix that are taken; fewer for few cells.
    """
    degree_n = np.asarray(graph.sum(axis=0)).ravel()
    kernel = sp.diags_array(1 / degree_n) @ graph @ sp.diags_array(1 / degree_n)
    root_n = 1 / np.sqrt(np.asarray(kernel.sum(axis=0)).ravel())
    transitions = sp.csr_matrix(sp.diags_array(root_n) @ kernel @ sp.diags_array(root_n)).astype(np.float64)
    n = graph.shape[0]
    components = min(components, n - 1)
    if n <= _DENSE_CELLS:
        values, vectors = np.linalg.eigh(transitions.toarray())
        largest = np.argsort(-np.abs(values), kind="stable")[:components]
        values, vectors = values[largest], vectors[:, largest]
    else:
        from scipy.sparse.linalg import eigsh

        values, vectors = eigsh(transitions, k=components, which="LM", v0=np.sqrt(degree_n))
    leading = int(np.argmax(values))
    scale = values / (1 - np.minimum(values, 1 - 1e-8))
    scale[leading] = 1.0
    return np.asarray(vectors * scale)


def kbet_by_label(graph: sp.csr_matrix, batch: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Share of accepted neighbourhoods within each label, and their mean.

    Parameters
    ----------
    graph
        From :func:`connectivities`.
    batch, labels
        (n,) batch and label of each cell.

    Returns
    -------
    dict
        ``score``, the mean over the labels (None where no label has two batches), and ``by_label``; a label of fewer
        than 10 cells or of one batch has None and does not count.
    """
    scores: dict[str, float | None] = {}
    for label in np.unique(labels):
        cells = np.flatnonzero(labels == label)
        enough = len(cells) >= _SMALLEST_LABEL and len(np.unique(batch[cells])) > 1
        scores[str(label)] = _one_label(sp.csr_matrix(graph[cells][:, cells]), batch[cells]) if enough else None
    known = [score for score in scores.values() if score is not None]
    return {"score": float(np.mean(known)) if known else None, "by_label": scores}


def _one_label(graph: sp.csr_matrix, batch: np.ndarray) -> float:
    sizes = np.unique(batch, return_counts=True)[1]
    k = int(np.clip(sizes.mean() // 4, _SMALLEST_K, _LARGEST_K))
    count, part_n = connected_components(graph, directed=False)
    # Diffusion cannot cross from one part to another; a label that falls apart into small ones is not mixed at all.
    smallest = 3 * k if count > 1 else k + 1
    parts = [cells for cells in (np.flatnonzero(part_n == part) for part in range(count)) if len(cells) >= smallest]
    usable = np.sort(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)
    if len(usable) < _USABLE_SHARE * len(batch):
        return 0.0
    around_nk = np.empty((len(batch), k + 1), dtype=np.int64)
    for cells in parts:
        indices, _ = knn(diffusion_map(sp.csr_matrix(graph[cells][:, cells])), k)
        around_nk[cells] = np.hstack([cells[:, None], cells[indices]])
    place = np.searchsorted(usable, around_nk[usable])
    return float(accepted(place, batch[usable]).mean())
