"""The nine scores: closed forms, definitions against dense computations, and agreement with other implementations."""

from __future__ import annotations

import os
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from scmap_cli.data.decomposition import lsi, pca
from scmap_cli.errors import InputError
from scmap_cli.metrics import integration, kbet
from scmap_cli.metrics.graph import knn
from scmap_cli.metrics.lisi import lisi


def cells(n=400, mixed=True, seed=0):
    """Three types in two batches; without ``mixed`` the batches lie apart within each type."""
    rng = np.random.default_rng(seed)
    types, batch = np.arange(n) % 3, rng.integers(0, 2, n)
    emb = rng.normal(size=(n, 6)) + 12 * np.eye(3, 6)[types] + (0 if mixed else 30) * batch[:, None] * np.eye(6)[5]
    return emb, batch.astype(str), np.array(["a", "b", "c"])[types]


def test_variance_between_batches_is_principal_component_regression():
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 3, 200).astype(str)
    emb = rng.normal(size=(200, 8)) * np.arange(1, 9) + (batch == "1")[:, None]
    model = PCA().fit(emb)
    scores, hot = model.transform(emb), (batch[:, None] == np.unique(batch)).astype(float)
    r2 = [LinearRegression().fit(hot, column).score(hot, column) for column in scores.T]
    expected = np.average(r2, weights=model.explained_variance_)
    assert integration.variance_between(emb, batch) == pytest.approx(expected, abs=1e-12)
    kept = emb * (emb > 1)
    dense = integration.variance_between(kept, batch)
    assert integration.variance_between(sparse.csr_matrix(kept), batch) == pytest.approx(dense, abs=1e-12)


@pytest.mark.parametrize(("before", "after", "score"), [(0.5, 0.1, 0.8), (0.2, 0.4, 0.0), (0.0, 0.1, 0.0)])
def test_pcr_is_the_share_removed(before, after, score):
    assert integration.pcr_comparison(before, after) == pytest.approx(score)


def test_mixed_batches_score_high_and_separate_ones_low():
    for mixed in (True, False):
        emb, batch, labels = cells(mixed=mixed)
        found = integration.score(emb, batch, labels, between_before=0.5)["scores"]
        batch_scores = [found[name] for name in ("kbet", "ilisi", "batch_asw")]
        assert (min(batch_scores) > 0.8) if mixed else (max(batch_scores) < 0.35)
        assert found["nmi"] > 0.75
        assert found["clisi"] == pytest.approx(1)
        nine = [found[name] for name in integration.SCORES]
        assert found["overall"] == pytest.approx(np.mean(nine))
        assert found["overall_weighted"] == pytest.approx(0.4 * np.mean(nine[:5]) + 0.6 * np.mean(nine[5:]))


def test_a_rotation_a_shift_and_an_order_change_nothing():
    emb, batch, labels = cells(mixed=False)
    rng = np.random.default_rng(1)
    turn, order = np.linalg.qr(rng.normal(size=(6, 6)))[0], rng.permutation(len(emb))
    one = integration.score(emb, batch, labels, between_before=0.4)["scores"]
    other = integration.score(emb[order] @ turn + 3, batch[order], labels[order], between_before=0.4)["scores"]
    same = [name for name in integration.SCORES if name not in ("nmi", "ari")]
    assert {name: other[name] for name in same} == pytest.approx({name: one[name] for name in same}, abs=1e-6)


def test_lisi_of_equal_distances_is_the_inverse_simpson_index():
    indices, distances = np.tile(np.arange(1, 61), (2, 1)), np.ones((2, 60))
    batch = np.array(["x"] * 31 + ["y"] * 30)
    assert lisi(indices, distances, batch, 20) == pytest.approx(2.0)
    with pytest.raises(InputError, match="perplexity"):
        lisi(indices[:, :20], distances[:, :20], batch, 20)


