import random

import numpy as np
import pytest

from scmap_cli.errors import InputError, UsageError
from scmap_cli.metrics import graph as graphs
from scmap_cli.metrics.graph import cluster, knn, leiden, louvain, to_igraph


def blobs(n=150, groups=3, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    code = np.arange(n) % groups
    return rng.normal(scale=spread, size=(n, 5)) + 8 * np.eye(groups, 5)[code], code


def test_neighbours_equal_those_of_all_distances():
    emb, _ = blobs()
    index, distance = knn(emb, 7)
    full = np.sqrt(((emb[:, None] - emb[None]) ** 2).sum(axis=2))
    np.fill_diagonal(full, np.inf)
    np.testing.assert_array_equal(index, np.argsort(full, axis=1)[:, :7])
    np.testing.assert_allclose(distance, np.sort(full, axis=1)[:, :7])


@pytest.mark.parametrize("copies", [2, 4, 20])
def test_a_cell_is_never_its_own_neighbour_even_among_twins(copies):
    emb = np.repeat(np.random.default_rng(0).normal(size=(30, 4)), copies, axis=0)
    index, distance = knn(emb, 5)
    assert (index != np.arange(len(emb))[:, None]).all()
    assert (distance[:, : min(copies - 1, 5)] == 0).all()
    assert all(len(set(row)) == 5 for row in index.tolist())


def test_all_cells_at_one_place():
    index, distance = knn(np.zeros((12, 3)), 4)
    assert (index != np.arange(12)[:, None]).all()
    assert (distance == 0).all()


def test_more_neighbours_than_cells_and_too_few_cells():
    assert knn(np.eye(4), 30)[0].shape == (4, 3)
    with pytest.raises(InputError):
        knn(np.zeros((1, 2)), 3)
    with pytest.raises(InputError, match="not finite"):
        knn(np.array([[0.0], [np.nan], [1.0]]), 1)


@pytest.mark.slow
def test_many_cells_are_searched_approximately_seeded_and_nearly_exactly(monkeypatch):
    emb, _ = blobs(3000)
    emb[:40] = emb[0]
    exact, _ = knn(emb, 15)
    monkeypatch.setattr(graphs, "EXACT_CELLS", 1000)
    found, distance = knn(emb, 15, seed=1)
    again, _ = knn(emb, 15, seed=1)
    np.testing.assert_array_equal(found, again)
    assert (found != np.arange(3000)[:, None]).all()
    assert (np.diff(distance, axis=1) >= 0).all()
    assert np.mean([len(set(a) & set(b)) / 15 for a, b in zip(found[40:], exact[40:], strict=True)]) > 0.9


def test_edges_weigh_one_if_mutual_and_half_if_not():
    index = np.array([[1], [0], [1]])
    graph = to_igraph(index)
    weights = {tuple(sorted(edge.tuple)): edge["weight"] for edge in graph.es}
    assert weights == {(0, 1): 1.0, (1, 2): 0.5}


@pytest.mark.parametrize(("method", "backend"), [("leiden", "igraph"), ("leiden", "leidenalg"), ("louvain", "igraph")])
def test_clear_groups_are_found_and_seeds_decide(method, backend):
    emb, code = blobs()
    graph = to_igraph(knn(emb, 10)[0])
    found = cluster(graph, method, 0.3, 0, backend)
    assert len(set(zip(code, found, strict=True))) == 3
    noise = to_igraph(knn(np.random.default_rng(0).normal(size=(300, 8)), 10)[0])
    first, second, other = (cluster(noise, method, 2.0, seed, backend) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_resolution_raises_the_number_of_clusters():
    graph = to_igraph(knn(np.random.default_rng(0).normal(size=(300, 8)), 10)[0])
    for method in (leiden, louvain):
        assert method(graph, 0.1).max() < method(graph, 4.0).max()


def test_shared_random_state_is_left_alone():
    graph = to_igraph(knn(blobs()[0], 10)[0])
    random.seed(11)
    before, numpy_before = random.getstate(), np.random.get_state()[1].copy()
    for method in (leiden, louvain):
        method(graph, 1.0, seed=3)
    leiden(graph, 1.0, seed=3, backend="leidenalg")
    assert random.getstate() == before
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)


def test_igraph_uses_the_shared_generator_again_afterwards():
    import igraph

    leiden(to_igraph(knn(blobs()[0], 10)[0]), 1.0, seed=3)
    random.seed(1)
    first = igraph.Graph.Erdos_Renyi(n=30, m=40).get_edgelist()
    random.seed(1)
    assert igraph.Graph.Erdos_Renyi(n=30, m=40).get_edgelist() == first


def test_unknown_methods_are_usage_errors():
    graph = to_igraph(np.array([[1], [0]]))
    with pytest.raises(UsageError):
        cluster(graph, "kmeans")
    with pytest.raises(UsageError):
        leiden(graph, backend="other")
