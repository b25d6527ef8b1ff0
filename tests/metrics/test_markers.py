"""Scores of marker genes against scikit-learn and the paper's equations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn import metrics as theirs
from sklearn.linear_model import LinearRegression

from scmap_cli.data.splits import TEST, TRAIN, VALID, three_way_split
from scmap_cli.metrics import markers, reconstruction


def draw(seed=0, n=300, classes=5):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    return truth, np.where(rng.random(n) < 0.7, truth, rng.integers(0, classes, n))


def test_scores_are_scikit_learns():
    truth, predicted = draw()
    confusion = markers.confusion(truth, predicted, 5)
    np.testing.assert_array_equal(confusion, theirs.confusion_matrix(truth, predicted))
    overall = markers.overall_scores(confusion)
    assert overall["accuracy"] == pytest.approx(theirs.accuracy_score(truth, predicted))
    assert overall["macro_f1"] == pytest.approx(theirs.f1_score(truth, predicted, average="macro"))
    assert overall["weighted_f1"] == pytest.approx(theirs.f1_score(truth, predicted, average="weighted"))
    precision = theirs.precision_score(truth, predicted, average=None)
    np.testing.assert_allclose(markers.class_scores(confusion)["misclassification"], 1 - precision)
    assert overall["misclassification"] == pytest.approx(1 - precision.mean())


def test_classes_never_predicted_and_classes_without_cells():
    confusion = np.array([[4, 1, 0, 0], [2, 3, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    each = markers.class_scores(confusion)
    assert (each["misclassification"][2], each["f1"][2], each["recall"][2]) == (1.0, 0.0, 0.0)
    assert np.isnan([each["misclassification"][3], each["f1"][3], each["recall"][3]]).all()
    assert markers.overall_scores(confusion)["misclassification"] == pytest.approx((3 / 7 + 2 / 5 + 1) / 3)


@pytest.mark.parametrize("classifier", markers.CLASSIFIERS)
def test_classifiers_tell_classes_apart(classifier):
    rng = np.random.default_rng(0)
    codes = np.arange(200) % 3
    x = rng.normal(size=(200, 4)) + 6 * np.eye(3, 4)[codes]
    one = markers.predict(x[:100], codes[:100], x[100:], classifier, 1)
    assert (one == codes[100:]).mean() > 0.97
    assert np.array_equal(one, markers.predict(x[:100], codes[:100], x[100:], classifier, 1))


def test_few_training_cells_are_enough_for_neighbours():
    assert markers.predict(np.eye(3), np.arange(3), np.eye(3), "knn", 0).shape == (3,)


def test_label_noise_is_uniform_over_all_classes():
    codes = np.zeros(4000, dtype=np.int64)
    noisy = markers.mislabel(codes, 4, 0.5, [1, 2])
    assert np.array_equal(noisy, markers.mislabel(codes, 4, 0.5, [1, 2]))
    # A fourth of the 2,000 cells drawn anew get their own class again.
    assert abs((noisy != 0).mean() - 0.375) < 0.02
    assert np.array_equal(markers.mislabel(codes, 4, 0.0, 0), codes)
    assert not codes.any()


def test_splits_are_stratified_and_seeded():
    codes = np.repeat([0, 1, 2], [100, 40, 4])
    part = three_way_split(codes, 3, 0)
    counts = [[(part[codes == code] == kind).sum() for kind in (TRAIN, VALID, TEST)] for code in range(3)]
    assert counts == [[70, 10, 20], [28, 4, 8], [2, 1, 1]]
    assert np.array_equal(part, three_way_split(codes, 3, 0))
    others = [three_way_split(codes, 4, 0), three_way_split(codes, 3, 1)]
    assert not any(np.array_equal(part, other) for other in others)


def rebuilt(seed=0, n=60, g=25):
    rng = np.random.default_rng(seed)
    original = rng.normal(size=(n, g)) * rng.gamma(2, 1, g)
    return original, original + rng.normal(size=(n, g))


def test_reconstruction_scores_are_the_papers_equations():
    x, y = rebuilt()
    found = reconstruction.reconstruction_scores(x, y)
    assert found["mse"] == pytest.approx(((x - y) ** 2).mean())
    assert found["mae"] == pytest.approx(np.abs(x - y).mean())
    assert found["l2"] == pytest.approx(np.mean([np.linalg.norm(a - b) for a, b in zip(x, y, strict=True)]))
    assert found["l1"] == pytest.approx(np.mean([np.abs(a - b).sum() for a, b in zip(x, y, strict=True)]))
    assert found["spearman"] == pytest.approx(spearmanr(x.var(axis=0), y.var(axis=0)).statistic)
    top = [set(np.argsort(v.var(axis=0))[-5:]) for v in (x, y)]
    assert found["jaccard"] == pytest.approx(len(top[0] & top[1]) / len(top[0] | top[1]))


def test_a_perfect_reconstruction():
    x, _ = rebuilt()
    assert reconstruction.reconstruction_scores(x, x) == pytest.approx(
        {"mse": 0, "mae": 0, "jaccard": 1, "spearman": 1, "l2": 0, "l1": 0}
    )


def test_undefined_scores_are_none():
    found = reconstruction.reconstruction_scores(np.zeros((3, 4)), np.zeros((3, 4)))
    assert found["jaccard"] is None
    assert found["spearman"] is None
    assert found["mse"] == 0


def test_scores_of_types_are_those_of_their_cells():
    x, y = rebuilt()
    types = np.array(["b", "a", "a"] * 20)
    found = reconstruction.by_type(x, y, types)
    assert list(found) == ["a", "b"]
    assert found["a"] == {"cells": 40, **reconstruction.reconstruction_scores(x[types == "a"], y[types == "a"])}


def test_linear_map_is_ordinary_least_squares():
    rng = np.random.default_rng(0)
    everything = rng.normal(size=(50, 9))
    unseen = rng.normal(size=(8, 3))
    theirs_map = LinearRegression().fit(everything[:, :3], everything)
    np.testing.assert_allclose(
        reconstruction.linear_map(everything[:, :3], everything, unseen), theirs_map.predict(unseen), atol=1e-10
    )


def test_linear_map_of_collinear_genes():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 2))
    everything = np.column_stack([x, x[:, 0] - x[:, 1]])
    found = reconstruction.linear_map(everything, everything, everything[:5])
    np.testing.assert_allclose(found, everything[:5], atol=1e-10)
