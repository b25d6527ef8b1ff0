"""Bayes factors against brute force over all pairs, closed forms and each other."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from scmap_cli.errors import InputError
from scmap_cli.metrics.bayes import bayes_factors

RNG = np.random.default_rng(0)


def posteriors(n: int, z: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    return RNG.normal(shift, 1, (n, z)).astype(np.float32), RNG.uniform(0.01, 1, (n, z)).astype(np.float32)


def brute(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    (ma, va), (mb, vb) = ((x.astype(np.float64) for x in side) for side in (a, b))
    return norm.cdf((ma[:, None] - mb[None]) / np.sqrt(va[:, None] + vb[None])).mean((0, 1))


@pytest.mark.parametrize("sizes", [(1, 1), (40, 30), (700, 300)])
def test_all_pairs_equal_brute_force(sizes: tuple[int, int]) -> None:
    a, b = posteriors(sizes[0], 5, 0.5), posteriors(sizes[1], 5)
    found, p = bayes_factors(*a, *b), brute(a, b)
    assert found.exact
    assert found.pairs == sizes[0] * sizes[1]
    np.testing.assert_allclose(found.p, p, rtol=1e-9)
    np.testing.assert_allclose(found.log_bf, np.log(p) - np.log1p(-p), rtol=1e-7, atol=1e-7)
    assert (found.se == 0).all()


def test_swapped_groups_give_the_opposite() -> None:
    a, b = posteriors(50, 4, 2.0), posteriors(60, 4)
    np.testing.assert_allclose(bayes_factors(*a, *b).log_bf, -bayes_factors(*b, *a).log_bf, rtol=1e-6)


@pytest.mark.parametrize("distance", [3.0, 12.0, 40.0, 1e3])
@pytest.mark.parametrize("sampled", [False, True])
def test_large_factors_do_not_saturate(distance: float, sampled: bool) -> None:
    """One distance for all pairs: log BF = log Phi(x) - log Phi(-x)."""
    mean_a, mean_b = np.full((300, 2), [distance, -distance]), np.zeros((200, 2))
    half = np.full((300, 2), 0.5)
    found = bayes_factors(mean_a, half, mean_b, half[:200], exact_pairs=0 if sampled else 10**6)
    expected = norm.logcdf(distance) - norm.logcdf(-distance)
    np.testing.assert_allclose(found.log_bf, [expected, -expected], rtol=1e-5)
    assert np.isfinite(found.log_bf).all()


def test_a_sample_is_within_its_standard_error() -> None:
    a, b = posteriors(900, 40, 0.7), posteriors(800, 40)
    exact = bayes_factors(*a, *b, exact_pairs=10**7)
    found = [bayes_factors(*a, *b, exact_pairs=0, sampled_pairs=4000, seed=seed) for seed in range(20)]
    assert not found[0].exact
    assert found[0].pairs == 4000
    z = np.array([(one.log_bf - exact.log_bf) / one.se for one in found])
    # Cells are taken equally often, which only narrows the spread that the standard error assumes.
    assert 0.2 < z.std() < 1.1
    assert abs(z.mean()) < 0.2
    again = bayes_factors(*a, *b, exact_pairs=0, sampled_pairs=4000, seed=0)
    assert again.log_bf.tobytes() == found[0].log_bf.tobytes()


def test_the_error_of_a_factor_is_the_same_for_swapped_groups_far_apart() -> None:
    """Squares of chances near 1e-29 are below what single precision holds."""
    rng = np.random.default_rng(0)
    far = rng.normal(16.0, 0.1, (400, 3)), np.full((400, 3), 1.0)
    near = rng.normal(0.0, 0.1, (500, 3)), np.full((500, 3), 1.0)
    one, two = (bayes_factors(*a, *b, exact_pairs=0, sampled_pairs=4000) for a, b in ((far, near), (near, far)))
    assert (one.log_bf > 55).all()
    assert (two.log_bf < -55).all()
    np.testing.assert_allclose(two.se, one.se, rtol=0.5)


def test_an_empty_group_is_refused() -> None:
    a, b = posteriors(3, 2), posteriors(0, 2)
    with pytest.raises(InputError, match="not 3 and 0"):
        bayes_factors(*a, *b)


def test_no_programs_give_no_factors() -> None:
    found = bayes_factors(*posteriors(3, 0), *posteriors(4, 0))
    assert found.log_bf.shape == found.p.shape == found.se.shape == (0,)
