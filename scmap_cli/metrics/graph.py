"""Neighbour graphs of an embedding and their communities."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy import sparse

from scmap_cli.errors import InputError, UsageError

EXACT_CELLS = 50_000
"""Up to this many cells neighbours are exact; beyond, pynndescent finds nearly all, which depend on its threads too."""

METHODS = ("leiden", "louvain")
"""Community methods."""

BACKENDS = ("igraph", "leidenalg")
"""Implementations of Leiden; igraph's own is about ten times faster."""

# Two rounds are what scanpy recommends for igraph's Leiden; more change little.
_LEIDEN_ROUNDS = 2


def knn(emb_nz: np.ndarray | sparse.csr_matrix, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest other cells of every cell by Euclidean distance.

    A cell is never its own neighbour, also where several cells are at the very same place.

    Parameters
    ----------
    emb_nz
        (n, z) finite numbers, or CSR.
    k
        Neighbours wanted; less where there are not that many other cells.
    seed
        Used beyond :data:`EXACT_CELLS` cells.

    Returns
    -------
    indices, distances
        (n, k) int64 and float64, nearest first.

    Raises
    ------
    InputError
        Fewer than two cells, or values that are not finite.
    """
    n = emb_nz.shape[0]
    if n < 2:
        raise InputError(f"neighbours need at least two cells, not {n}")
    if not np.isfinite(emb_nz.data if sparse.issparse(emb_nz) else emb_nz).all():
        raise InputError("the embedding holds values that are not finite", "leave those cells out")
    k = min(k, n - 1)
    if n <= EXACT_CELLS:
        from sklearn.neighbors import NearestNeighbors

        emb_nz = emb_nz.astype(np.float64, copy=False)
        distance, index = NearestNeighbors(n_neighbors=k + 1).fit(emb_nz).kneighbors(emb_nz)
    else:
        from pynndescent import NNDescent

        found = NNDescent(emb_nz.astype(np.float32, copy=False), n_neighbors=k + 1, random_state=seed)
        index, distance = found.neighbor_graph
    own = index == np.arange(n)[:, None]
    # Among more than k twins a cell may not find itself; then its farthest neighbour makes room.
    own[~own.any(axis=1), -1] = True
    shape = (n, k)
    return index[~own].reshape(shape).astype(np.int64), distance[~own].reshape(shape).astype(np.float64)


def to_igraph(indices: np.ndarray) -> Any:
    """Undirected igraph graph of (n, k) neighbour indices: an edge weighs 1 if mutual, 0.5 if one-sided."""
    import igraph

    n, k = indices.shape
    rows = np.repeat(np.arange(n), k)
    directed = sparse.csr_matrix((np.full(n * k, 0.5), (rows, indices.ravel())), shape=(n, n))
    upper = sparse.triu(directed + directed.T, k=1).tocoo()
    graph = igraph.Graph(n=n, edges=np.column_stack([upper.row, upper.col]).tolist())
    graph.es["weight"] = upper.data.tolist()
    return graph


@contextmanager
def _igraph_seed(seed: int) -> Iterator[None]:
    """Let igraph draw from a seeded generator in the block, and from Python's shared one, its default, after."""
    import igraph

    igraph.set_random_number_generator(random.Random(seed))
    try:
        yield
    finally:
        igraph.set_random_number_generator(random)


def leiden(graph: Any, resolution: float = 1.0, seed: int = 0, backend: str = "igraph") -> np.ndarray:
    """Leiden communities by modularity, two rounds.

    Parameters
    ----------
    graph
        From :func:`to_igraph`.
    resolution
        Higher gives more communities.
    seed
        Same seed, same result; no shared random state is touched.
    backend
        One of :data:`BACKENDS`.

    Returns
    -------
    ndarray
        (n,) int64 community of each cell, from 0.
    """
    if backend not in BACKENDS:
        raise UsageError(f"unknown Leiden backend {backend!r}", f"known ones: {', '.join(BACKENDS)}")
    weights = graph.es["weight"]
    if backend == "leidenalg":
        import leidenalg

        found = leidenalg.find_partition(
            graph,
            leidenalg.RBConfigurationVertexPartition,
            weights=weights,
            resolution_parameter=float(resolution),
            n_iterations=_LEIDEN_ROUNDS,
            seed=seed,
        )
        return np.asarray(found.membership, dtype=np.int64)
    with _igraph_seed(seed):
        found = graph.community_leiden(
            objective_function="modularity",
            weights=weights,
            resolution=float(resolution),
            n_iterations=_LEIDEN_ROUNDS,
        )
    return np.asarray(found.membership, dtype=np.int64)


def louvain(graph: Any, resolution: float = 1.0, seed: int = 0) -> np.ndarray:
    """Louvain communities by igraph's multilevel method; parameters and result as :func:`leiden`."""
    with _igraph_seed(seed):
        found = graph.community_multilevel(weights=graph.es["weight"], resolution=float(resolution))
    return np.asarray(found.membership, dtype=np.int64)


def cluster(
    graph: Any, method: str = "leiden", resolution: float = 1.0, seed: int = 0, backend: str = "igraph"
) -> np.ndarray:
    """Communities by either method, see :func:`leiden` and :func:`louvain`."""
    if method not in METHODS:
        raise UsageError(f"unknown cluster method {method!r}", f"known ones: {', '.join(METHODS)}")
    return louvain(graph, resolution, seed) if method == "louvain" else leiden(graph, resolution, seed, backend)
