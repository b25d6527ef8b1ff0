"""Weights of cells by depth: monotone, robust, of mean 1; reference rows: of length one, or refused."""

from __future__ import annotations

import numpy as np
import pytest

from scmap_cli.data.alignment import depth_weights, unit_rows
from scmap_cli.errors import InputError


def depths(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.lognormal(7, 0.5, n), rng.lognormal(8, 0.7, n)


@pytest.mark.parametrize("how", ["robust", "released"])
def test_weights_rise_with_the_ratio_and_have_mean_one(how: str) -> None:
    rna, atac = depths()
    has = np.arange(200) % 3 > 0
    weight = depth_weights(rna, atac, has, how)
    assert weight[has].mean() == pytest.approx(1)
    assert not weight[~has].any()
    assert weight.min() == 0
    order = np.argsort((rna / atac)[has])
    assert (np.diff(weight[has][order]) >= 0).all()


def test_released_is_the_min_max_of_the_log_ratio() -> None:
    rna, atac = depths()
    ratio = np.log(rna / atac)
    expected = (ratio - ratio.min()) / (ratio.max() - ratio.min())
    np.testing.assert_allclose(depth_weights(rna, atac, np.ones(200, bool), "released"), expected / expected.mean())


def test_one_outlier_moves_the_released_weights_and_not_the_robust_ones() -> None:
    rna, atac = depths()
    has = np.ones(200, bool)
    left = {}
    for how in ("robust", "released"):
        before = depth_weights(rna, atac, has, how)
        wild = rna.copy()
        wild[0] *= 1e-9
        left[how] = depth_weights(wild, atac, has, how)[1:].std() / before[1:].std()
    assert left["released"] < 0.5 < 0.95 < left["robust"] < 1.05


def test_depths_of_zero() -> None:
    rna, atac = depths()
    rna[3], atac[4] = 0, 0
    has = np.ones(200, bool)
    weight = depth_weights(rna, atac, has)
    assert np.isfinite(weight).all()
    assert weight[3] == 0
    assert weight[4] == weight.max()
    with pytest.raises(InputError, match="2 cells with RNA"):
        depth_weights(rna, atac, has, "released")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
@pytest.mark.parametrize("how", ["robust", "released"])
def test_a_depth_that_is_no_depth_is_refused_and_not_weighed(bad: float, how: str) -> None:
    rna, atac = depths()
    has = np.arange(200) != 7
    for name, column in (("RNA", rna), ("ATAC", atac)):
        kept = column[[5, 7]]
        column[7] = bad
        assert np.isfinite(depth_weights(rna, atac, has, how)).all()
        column[5] = bad
        with pytest.raises(InputError, match=f"1 cells with RNA have an {name} depth .* first cell 6"):
            depth_weights(rna, atac, has, how)
        np.testing.assert_array_equal(depth_weights(rna, atac, has, "none"), has)
        column[[5, 7]] = kept


def test_equal_ratios_and_no_weighting_give_ones() -> None:
    rna, _ = depths()
    has = np.arange(200) < 150
    for how in ("robust", "released"):
        np.testing.assert_allclose(depth_weights(rna, 2 * rna, has, how), has)
    np.testing.assert_array_equal(depth_weights(rna, rna**2, has, "none"), has)


def test_rows_have_length_one_and_cells_without_rna_zeros() -> None:
    values = np.random.default_rng(1).normal(size=(4, 3))
    values[2] = np.nan
    has = np.array([True, True, False, True])
    rows = unit_rows(values, has, np.array(list("abcd")), "it")
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(rows[0], values[0] / np.linalg.norm(values[0]), rtol=1e-6)


@pytest.mark.parametrize(("bad", "what"), [([np.nan, 1.0], "NaN"), ([np.inf, 1.0], "NaN or inf"), ([0, 0], "zeros")])
def test_unusable_rows_are_told(bad: list[float], what: str) -> None:
    values = np.array([[1.0, 2.0], bad, [3.0, 1.0]])
    with pytest.raises(InputError, match=rf"{what}.*for 1 cells with RNA, first 'b'"):
        unit_rows(values, np.ones(3, bool), np.array(list("abc")), "it")
