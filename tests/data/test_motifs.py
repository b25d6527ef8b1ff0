"""Thresholds equal the count of all sites, the scan equals plain loops over both strands, for any number of threads."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from scmap_cli.data.motifs import (
    EVEN,
    UNITS,
    frequencies_of,
    gc_content,
    log_odds,
    match_motifs,
    score_threshold,
)


def motif(length: int, seed: int, sites: int = 20) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.multinomial(sites, rng.dirichlet([0.3] * 4)) for _ in range(length)]).astype(float)


def sequences(seed: int = 0) -> list[np.ndarray]:
    """Of many lengths, shorter than a motif too, with unknown bases in some."""
    rng = np.random.default_rng(seed)
    made = [rng.choice(4, size, p=[0.3, 0.2, 0.1, 0.4]).astype(np.uint8) for size in (0, 3, 8, 30, *[60] * 60)]
    for code in made[10::3]:
        code[rng.integers(len(code), size=3)] = 4
    return made


def by_loops(code: np.ndarray, score: np.ndarray, limit: int) -> bool:
    for i in range(len(code) - len(score) + 1):
        site = code[i : i + len(score)]
        if (site < 4).all():
            forward = sum(score[j, site[j]] for j in range(len(score)))
            backward = sum(score[j, 3 - site[::-1][j]] for j in range(len(score)))
            if max(forward, backward) >= limit:
                return True
    return False


def test_log_odds_are_those_of_the_formula() -> None:
    counts, background = motif(6, 1), np.array([0.3, 0.2, 0.2, 0.3])
    expected = np.log((counts + 0.8 * background) / (20 + 0.8) / background)
    np.testing.assert_allclose(log_odds(counts, background, 0.8) / UNITS, expected, atol=0.5 / UNITS + 1e-12)


@pytest.mark.parametrize("background", [EVEN, np.array([0.3, 0.2, 0.2, 0.3])])
@pytest.mark.parametrize("p_value", [0.2, 1e-2, 1e-3, 4.0**-6])
def test_the_threshold_is_that_of_all_sites_counted(p_value: float, background: np.ndarray) -> None:
    score = log_odds(motif(6, 3), background, 0.8)
    sites = np.array(list(product(range(4), repeat=6)))
    total = score[np.arange(6), sites].sum(1)
    chance = background[sites].prod(1)
    found, rare = score_threshold(score, background, p_value)
    assert rare
    assert chance[total >= found].sum() <= p_value * (1 + 1e-6)
    lower = total[total < found].max()
    assert chance[total >= lower].sum() > p_value


def test_of_a_motif_too_short_for_the_p_value_the_best_sites_match() -> None:
    counts = np.zeros((4, 4))
    counts[:, 0] = 50
    counts[3, 1] = 50
    score = log_odds(counts, EVEN, 0.8)
    best = score.max(1).sum()
    assert score_threshold(score, EVEN, 1e-3) == (best, False)
    assert score_threshold(score, EVEN, 2 * 4.0**-4)[1]
    codes = [np.array(code, dtype=np.uint8) for code in ([0, 0, 0, 0], [0, 0, 0, 1], [2, 3, 3, 3], [0, 0, 0, 2])]
    found, limit, rare = match_motifs(codes, [counts, counts], EVEN, p_value=1e-3)
    assert found.toarray().tolist() == [[1, 1], [1, 1], [1, 1], [0, 0]]
    assert limit.tolist() == [best / UNITS] * 2
    assert not rare.any()


@pytest.mark.parametrize("length", [4, 6, 7, 8, 15])
def test_the_scan_equals_loops_over_both_strands(length: int) -> None:
    codes = sequences()
    background = frequencies_of(codes)
    motifs = [motif(length, seed) for seed in range(4)]
    found, limits, _ = match_motifs(codes, motifs, background, p_value=5e-3)
    for k, counts in enumerate(motifs):
        score = log_odds(counts, background, 0.8)
        limit, _ = score_threshold(score, background, 5e-3)
        assert limits[k] == limit / UNITS
        expected = [by_loops(code, score, limit) for code in codes]
        assert 0 < sum(expected) < len(codes)
        np.testing.assert_array_equal(found[:, k].toarray().ravel(), expected)
    again = match_motifs(codes, motifs, background, p_value=5e-3, threads=3)[0]
    assert (again != found).nnz == 0


def test_either_strand_gives_the_same_matches() -> None:
    codes = sequences(1)
    other = [np.where(code > 3, 4, 3 - np.minimum(code, 3))[::-1].astype(np.uint8) for code in codes]
    np.testing.assert_allclose(frequencies_of(codes), frequencies_of(other))
    motifs = [motif(9, seed) for seed in range(5)]
    one, two = (match_motifs(c, motifs, frequencies_of(c), p_value=1e-3)[0].toarray() for c in (codes, other))
    np.testing.assert_array_equal(one, two)
    assert one.any()


def test_frequencies_and_gc_content() -> None:
    codes = [np.array([0, 0, 1, 4], dtype=np.uint8), np.array([2, 2], dtype=np.uint8), np.array([4], dtype=np.uint8)]
    np.testing.assert_allclose(gc_content(codes), [1 / 3, 1, np.nan])
    # A and T 2 of 5, C and G 3 of 5, and one more of each base.
    np.testing.assert_allclose(frequencies_of(codes), np.array([3, 4, 4, 3]) / 14)
