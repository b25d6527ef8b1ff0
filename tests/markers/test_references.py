"""Shortcuts against plain computations in double precision, and against the field's own packages."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import rankdata

from scmap_cli.data.scaling import fit_scaling
from scmap_cli.markers import greedy, l1, persist, rankcorr
from scmap_cli.markers.base import marker_data, run_selector
from scmap_cli.registry import SELECTORS


def centred(data):
    x = data.scaled.astype(np.float64)
    return x - x.mean(axis=0)


def plain_forward(x, targets, k):
    """Try every gene at every step by full least squares."""
    chosen: list[int] = []
    for _ in range(k):
        errors = np.full(x.shape[1], np.inf)
        for gene in set(range(x.shape[1])) - set(chosen):
            inside = x[:, [*chosen, gene]]
            errors[gene] = ((targets - inside @ np.linalg.lstsq(inside, targets, rcond=None)[0]) ** 2).sum()
        chosen.append(int(errors.argmin()))
    return chosen


def test_greedy_columns_is_least_squares_tried_out(planted):
    data = planted.data.take_genes(np.arange(0, 80, 2))
    x = centred(data)
    found = greedy.select_for_genes(data, 8, seed=0, as_published=False)
    assert found.genes.tolist() == plain_forward(x, x, 8)
    inside = x[:, found.genes]
    left = ((x - inside @ np.linalg.lstsq(inside, x, rcond=None)[0]) ** 2).sum()
    assert found.scores.sum() == pytest.approx(1 - left / (x**2).sum(), rel=1e-9)


def test_greedy_labels_is_least_squares_tried_out(planted):
    data = planted.data.take_genes(np.arange(0, 80, 2))
    indicators = (planted.data.labels[:, None] == np.arange(4)) / np.sqrt(60)
    targets = indicators - indicators.mean(axis=0)
    found = greedy.select_for_labels(data, 8, seed=0, as_published=False)
    assert found.genes.tolist() == plain_forward(centred(data), targets, 8)


def test_greedy_passes_copies_of_chosen_genes_over(planted):
    counts = planted.counts[:, :30].copy()
    counts[:, 25:] = counts[:, :5]
    found = run_selector(SELECTORS["greedy-columns"], marker_data(counts), 25)
    assert len({gene if gene < 25 else gene - 25 for gene in found.genes}) == 25


def plain_correlations(values, members):
    out = np.zeros((len(members), values.shape[1]))
    for gene in range(values.shape[1]):
        ranks = rankdata(values[:, gene])
        deviation = ranks.std()
        for code, member in enumerate(members):
            sign = np.where(member > 0, 1.0, -1.0)
            out[code, gene] = (sign * (ranks - ranks.mean()) / deviation).sum() if deviation > 0 else 0.0
    return out


def test_rank_correlations_are_those_of_dense_ranks(planted):
    log1p = planted.data.log1p
    found = rankcorr.rank_correlations(log1p, planted.data.members)
    np.testing.assert_allclose(
        found, plain_correlations(log1p.toarray(), planted.data.members.toarray()), rtol=1e-10, atol=1e-9
    )


@pytest.mark.parametrize("sparsity", [1.5, 4.0, 20.0])
def test_rankcorr_keeps_what_the_first_binding_threshold_leaves(planted, sparsity):
    correlations = rankcorr.rank_correlations(planted.data.log1p, planted.data.members)
    for row in correlations:
        sizes = -np.sort(-np.abs(row))
        for value in sizes[1:]:
            soft = np.maximum(np.abs(row) - value, 0)
            if soft.any() and soft.sum() > np.sqrt(sparsity) * np.linalg.norm(soft):
                break
        assert rankcorr.kept(sizes, sparsity) == np.count_nonzero(soft)


def test_l1_solution_meets_its_optimality_conditions(planted):
    x = planted.data.scaled[:, :110].astype(np.float64)
    y = np.eye(4)[planted.data.labels]
    penalty = 0.05
    weights, bias = l1.solve(x, y, penalty, np.zeros((110, 4)), np.zeros(4))
    slope = x.T @ (l1._probabilities(x @ weights + bias) - y) / len(x)
    inside = weights != 0
    assert 4 < inside.any(axis=1).sum() < 100
    np.testing.assert_allclose(slope[inside], -penalty * np.sign(weights[inside]), atol=2e-4)
    assert np.abs(slope[~inside]).max() <= penalty + 2e-4


def test_l1_path_with_screening_ends_where_a_fit_of_all_genes_ends(planted):
    x = planted.data.scaled[:, :110]
    y = np.eye(4)[planted.data.labels]
    first = np.abs(x.T @ (0.25 - y)).max() / len(x)
    weights, entered = l1.fit_path(x, planted.data.labels, 4, 12)
    assert weights.any(axis=1).sum() >= 12
    assert (entered[weights.any(axis=1)] > 0).all()
    penalty = first * entered[entered > 0].min()
    straight, _ = l1.solve(x.astype(np.float64), y, penalty, np.zeros((110, 4)), np.zeros(4))
    np.testing.assert_allclose(weights, straight, atol=3e-3)


def test_scaling_is_scanpys(planted):
    import anndata
    import scanpy

    log1p = planted.data.log1p
    adata = anndata.AnnData(log1p.toarray())
    scanpy.pp.scale(adata, max_value=10)
    scaling = fit_scaling(log1p)
    varying = log1p.toarray().std(axis=0) > 1e-3
    np.testing.assert_allclose(scaling.apply(log1p)[:, varying], adata.X[:, varying], atol=2e-5)
    np.testing.assert_allclose(scaling.apply(log1p, np.array([3, 1])), scaling.apply(log1p)[:, [3, 1]])
    assert np.abs(scaling.apply(log1p)[:, -5:]).max() == 0


def test_scaling_of_other_cells_uses_the_first_ones(planted):
    half = planted.data.log1p[:100]
    scaling = fit_scaling(half)
    dense = planted.data.log1p.toarray().astype(np.float64)
    deviation = dense[:100].std(axis=0, ddof=1)
    truth = np.clip((dense - dense[:100].mean(axis=0)) / np.where(deviation > 1e-6, deviation, 1.0), -10, 10)
    np.testing.assert_allclose(scaling.apply(planted.data.log1p), truth, atol=2e-5)


def test_cosg_scores_are_their_formula(planted):
    found = run_selector(SELECTORS["cosg"], planted.data, 20)
    x, members = planted.data.log1p.toarray().astype(np.float64), planted.data.members.toarray()
    cosine = members @ x / np.sqrt(60) / np.maximum(np.linalg.norm(x, axis=0), 1e-300)
    truth = cosine**3 / np.maximum((cosine**2).sum(axis=0), 1e-300)
    for gene, score, name in zip(found.genes, found.scores, found.classes, strict=True):
        assert score == pytest.approx(truth["ABCD".index(name), gene], rel=1e-4)


def test_hurdle_loss_is_its_formula():
    import torch

    rng = np.random.default_rng(0)
    mean, logit, target = rng.normal(size=(3, 6, 4))
    target[target < 0.2] = 0
    off = target <= 0
    chance = 1 / (1 + np.exp(-logit))
    below = -np.where(off, np.log(chance), np.log(1 - chance))
    truth = (10 * below + np.where(off, 0, (target - mean) ** 2)).sum(axis=1).mean()
    output = torch.from_numpy(np.hstack([mean, logit]))
    assert float(persist.hurdle_loss(output, torch.from_numpy(target))) == pytest.approx(truth, rel=1e-9)


def test_training_leaves_torch_as_it_was(planted, monkeypatch):
    import torch

    monkeypatch.setattr(persist, "_GATE_EPOCHS", 1)
    monkeypatch.setattr(persist, "_MASK_EPOCHS", 1)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    run_selector(SELECTORS["persist"], planted.data, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_totals_over_all_genes_are_kept(planted):
    totals = planted.counts.sum(axis=1)
    part = marker_data(sp.csr_matrix(planted.counts[:, :30]), totals=totals)
    np.testing.assert_allclose(part.log1p.toarray(), planted.data.log1p[:, :30].toarray(), rtol=1e-6)
