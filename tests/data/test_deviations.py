"""Deviations equal a dense float64 reference by the formulas, in any blocks; background peaks are alike and seeded."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scmap_cli.data import deviations as module
from scmap_cli.data.deviations import background_peaks, deviations


def made(n: int = 40, p: int = 120, k: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, matches and GC content; the last cell has no count."""
    rng = np.random.default_rng(seed)
    gc = rng.beta(8, 8, p)
    mean = rng.lognormal(-1, 0.7, p)
    x = rng.poisson(rng.lognormal(0, 0.5, n)[:, None] * mean)
    x[0] += 1
    x[-1] = 0
    match = (rng.random((p, k)) < 0.15).astype(float)
    match[3, :] = 1
    return x, match, gc


def by_formulas(x: np.ndarray, match: np.ndarray, background: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As the paper's methods say it, one motif and one draw at a time."""
    share, depth = x.sum(0) / x.sum(), x.sum(1)

    def raw(peaks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        expected = depth * share[peaks].sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            return (x[:, peaks].sum(1) - expected) / expected, expected

    z, corrected, expected = (np.zeros((len(x), match.shape[1])) for _ in range(3))
    for k in range(match.shape[1]):
        peaks = np.flatnonzero(match[:, k])
        observed, expected[:, k] = raw(peaks)
        drawn = np.stack([raw(background[peaks, i])[0] for i in range(background.shape[1])])
        corrected[:, k] = observed - drawn.mean(0)
        z[:, k] = corrected[:, k] / drawn.std(0, ddof=1)
    return z, corrected, expected


@pytest.mark.parametrize("rows", [1 << 23, 60, 1])
@pytest.mark.parametrize("threads", [1, 3])
def test_they_equal_the_dense_formulas(rows: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", rows)
    x, match, gc = made()
    background = background_peaks(x.sum(0), gc, draws=20, seed=4)
    z, corrected, expected = by_formulas(x, match, background)
    counts, sets = sparse.csr_matrix(x.astype(np.int32)), sparse.csc_matrix(match)
    found_z, found, below = deviations(counts, sets, background, least=0.0, threads=threads)
    assert found_z.dtype == found.dtype == np.float32
    np.testing.assert_allclose(found[:-1], corrected[:-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found_z[:-1], z[:-1], rtol=1e-5, atol=1e-6)
    assert not found_z[-1].any()
    assert below.tolist() == [1] * 6
    limit = float(np.median(expected))
    cut_z, cut, below = deviations(counts, sets, background, least=limit, threads=threads)
    np.testing.assert_array_equal(below, (expected < limit).sum(0))
    np.testing.assert_array_equal(cut_z, np.where(expected >= limit, found_z, 0))
    np.testing.assert_array_equal(cut, np.where(expected >= limit, found, 0))


def test_a_background_without_spread_gives_no_scores() -> None:
    x, match, _ = made()
    itself = np.tile(np.arange(x.shape[1])[:, None], (1, 5))
    z, corrected, _ = deviations(sparse.csr_matrix(x), sparse.csc_matrix(match), itself, least=0.0)
    np.testing.assert_allclose(corrected, 0, atol=1e-6)
    assert not z.any()


def test_background_peaks_are_alike_seeded_and_change_with_the_width() -> None:
    rng = np.random.default_rng(1)
    gc, total = rng.beta(8, 8, 4000), np.ceil(rng.lognormal(4, 1, 4000))
    drawn = background_peaks(total, gc, seed=3)
    assert drawn.shape == (4000, 50)
    np.testing.assert_array_equal(drawn, background_peaks(total, gc, seed=3))
    assert (drawn != background_peaks(total, gc, seed=4)).any()
    for values in (gc, np.log10(total)):
        gap = np.abs(values[drawn] - values[:, None]).mean() / values.std()
        wide = np.abs(values[background_peaks(total, gc, width=1.0)] - values[:, None]).mean() / values.std()
        assert gap < 0.25 < 0.5 < wide
    # Few peaks are their own background, and no peak is that of most others.
    assert (drawn == np.arange(4000)[:, None]).mean() < 0.2
    assert np.bincount(drawn.ravel(), minlength=4000).max() < 50 * 40


def test_background_peaks_are_drawn_with_the_density_of_the_distance() -> None:
    """Two heaps of peaks, a known distance apart: the odds of the farther one, whatever their sizes."""
    gc = np.array([0.4] * 300 + [0.6] * 100)
    total = np.full(400, 50.0)
    apart = 0.2 / gc.std(ddof=1)
    drawn = background_peaks(total, gc, draws=200, width=apart, seed=0)
    odds = np.exp(-0.5)
    for group, other in ((slice(0, 300), gc == 0.6), (slice(300, 400), gc == 0.4)):
        assert other[drawn[group]].mean() == pytest.approx(odds / (1 + odds), abs=0.01)


@pytest.mark.parametrize("same", ["gc", "total", "both"])
def test_a_property_that_all_peaks_share_is_not_matched_on(same: str) -> None:
    rng = np.random.default_rng(2)
    gc = np.full(500, 0.5) if same != "total" else rng.beta(8, 8, 500)
    total = np.full(500, 7.0) if same != "gc" else np.ceil(rng.lognormal(4, 1, 500))
    drawn = background_peaks(total, gc, seed=0)
    assert drawn.min() >= 0
    assert drawn.max() < 500
    values = {"gc": np.log10(total), "total": gc}.get(same)
    if values is not None:
        assert np.abs(values[drawn] - values[:, None]).mean() < 0.3 * values.std()
    else:
        assert len(np.unique(drawn)) > 450
