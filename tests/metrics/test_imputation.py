"""Dice scores against plain loops, thresholds against all there are, and blocks that change nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scmap_cli.metrics.imputation import best_threshold, dice, dice_imputed, dice_raw, means_by_profile


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    opened = rng.random((3, 40)) < 0.3
    types = rng.integers(3, size=25)
    values = np.where(opened[types], rng.beta(4, 3, (25, 40)), rng.beta(2, 6, (25, 40))).astype(np.float32)
    return opened, types, values


def in_blocks(values, rows):
    return lambda: (values[start : start + rows] for start in range(0, len(values), rows))


def plain(binary, profile):
    tp, fp, fn = (binary & profile).sum(), (binary & ~profile).sum(), (~binary & profile).sum()
    return 2 * tp / (2 * tp + fp + fn)


@pytest.mark.parametrize("rows", [1, 7, 100])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_scores_equal_plain_loops(case, rows, kind):
    opened, types, values = case
    values = values.astype(kind)
    means = (np.linspace(0.1, 0.6, 40), np.linspace(0.2, 0.5, 25))
    found = dice_imputed(in_blocks(values, rows), opened, types, thresholds=(0.3, 0.5), best=0.375, means=means)
    for n, t in enumerate(types):
        x, b = values[n].astype(np.float64), opened[t]
        assert found["soft"][n] == pytest.approx(2 * x[b].sum() / (x.sum() + b.sum()))
        assert found["> 0.3"][n] == plain(x > 0.3, b)
        assert found["> 0.5"][n] == plain(x > 0.5, b)
        assert found["cell"][n] == plain(x > x.mean(), b)
        assert found["scale"][n] == plain((x > means[0]) & (x > means[1][n]), b)
        assert found["best"][n] == plain(values[n].astype(np.float32) >= 0.375, b)
    assert list(found) == ["soft", "> 0.3", "> 0.5", "cell", "scale", "best"]


def test_raw_counts_are_binary(case):
    opened, types, _ = case
    counts = np.random.default_rng(1).poisson(0.4, (25, 40))
    found = dice_raw(sparse.csr_matrix(counts), opened, types)
    assert found == pytest.approx([plain(row > 0, opened[t]) for row, t in zip(counts, types, strict=True)])


def test_no_threshold_beats_the_best(case):
    opened, types, values = case
    profile = opened[types]
    values = values.astype(np.float16).astype(np.float32)
    threshold, f1 = best_threshold(in_blocks(values, 4), opened, types)
    every = [plain(values >= value, profile) for value in np.unique(values)]
    assert f1 == pytest.approx(max(every))
    assert plain(values >= threshold, profile) == pytest.approx(f1)


def test_values_of_any_range_and_below_zero(case):
    opened, types, values = case
    threshold, f1 = best_threshold(in_blocks(values, 9), opened, types)
    scaled = best_threshold(in_blocks(values * 1024, 9), opened, types)
    assert scaled == pytest.approx((threshold * 1024, f1))
    signed = np.where(values < 0.05, -1.0, values)
    assert best_threshold(in_blocks(signed, 9), opened, types)[1] == pytest.approx(f1)
    soft = dice_imputed(in_blocks(signed, 9), opened, types)["soft"]
    assert soft == pytest.approx(dice_imputed(in_blocks(np.maximum(signed, 0), 9), opened, types)["soft"])


def test_perfect_and_empty():
    opened = np.array([[True, False, True]])
    types = np.zeros(2, dtype=int)
    values = np.array([[1.0, 0, 1], [0, 0, 0]])
    assert dice_imputed(in_blocks(values, 2), opened, types)["soft"].tolist() == [1, 0]
    assert dice(np.zeros(1), np.zeros(1), np.zeros(1)).tolist() == [0]


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_means_by_profile_are_those_of_a_plain_loop(case, rows):
    opened, types, values = case
    opened = opened.copy()
    opened[:, :4] = True
    types = np.where(types == 1, 2, types)
    found = means_by_profile(in_blocks(values, rows), opened, types)
    own = opened & (opened.sum(axis=0) <= 1)
    for cells in (0, 2):
        for peaks in range(3):
            expected = values[types == cells][:, own[peaks]].mean()
            assert found[cells, peaks] == pytest.approx(expected, rel=1e-5)
    assert np.isnan(found[1]).all()
