import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scmap_cli.metrics import clustering
from scmap_cli.metrics.clustering import Partition, knn_accuracy, score, silhouette, summarise, sweep
from scmap_cli.metrics.graph import cluster, knn, to_igraph


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    code = np.arange(240) % 4
    return rng.normal(size=(240, 6)) + 4 * np.eye(4, 6)[code], np.array(["a", "b", "c", "d"])[code]


def test_every_point_of_the_grid_equals_a_clustering_by_hand(data):
    emb, labels = data
    index, _ = knn(emb, 30)
    rows = sweep(index, labels, k=(10, 20), resolutions=(0.2, 1.5), seed=3)
    assert [(one.k, one.resolution) for one in rows] == [(10, 0.2), (10, 1.5), (20, 0.2), (20, 1.5)]
    for one in rows:
        found = cluster(to_igraph(knn(emb, one.k)[0]), "leiden", one.resolution, 3)
        assert one.ari == pytest.approx(adjusted_rand_score(labels, found))
        assert one.nmi == pytest.approx(normalized_mutual_info_score(labels, found))
        assert one.clusters == len(set(found))


def test_label_names_do_not_matter_and_seeds_repeat(data):
    emb, labels = data
    index, _ = knn(emb, 15)
    renamed = np.array([f"z{ord('z') - ord(name)}" for name in labels])
    one, two = (sweep(index, names, k=(15,), resolutions=(1.0, 2.0), seed=1) for names in (labels, renamed))
    assert [vars(x) for x in one] == [pytest.approx(vars(x)) for x in two]


def test_summary_takes_the_best_and_the_nearest_number_of_clusters():
    rows = [
        Partition(15, 0.1, 2, 0.9, 0.1),
        Partition(15, 0.2, 4, 0.2, 0.3),
        Partition(30, 0.3, 6, 0.4, 0.5),
        Partition(30, 0.4, 9, 0.1, 0.8),
    ]
    found = summarise(rows, 5)
    assert found["best_ari"]["resolution"] == 0.1
    assert found["best_nmi"]["resolution"] == 0.4
    assert found["matched"] == pytest.approx({"ari": 0.3, "nmi": 0.4, "clusters": 5.0, "partitions": 2})


def test_separated_groups_score_high_and_shuffled_labels_low(data):
    emb, labels = data
    good = score(emb, labels, resolutions=(0.3, 1.0))
    bad = score(emb, np.random.default_rng(0).permutation(labels), resolutions=(0.3, 1.0))
    assert good["matched"]["ari"] > 0.9 > 0.1 > bad["best_ari"]["ari"]
    assert good["knn_accuracy"] > 0.95 > 0.5 > bad["knn_accuracy"]
    assert good["silhouette"] > 0.2 > bad["silhouette"]
    # Of the clusters, which are the labels in one of them and have nothing to do with them in the other.
    assert good["silhouette_clusters"] == pytest.approx(good["silhouette"], abs=0.05)
    assert bad["silhouette_clusters"] > bad["silhouette"]


def test_silhouette_is_sampled_above_the_limit(data, monkeypatch):
    emb, labels = data
    full = silhouette(emb, labels)
    monkeypatch.setattr(clustering, "SILHOUETTE_CELLS", 100)
    assert silhouette(emb, labels, seed=1) == silhouette(emb, labels, seed=1) != full
    assert silhouette(emb, labels, seed=1) == pytest.approx(full, abs=0.1)


def test_scores_that_are_not_defined_are_none():
    emb = np.random.default_rng(0).normal(size=(30, 3))
    assert silhouette(emb, np.zeros(30)) is None
    assert silhouette(emb, np.arange(30)) is None
    assert knn_accuracy(emb, np.arange(30)) is None
    assert knn_accuracy(emb[:10], np.arange(10) % 2) is None


def test_rare_labels_are_no_obstacle(data):
    emb, labels = data
    labels = labels.copy()
    labels[:2] = "rare"
    assert 0.9 < knn_accuracy(emb, labels) < 1
