"""Gene-set tests against scipy's and least squares, their variance under correlation, and what each is blind to."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

from scmap_cli.errors import InputError
from scmap_cli.metrics.gene_sets import LinearFit, camera, fry, group_effects, separable

N, G, K = 120, 60, 6


@pytest.fixture
def cells() -> tuple[sp.csr_matrix, np.ndarray, np.ndarray, sp.csc_matrix]:
    """Values with many zeros, a group, two unbalanced batches, and sets of ten genes; the first set is raised."""
    rng = np.random.default_rng(3)
    inside = rng.random(N) < 0.4
    batch = (rng.random(N) < np.where(inside, 0.7, 0.3)).astype(int)
    values = np.maximum(rng.normal(0.5, 1.0, (N, G)) + 2.0 * batch[:, None], 0.0)
    values[:, :10] += 0.6 * inside[:, None]
    member = np.kron(np.eye(K), np.ones((10, 1)))
    return sp.csr_matrix(values), inside, batch, sp.csc_matrix(member)


def test_effects_are_those_of_scipy_and_of_least_squares(cells) -> None:
    values, inside, batch, _ = cells
    dense = values.toarray()
    alone = group_effects(values, inside, np.zeros(N, dtype=int))
    np.testing.assert_allclose(alone.t, stats.ttest_ind(dense[inside], dense[~inside]).statistic, rtol=1e-9)
    design = np.column_stack([inside, batch == 0, batch == 1]).astype(float)
    beta, rss, *_ = np.linalg.lstsq(design, dense, rcond=None)
    sd = np.sqrt(rss / (N - 3))
    fit = group_effects(values, inside, batch)
    np.testing.assert_allclose(fit.sd, sd, rtol=1e-9)
    np.testing.assert_allclose(fit.t, beta[0] / sd / np.sqrt(np.linalg.inv(design.T @ design)[0, 0]), rtol=1e-9)
    assert fit.df == N - 3


def test_fry_is_the_t_test_of_the_average_standardised_gene(cells) -> None:
    values, inside, _, member = cells
    one = np.zeros(N, dtype=int)
    fit = group_effects(values, inside, one)
    found = fry(values, inside, one, fit, member)
    average = (values.toarray() / fit.sd).reshape(N, K, 10).mean(2)
    expected = stats.ttest_ind(average[inside], average[~inside])
    np.testing.assert_allclose(found.statistic, expected.statistic, rtol=1e-9)
    np.testing.assert_allclose(found.p, expected.pvalue, rtol=1e-7)
    np.testing.assert_allclose(found.fdr, stats.false_discovery_control(expected.pvalue), rtol=1e-7)


def test_camera_without_correlation_is_the_rank_sum_test() -> None:
    t = np.round(np.random.default_rng(0).normal(size=G), 1)
    member = np.kron(np.eye(K), np.ones((10, 1)))
    found = camera(LinearFit(t, np.ones(G), 99), sp.csc_matrix(member), 0.0)
    for k in range(K):
        chosen = member[:, k] > 0
        other = stats.mannwhitneyu(t[chosen], t[~chosen], method="asymptotic", use_continuity=False)
        assert found.p[k] == pytest.approx(other.pvalue, rel=1e-9)
        assert np.sign(found.statistic[k]) == np.sign(other.statistic - 10 * (G - 10) / 2)


def test_camera_is_calibrated_where_genes_of_a_set_correlate() -> None:
    rng = np.random.default_rng(1)
    correlation, draws = 0.2, 2000
    member = sp.csc_matrix((np.arange(G) < 15)[:, None].astype(float))
    found = {0.0: [], correlation: []}
    for _ in range(draws):
        t = rng.normal(size=G)
        t[:15] = np.sqrt(correlation) * rng.normal() + np.sqrt(1 - correlation) * t[:15]
        for supposed, z in found.items():
            z.append(camera(LinearFit(t, np.ones(G), 99), member, supposed).statistic[0])
    assert np.std(found[correlation]) == pytest.approx(1.0, abs=0.06)
    assert np.std(found[0.0]) > 1.3


def test_the_raised_set_leads_and_batches_do_not(cells) -> None:
    values, inside, batch, member = cells
    fit = group_effects(values, inside, batch)
    for found in (fry(values, inside, batch, fit, member), camera(fit, member)):
        assert np.argmax(found.statistic) == 0
        assert found.fdr[0] < 1e-3
        assert found.p[1:].min() > 0.001
    blind = np.zeros(N, dtype=int)
    fooled = fry(values, inside, blind, group_effects(values, inside, blind), member)
    assert fooled.p[1:].max() < 0.05


def test_only_fry_sees_what_all_genes_do(cells) -> None:
    values, inside, batch, member = cells
    raised = sp.csr_matrix(values.toarray()[:, 10:] + 0.8 * inside[:, None])
    fit, sets = group_effects(raised, inside, batch), member[10:, 1:]
    assert fry(raised, inside, batch, fit, sets).p.max() < 1e-4
    assert camera(fit, sets).p.min() > 0.01


def test_sets_without_a_gene_that_varies_have_no_figure(cells) -> None:
    values, inside, batch, member = cells
    dense = values.toarray()
    dense[:, :10] = 1.7
    fit = group_effects(dense, inside, batch)
    assert np.isnan(fit.t[:10]).all()
    for found in (fry(sp.csr_matrix(dense), inside, batch, fit, member), camera(fit, member)):
        assert np.isnan([found.statistic[0], found.p[0], found.fdr[0]]).all()
        assert np.isfinite(found.fdr[1:]).all()


def test_groups_that_are_batches_are_refused(cells) -> None:
    values, inside, batch, _ = cells
    assert separable(inside, batch)
    assert not separable(inside, inside.astype(int))
    with pytest.raises(InputError, match="cannot be told apart"):
        group_effects(values, inside, inside.astype(int))
    with pytest.raises(InputError, match="too few"):
        group_effects(values[:2], np.array([True, False]), np.zeros(2, dtype=int))
