"""Withheld entries: which are hidden, what the baselines are, what the scores say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats

from scmap_cli.metrics.withheld import additive_fit, by_gene, cell_effects, digest, gene_means, scores, withhold


def counts(n=200, g=50, seed=0):
    rng = np.random.default_rng(seed)
    matrix = sparse.csr_matrix(rng.poisson(0.8, (n, g)).astype(np.float32))
    matrix.sort_indices()
    return matrix


def names(n=200, g=50):
    return np.array([f"c{i}" for i in range(n)]), np.array([f"G{i}" for i in range(g)])


def hide(matrix, share, seed):
    return withhold(matrix, share, seed, *names(*matrix.shape))


def test_a_share_is_hidden_and_every_cell_keeps_an_entry():
    split = hide(counts(), 0.1, 0)
    assert abs(split.hidden_m.mean() - 0.1) < 0.02
    assert (split.hidden_m == hide(counts(), 0.1, 0).hidden_m).all()
    assert (split.hidden_m != hide(counts(), 0.1, 1).hidden_m).any()
    nearly_all = hide(counts(), 0.999, 0)
    assert np.bincount(nearly_all.cell_m[~nearly_all.hidden_m], minlength=200).min() == 1


def test_entries_are_hidden_evenly_over_cells_and_genes():
    full = sparse.csr_matrix(np.ones((300, 300)))
    hidden = hide(full, 0.2, 3).hidden_m.reshape(300, 300)
    for share in (hidden.mean(0), hidden.mean(1)):
        # 300 draws each: standard deviation 0.023
        assert abs(share.mean() - 0.2) < 0.004
        assert 0.018 < share.std() < 0.028


def test_the_order_of_the_file_and_other_cells_do_not_matter():
    matrix, (cells, genes) = counts(), names()
    split = hide(matrix, 0.2, 0)
    told = digest(matrix, split, cells, genes)
    rng = np.random.default_rng(1)
    rows, columns = rng.permutation(200), rng.permutation(50)
    moved = sparse.csr_matrix(matrix[rows][:, columns])
    moved.sort_indices()
    again = withhold(moved, 0.2, 0, cells[rows], genes[columns])
    assert digest(moved, again, cells[rows], genes[columns]) == told

    def pairs(split, cells, genes):
        hidden_m = split.hidden_m
        return set(zip(cells[split.cell_m[hidden_m]], genes[split.gene_m[hidden_m]], strict=True))

    assert pairs(again, cells[rows], genes[columns]) == pairs(split, cells, genes)
    few = withhold(matrix[:7], 0.2, 0, cells[:7], genes)
    assert pairs(few, cells, genes) == {(c, g) for c, g in pairs(split, cells, genes) if int(c[1:]) < 7}


@pytest.mark.parametrize("what", ["seed", "share", "count", "observed count", "cell", "gene"])
def test_the_digest_tells_other_entries_apart(what):
    matrix, (cells, genes) = counts(), names()
    split = hide(matrix, 0.2, 0)
    told = digest(matrix, split, cells, genes)
    other = matrix.copy()
    if what in ("count", "observed count"):
        other.data[np.flatnonzero(split.hidden_m == (what == "count"))[0]] += 1
    if what == "cell":
        cells = np.array(["other", *cells[1:]])
    if what == "gene":
        genes = np.array(["other", *genes[1:]])
    split = withhold(other, 0.3 if what == "share" else 0.2, int(what == "seed"), cells, genes)
    assert digest(other, split, cells, genes) != told


def test_values_are_normalised_by_what_is_left():
    matrix = counts()
    split = hide(matrix, 0.2, 0)
    left = matrix.toarray()
    left[split.cell_m[split.hidden_m], split.gene_m[split.hidden_m]] = 0
    np.testing.assert_array_equal(split.total_n, left.sum(1))
    expected = np.log1p(matrix.toarray() / left.sum(1, keepdims=True) * 1e4)[split.cell_m, split.gene_m]
    np.testing.assert_allclose(split.value_m, expected)
    louder = matrix.copy()
    louder.data[split.hidden_m] *= 50
    np.testing.assert_array_equal(hide(louder, 0.2, 0).value_m[~split.hidden_m], split.value_m[~split.hidden_m])


def test_the_additive_model_is_least_squares():
    rng = np.random.default_rng(0)
    cell, gene = np.repeat(np.arange(30), 20), np.tile(np.arange(20), 30)
    kept = rng.random(600) < 0.5
    cell, gene = cell[kept], gene[kept]
    value = rng.normal(size=30)[cell] + rng.normal(size=20)[gene] + 0.3 * rng.normal(size=len(cell))
    design = np.zeros((len(value), 50))
    design[np.arange(len(value)), cell] = 1
    design[np.arange(len(value)), 30 + gene] = 1
    exact = design @ np.linalg.lstsq(design, value, rcond=None)[0]
    cell_n, gene_g = additive_fit(value, cell, gene, (30, 20))
    np.testing.assert_allclose(cell_n[cell] + gene_g[gene], exact, atol=1e-6)
    np.testing.assert_allclose(cell_effects(value, cell, gene, gene_g, 30), cell_n)


def test_a_gene_without_entries_gets_a_mean():
    value, cell, gene = np.array([1.0, 3.0]), np.array([0, 1]), np.array([0, 0])
    assert gene_means(value, gene, 2).tolist() == [2.0, 2.0]
    assert np.isfinite(additive_fit(value, cell, gene, (2, 2))[1]).all()


def test_scores_are_the_usual_ones():
    rng = np.random.default_rng(0)
    gene = rng.integers(5, size=400)
    truth = rng.normal(size=400) + gene
    predicted = truth + rng.normal(size=400)
    found = scores(predicted, truth, gene)
    assert found["mae"] == pytest.approx(np.abs(predicted - truth).mean())
    assert found["pearson"] == pytest.approx(stats.pearsonr(predicted, truth)[0])
    within = [stats.pearsonr(predicted[gene == g], truth[gene == g])[0] for g in range(5)]
    assert found["within_gene_pearson"] == pytest.approx(np.mean(within))
    count_g, mae_g, pearson_g = by_gene(predicted, truth, gene, 6)
    np.testing.assert_allclose(pearson_g[:5], within)
    assert count_g[5] == 0
    assert np.isnan(mae_g[5])
    assert scores(np.ones(400), truth, gene)["pearson"] == 0
