"""Mutual information against closed forms, and batch shares in arrangements whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from scmap_cli.errors import InputError
from scmap_cli.metrics.invariance import batch_shares, mutual_information, shuffled_within


def test_information_of_gaussians():
    """-log(1 - r^2) / 2 nats for correlation r, nothing for independent ones."""
    rng = np.random.default_rng(0)
    depth = rng.normal(size=4000)
    r = np.array([0.0, 0.5, 0.9])
    emb = depth[:, None] * r + np.sqrt(1 - r**2) * rng.normal(size=(4000, 3))
    found = mutual_information(emb, depth, seed=1)
    np.testing.assert_allclose(found["by_dimension"], -0.5 * np.log(1 - r**2), atol=0.04)
    assert found["max"] == max(found["by_dimension"])
    assert found["mean"] == pytest.approx(np.mean(found["by_dimension"]))
    assert found["cells"] == 4000
    # A monotonous change of scale of the depth changes nothing but the estimate's noise.
    np.testing.assert_allclose(
        mutual_information(emb, np.exp(depth), seed=1)["by_dimension"], found["by_dimension"], atol=0.1
    )


def test_information_of_batches():
    """log 2 for two batches apart, none for mixed ones; three quarters apart by a known mixture."""
    rng = np.random.default_rng(0)
    batch = np.array(["a", "b"])[np.arange(3000) % 2]
    emb = np.column_stack([(batch == "b") * 100 + rng.normal(size=3000), rng.normal(size=3000)])
    found = mutual_information(emb, batch, discrete=True)["by_dimension"]
    np.testing.assert_allclose(found, [np.log(2), 0], atol=0.03)


def test_samples_and_seeds():
    rng = np.random.default_rng(0)
    emb, depth = rng.normal(size=(500, 2)), rng.normal(size=500)
    assert mutual_information(emb, depth, seed=3) == mutual_information(emb, depth, seed=3)
    assert mutual_information(emb, depth, cells=100)["cells"] == 100
    with pytest.raises(InputError, match="3 cells"):
        mutual_information(emb[:3], depth[:3])


def test_shares_of_mixed_and_separate_batches():
    batch = np.repeat(["a", "b"], [300, 100])
    apart = np.where(batch[:, None] == "a", np.arange(20), 300 + np.arange(20))
    found = batch_shares(apart, batch)
    assert (found["own"], found["imbalance"]) == pytest.approx((1.0, 1.0))
    assert found["mean"] == pytest.approx({"a": 0.5, "b": 0.5})
    # Neighbours in the proportion of the batches are perfectly mixed, whatever the sizes.
    mixed = np.tile(np.concatenate([np.arange(15), 300 + np.arange(5)]), (400, 1))
    found = batch_shares(mixed, batch)
    assert found["own"] == pytest.approx(0.5)
    assert found["imbalance"] == pytest.approx(0)
    assert found["quartiles"]["b"] == pytest.approx([0.5, 0.5, 0.5])


def test_shares_against_a_plain_loop():
    rng = np.random.default_rng(2)
    batch = rng.choice(["x", "y", "z"], 90, p=[0.6, 0.3, 0.1])
    indices = rng.integers(90, size=(90, 12))
    names, size = np.unique(batch, return_counts=True)
    shares = []
    for row in indices:
        raw = np.array([np.sum(batch[row] == name) / 12 for name in names]) / size
        shares.append(raw / raw.sum())
    shares = np.array(shares)
    mean = np.mean([shares[batch == name].mean(0) for name in names], axis=0)
    found = batch_shares(indices, batch)
    np.testing.assert_allclose(list(found["mean"].values()), mean)
    own = np.mean([shares[batch == name, b].mean() for b, name in enumerate(names)])
    assert found["own"] == pytest.approx(own)
    with pytest.raises(InputError, match="at least two"):
        batch_shares(indices, np.full(90, "x"))


def test_shuffling_within_labels_keeps_what_the_labels_tell():
    """A type's mean depth stays known, a cell's own depth does not: -log(1 - r^2) / 2 with and without it."""
    rng = np.random.default_rng(0)
    label = rng.integers(40, size=4000)
    of_type, own = rng.normal(size=40)[label], rng.normal(size=4000)
    depth = of_type + own
    dealt = shuffled_within(depth, label, seed=2)
    for name in range(40):
        np.testing.assert_array_equal(np.sort(dealt[label == name]), np.sort(depth[label == name]))
    assert np.corrcoef(dealt, own)[0, 1] == pytest.approx(0, abs=0.05)
    emb = np.column_stack([of_type, own]) + 0.3 * rng.normal(size=(4000, 2))
    before, after = (np.array(mutual_information(emb, value)["by_dimension"]) for value in (depth, dealt))
    assert after[0] == pytest.approx(before[0], abs=0.05)
    assert before.min() > 0.2
    assert after[1] == pytest.approx(0, abs=0.04)
    np.testing.assert_array_equal(shuffled_within(depth, label, seed=2), dealt)
    # With a label of its own every cell keeps its value.
    np.testing.assert_array_equal(shuffled_within(depth, np.arange(4000).astype(str)), depth)
