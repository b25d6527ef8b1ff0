"""Tasks on gene embeddings: what splits share, what negatives are, and that scores see what is there."""

from __future__ import annotations

import numpy as np
import pytest

from scmap_cli.metrics.genes import (
    Pairs,
    classify,
    corrected_reach,
    degree_features,
    draw_negatives,
    regress,
    score_pairs,
    split_pairs,
)


def pairs(n=2000, genes=200, seed=0):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(genes, size=(2, n))
    return Pairs(first, (second + (first == second)) % genes, rng.random(n) < 0.5)


def ends(some):
    return np.unique(np.concatenate([some.first, some.second]))


def test_a_random_split_leaves_out_a_fifth():
    train, test = split_pairs(pairs(), "random", 0)
    assert len(test) == 400
    assert sorted([*train, *test]) == list(range(2000))


def test_a_gene_disjoint_split_shares_no_gene():
    known = pairs()
    train, test = split_pairs(known, "gene-disjoint", 0)
    assert not set(ends(known.take(train))) & set(ends(known.take(test)))
    assert 0.1 < len(test) / (len(train) + len(test)) < 0.3


def test_drawn_negatives_are_new_and_of_the_same_degrees():
    rng = np.random.default_rng(0)
    first = rng.geometric(0.02, 4000) % 300
    second = rng.integers(300, 1000, 4000)
    rows = np.unique(np.stack([first, second], 1), axis=0)
    positive = Pairs(rows[:, 0], rows[:, 1], np.ones(len(rows), dtype=bool))
    both = draw_negatives(positive, np.random.default_rng(1))
    negative = both.take(np.flatnonzero(~both.related))
    assert len(negative) > 0.9 * len(positive)
    known = set(map(tuple, np.sort(rows, axis=1).tolist()))
    drawn = [tuple(sorted(pair)) for pair in zip(negative.first.tolist(), negative.second.tolist(), strict=True)]
    assert not known & set(drawn)
    assert len(set(drawn)) == len(drawn)
    assert (negative.first != negative.second).all()
    # Which gene comes first tells nothing.
    assert 0.45 < (negative.first < negative.second).mean() < 0.55
    left, right = (np.bincount(np.concatenate([p.first, p.second]), minlength=1000) for p in (positive, negative))
    assert np.corrcoef(left, right)[0, 1] > 0.95


def test_negatives_are_not_the_pairs_beside_them():
    """Of 30 genes there are few pairs, most of which are beside."""
    rows = np.stack(np.triu_indices(30, 1), 1)
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    ours, theirs = rows[:60], rows[60:350, ::-1]
    told = [Pairs(part[:, 0], part[:, 1], np.ones(len(part), dtype=bool)) for part in (ours, theirs)]
    both = draw_negatives(told[0], np.random.default_rng(1), told[1])
    negative = both.take(np.flatnonzero(~both.related))
    assert len(negative) > 20
    known = {tuple(sorted(pair)) for pair in rows[:350].tolist()}
    assert not known & {tuple(sorted(pair)) for pair in zip(negative.first, negative.second, strict=True)}


def test_degrees_are_of_the_training_pairs():
    train = Pairs(np.array([0, 0, 1]), np.array([1, 2, 2]), np.array([True, True, False]))
    found = degree_features(train, Pairs(np.array([0]), np.array([2]), np.array([True])), 3)
    assert found.tolist() == [[2, 0, 1, 1]]


def test_trees_find_what_is_in_the_vectors_and_not_what_is_not():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(200, 4))
    known = pairs()
    related = table[known.first, 0] * table[known.second, 0] > 0
    x = np.concatenate([table[known.first], table[known.second]], 1)
    told = score_pairs(x[:1500], related[:1500], x[1500:], related[1500:], 0)
    assert told["auc"] > 0.9
    noise = rng.normal(size=(2000, 8))
    assert abs(score_pairs(noise[:1500], related[:1500], noise[1500:], related[1500:], 0)["auc"] - 0.5) < 0.1


def test_regression_is_out_of_fold():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(300, 5))
    score = table @ rng.normal(size=5) + 0.1 * rng.normal(size=300)
    assert regress(table, score, 0)["pearson"] > 0.98
    # As many numbers as genes would fit anything that is not held out.
    assert abs(regress(rng.normal(size=(300, 200)), rng.normal(size=300), 0)["pearson"]) < 0.25


def test_the_interval_is_the_corrected_one():
    scores = np.random.default_rng(0).normal(0.8, 0.1, 25)
    # The quantile of Student's t with 24 degrees of freedom is 2.0639.
    expected = 2.0639 * scores.std(ddof=1) * np.sqrt(1 / 25 + 1 / 4)
    assert corrected_reach(scores.tolist(), 0.25) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_lists_have_an_interval():
    rng = np.random.default_rng(0)
    listed = rng.random(160) < 0.5
    found = classify(rng.normal(size=(160, 3)) + 1.2 * listed[:, None], listed, 0)
    low, high = found["interval"]
    assert low <= found["auc"] <= high
    assert found["auc"] > 0.8
    assert found["held_out_auc"] > 0.7
    few = classify(rng.normal(size=(60, 3)) + 2.5 * (np.arange(60) < 6)[:, None], np.arange(60) < 6, 0)
    assert 0 <= few["interval"][0] <= few["auc"] <= few["interval"][1] <= 1
    assert found["genes"] == [int(listed.sum()), int((~listed).sum())]
    assert classify(rng.normal(size=(160, 3)), listed, 0)["auc"] == pytest.approx(0.5, abs=0.15)