def test_lisi_weights_have_the_perplexity_asked_for():
    rng = np.random.default_rng(0)
    emb, labels = rng.normal(size=(150, 4)), np.arange(150)
    indices, distances = knn(emb, 89)
    # With every cell of its own kind the index is 1 over the sum of squared weights, found here by a plain search.
    found = lisi(indices, distances, labels, 30)
    for cell in (0, 70):
        low, high = 1e-3, 1e2
        for _ in range(200):
            beta = np.sqrt(low * high)
            weight = np.exp(-beta * distances[cell])
            weight /= weight.sum()
            if -(weight * np.log(weight)).sum() > np.log(30):
                low = beta
            else:
                high = beta
        assert found[cell] == pytest.approx(1 / (weight**2).sum(), rel=1e-4)


def test_graph_connectivity_of_a_label_in_two_pieces():
    emb = np.concatenate([np.zeros((20, 1)), np.full((10, 1), 100.0), np.full((30, 1), 200.0)])
    emb += np.random.default_rng(0).normal(size=emb.shape)
    labels = np.array(["split"] * 30 + ["whole"] * 30)
    indices, _ = knn(emb, 9)
    assert integration.graph_connectivity(indices, labels, "weak") == pytest.approx((20 / 30 + 1) / 2)
    assert integration.graph_connectivity(indices, labels) <= (20 / 30 + 1) / 2


def test_umap_weights_are_those_of_umap():
    # As Python, which here takes less time than their compilation.
    from umap.umap_ import compute_membership_strengths, smooth_knn_dist

    emb = np.random.default_rng(0).normal(size=(200, 4))
    emb[:20] = emb[0]
    indices, distances = knn(emb, 14)
    own = np.arange(len(emb))[:, None]
    near = np.hstack([own, indices]), np.hstack([np.zeros((len(emb), 1)), distances]).astype(np.float32)
    widths, nearest = smooth_knn_dist.py_func(near[1], 15.0)
    row, column, weight, _ = compute_membership_strengths.py_func(*near, widths, nearest)
    directed = sparse.csr_matrix((weight, (row, column)), shape=(len(emb), len(emb)))
    theirs = directed + directed.T - directed.multiply(directed.T)
    assert abs(kbet.connectivities(indices, distances) - theirs).max() < 1e-5


def test_diffusion_map_gives_diffusion_distances():
    emb = np.random.default_rng(0).normal(size=(60, 3))
    indices, distances = knn(emb, 20)
    graph = kbet.connectivities(indices, distances)
    dense = graph.toarray()
    kernel = dense / np.outer(dense.sum(axis=0), dense.sum(axis=0))
    root = np.sqrt(kernel.sum(axis=0))
    values, vectors = np.linalg.eigh(kernel / np.outer(root, root))
    # The sum over all numbers of steps of the part of the walk that has not come to rest.
    steps = vectors[:, :-1] * (values[:-1] / (1 - values[:-1]))
    expected = cdist(np.column_stack([steps, vectors[:, -1]]), np.column_stack([steps, vectors[:, -1]]))
    found = kbet.diffusion_map(graph)
    assert cdist(found, found) == pytest.approx(expected, abs=1e-4)


def test_eigenvectors_by_arnoldi_are_those_of_the_dense_solver(monkeypatch):
    emb = np.random.default_rng(0).normal(size=(300, 3))
    graph = kbet.connectivities(*knn(emb, 20))
    dense = kbet.diffusion_map(graph, 20)
    monkeypatch.setattr(kbet, "_DENSE_CELLS", 10)
    found = kbet.diffusion_map(graph, 20)
    assert cdist(found, found) == pytest.approx(cdist(dense, dense), abs=1e-6)


def test_kbet_leaves_out_labels_it_cannot_judge():
    emb, batch, labels = cells(240)
    batch = np.where(labels == "a", "0", batch)
    graph = kbet.connectivities(*knn(emb, 49))
    found = kbet.kbet_by_label(graph, batch, labels)
    assert found["by_label"]["a"] is None
    assert found["score"] == pytest.approx(np.mean([found["by_label"]["b"], found["by_label"]["c"]]))
    assert kbet.kbet_by_label(graph, np.full(240, "0"), labels)["score"] is None


