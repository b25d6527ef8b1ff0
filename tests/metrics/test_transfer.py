"""Label transfer: votes by hand, unknown cells, novelty, and exact against approximate neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from scmap_cli.errors import InputError
from scmap_cli.metrics import transfer
from scmap_cli.metrics.transfer import (
    decoder_space,
    discriminant_space,
    leading_components,
    nearest_in,
    transfer_labels,
)

RNG = np.random.default_rng(0)
CENTRES = np.array([[0.0, 0, 0], [10, 0, 0], [0, 10, 0]])


def cloud(n: int, centre: int, spread: float = 1.0) -> np.ndarray:
    return CENTRES[centre] + spread * RNG.normal(size=(n, 3))


REFERENCE = np.concatenate([cloud(60, i) for i in range(3)])
LABELS = np.repeat(["a", "b", "c"], 60)


def test_labels_of_separate_clouds_are_carried_over() -> None:
    query = np.concatenate([cloud(20, i) for i in (2, 0)])
    found = transfer_labels(REFERENCE, LABELS, query)
    assert found.labels.tolist() == ["c"] * 20 + ["a"] * 20
    np.testing.assert_allclose(found.confidence, 1)
    np.testing.assert_allclose(found.entropy, 0, atol=1e-12)
    np.testing.assert_allclose(found.probability.sum(1), 1)
    assert found.names == ["a", "b", "c"]


def test_votes_weigh_by_distance() -> None:
    reference = np.array([[0.0], [1.0], [3.0]])
    found = transfer_labels(reference, np.array(["x", "y", "y"]), np.array([[0.25]]), k=3)
    d = np.array([0.25, 0.75, 2.75])
    w = np.exp(-0.5 * d**2 / (d**2).mean())
    assert found.probability[0, 0] == pytest.approx(w[0] / w.sum())
    assert found.best[0] == "y"
    p = found.probability[0]
    assert found.entropy[0] == pytest.approx(-(p * np.log(p)).sum() / np.log(2))


def test_a_cell_between_labels_is_unknown() -> None:
    middle = np.array([[10 / 3, 10 / 3, 0]])
    found = transfer_labels(REFERENCE, LABELS, middle, k=180, threshold=0.6)
    assert found.labels[0] == "unknown"
    assert found.best[0] in "abc"
    assert found.entropy[0] > 0.9
    assert transfer_labels(REFERENCE, LABELS, middle, k=180, threshold=0.0).labels[0] in "abc"


def test_novelty_tells_cells_that_the_reference_lacks() -> None:
    like, unlike = cloud(50, 1), np.full((10, 3), 30.0)
    found = transfer_labels(REFERENCE, LABELS, np.concatenate([like, unlike]))
    assert 0.3 < found.novelty[:50].mean() < 0.7
    assert (found.novelty[50:] == 1).all()


def test_cells_on_top_of_each_other_are_no_trouble() -> None:
    found = transfer_labels(np.zeros((5, 2)), np.array(list("aaabb")), np.zeros((2, 2)), k=5)
    np.testing.assert_allclose(found.confidence, 0.6)


def test_unlabelled_reference_cells_do_not_vote() -> None:
    labels = np.where(np.arange(180) % 2, LABELS, "")
    assert set(transfer_labels(REFERENCE, labels, cloud(5, 0)).labels) == {"a"}
    with pytest.raises(InputError, match="has a label"):
        transfer_labels(REFERENCE, np.full(180, ""), cloud(5, 0))


def test_embeddings_must_be_finite() -> None:
    bad = cloud(5, 0)
    bad[2, 1] = np.nan
    with pytest.raises(InputError, match="query"):
        transfer_labels(REFERENCE, LABELS, bad)


@pytest.mark.slow
def test_approximate_neighbours_are_nearly_the_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, query = RNG.normal(size=(2000, 8)), RNG.normal(size=(100, 8))
    exact, distance = nearest_in(reference, query, 15)
    brute = np.linalg.norm(query[:, None] - reference[None], axis=2)
    np.testing.assert_allclose(np.sort(brute, 1)[:, :15], distance)
    monkeypatch.setattr(transfer, "EXACT_REFERENCE", 100)
    near, _ = nearest_in(reference, query, 15)
    shared = np.mean([len(set(a) & set(b)) / 15 for a, b in zip(exact, near, strict=True)])
    assert shared > 0.9


def test_distances_in_the_decoder_space_are_those_of_what_it_decodes() -> None:
    z, w = RNG.normal(size=(30, 5)), RNG.normal(size=(40, 5))
    w[:, 3] = 0
    logits = z @ w.T
    logits -= logits.mean(1, keepdims=True)
    found = decoder_space(z, w)
    for i, j in ((0, 1), (4, 9)):
        assert np.linalg.norm(found[i] - found[j]) == pytest.approx(np.linalg.norm(logits[i] - logits[j]))


def test_leading_components_are_those_of_the_reference() -> None:
    reference, query = RNG.normal(size=(60, 6)) * [9, 7, 5, 1, 1, 1], RNG.normal(size=(8, 6))
    first, second = leading_components(reference, query, 3)
    centre = reference.mean(0)
    axes = np.linalg.svd(reference - centre)[2][:3]
    for found, values in ((first, reference), (second, query)):
        np.testing.assert_allclose(np.abs(found), np.abs((values - centre) @ axes.T))
    assert leading_components(reference, query, 6)[0] is reference


def test_the_discriminant_space_goes_by_labels_and_not_by_what_varies_most() -> None:
    n = 150
    labels = np.repeat(["a", "b", "c"], n)
    # the first two dimensions tell the labels apart, the third is a response that every cell may show
    reference = np.concatenate([cloud(n, i, 1.0) * [0.3, 0.3, 12.0] for i in range(3)])
    query = np.concatenate([cloud(60, i, 1.0) * [0.3, 0.3, 12.0] for i in range(3)])
    query[:, 2] += 30.0
    truth = np.repeat(["a", "b", "c"], 60)
    plain = (transfer_labels(reference, labels, query).best == truth).mean()
    found = discriminant_space(reference, labels, query)
    assert found[0].shape == (3 * n, 2)
    assert plain < 0.9
    assert (transfer_labels(found[0], labels, found[1]).best == truth).mean() > 0.97
    # the covariance within labels is one of unit width, up to the shrinkage
    within = found[0] - np.stack([found[0][labels == name].mean(0) for name in labels])
    np.testing.assert_allclose(np.cov(within.T), np.eye(2), atol=0.1)


def test_the_discriminant_space_leaves_out_what_says_nothing() -> None:
    labels = LABELS.astype(object)
    labels[[0, 60]] = "", "alone"
    still = np.c_[REFERENCE, np.zeros(len(REFERENCE))]
    found, query = discriminant_space(still, labels, still[:4])
    kept = np.setdiff1d(np.arange(len(still)), [0, 60])
    fewer, _ = discriminant_space(REFERENCE[kept], LABELS[kept], REFERENCE[:1])
    np.testing.assert_allclose(np.abs(found[kept] - found[kept[0]]), np.abs(fewer - fewer[0]), atol=1e-6)
    assert query.shape == (4, 2)
    assert discriminant_space(still, np.full(180, "a"), still[:4]) is None


def test_without_a_spread_within_labels_there_are_no_discriminant_directions() -> None:
    pairs, values = np.repeat(["a", "b"], 2), RNG.normal(size=(4, 9))
    assert discriminant_space(values, pairs, values[:1]) is None
    twins = np.repeat(CENTRES, 5, axis=0)
    assert discriminant_space(twins, np.repeat(["a", "b", "c"], 5), twins[:1]) is None
    # one label of three cells is enough
    assert discriminant_space(REFERENCE[58:63], np.array(list("aabbb")), REFERENCE[:1])[0].shape == (5, 1)