def test_kbet_accepts_about_as_many_as_its_level_says():
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 2, 4000)
    drawn = np.stack([rng.choice(4000, 50, replace=False) for _ in range(4000)])
    assert kbet.accepted(drawn, batch).mean() == pytest.approx(0.95, abs=0.02)


def test_batch_shares_make_a_histogram_of_all_cells():
    emb, batch, _ = cells()
    found = integration.share_histogram(knn(emb, 60)[0], batch)
    assert len(found["edges"]) == 21
    for values in found["histogram"].values():
        assert sum(values) == pytest.approx(1)


def test_an_undefined_score_leaves_means_undefined():
    emb, batch, labels = cells()
    found = integration.score(emb, batch, labels)["scores"]
    assert found["pcr"] is None
    assert found["overall"] is None
    assert found["batch_removal"] is None
    assert found["label_conservation"] is not None


DATA = Path(os.environ.get("SCMAP_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
SETS = {
    "rna/kang_harmony_labelled.h5ad": ("condition", pca),
    "atac/granja2019_hemato600.h5ad": ("batch", lsi),
    "rna/pbmc_multistudy.h5ad": ("batch", pca),
}


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data")
@pytest.mark.parametrize("name", list(SETS))
def test_scores_are_those_of_scib_metrics_and_sklearn(name):
    pytest.importorskip("scib_metrics", reason="needs the extra package scib-metrics")
    import jax

    jax.config.update("jax_enable_x64", True)
    import scib_metrics
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.metrics import silhouette_score

    key, decompose = SETS[name]
    adata = anndata.read_h5ad(DATA / name)
    rows = np.random.default_rng(0).permutation(adata.n_obs)[:1500]
    adata = adata[rows]
    counts = sparse.csr_matrix(adata.X).astype(np.float64)
    batch, labels = (adata.obs[one].astype(str).to_numpy() for one in (key, "cell_type"))
    before = decompose(counts, 20)
    means = np.stack([before[batch == one].mean(axis=0) for one in np.unique(batch)])
    emb = before - 0.7 * means[np.unique(batch, return_inverse=True)[1]]
    found = integration.score(emb, batch, labels, between_before=integration.variance_between(before, batch))["scores"]
    indices, distances = knn(emb, 89)
    own = np.arange(len(emb))[:, None]
    near = NeighborsResults(
        indices=np.hstack([own, indices]), distances=np.hstack([np.zeros((len(emb), 1)), distances])
    )
    theirs = {
        "pcr": scib_metrics.pcr_comparison(before, emb, batch, categorical=True),
        "batch_asw": scib_metrics.silhouette_batch(emb, labels, batch),
        "graph_connectivity": scib_metrics.graph_connectivity(near.subset_neighbors(15), labels),
        "ilisi": scib_metrics.ilisi_knn(near, batch),
        "clisi": scib_metrics.clisi_knn(near, labels),
        "label_asw": scib_metrics.silhouette_label(emb, labels),
    }
    assert {name: found[name] for name in theirs} == pytest.approx(theirs, abs=1e-6)
    assert found["label_asw"] == pytest.approx((silhouette_score(emb, labels) + 1) / 2, abs=1e-12)
    around = near.subset_neighbors(50)
    assert kbet.accepted(around.indices, batch).mean() == pytest.approx(scib_metrics.kbet(around, batch)[0], abs=1e-6)
    # One label at a time, as a small label there lowers the number of eigenvectors of the labels after it. Neighbours
    # in diffusion space come from a random search there; where it finds all, the shares are equal.
    graph = kbet.connectivities(around.indices[:, 1:], around.distances[:, 1:])
    ours = kbet.kbet_by_label(graph, batch, labels)
    assert found["kbet"] == pytest.approx(ours["score"])
    for label in [label for label, share in ours["by_label"].items() if share is not None][:4]:
        inside = labels == label
        alone = scib_metrics.kbet_per_label(around, np.where(inside, batch, batch[0]), np.where(inside, "a", "b"))
        assert ours["by_label"][label] == pytest.approx(alone, abs=0.015)
