"""Packed minibatches: what is in the matrix is in the tokens, subsets are fair and the rest is not forgotten."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse

from scmap_cli.data.tokens import MemoryRows, TokenStore, make_batch, spans, thinned
from scmap_cli.nn.noise import Noise


def counts(n=12, g=30, seed=0):
    rng = np.random.default_rng(seed)
    return sparse.csr_matrix(rng.poisson(0.8, (n, g)).astype(np.float32))


def noise(seed=1, rows=64, start=0):
    return Noise(seed, rows, start, torch.device("cpu"))


def test_a_batch_holds_the_rows_asked_for():
    matrix = counts()
    rows = torch.tensor([5, 0, 5])
    batch = TokenStore(MemoryRows(matrix), np.zeros(12)).batch(rows)
    dense = torch.zeros(3, 30)
    dense[batch.cell_t, batch.gene_t] = batch.count_t
    np.testing.assert_array_equal(dense.numpy(), matrix[rows.numpy()].toarray())
    assert batch.edges.tolist() == [0, *np.cumsum(np.diff(matrix.indptr)[rows.numpy()]).tolist()]


def test_spans():
    assert spans(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]


def test_a_thinned_cell_keeps_its_total_and_maximum():
    matrix = counts(g=60)
    batch = make_batch(matrix.indices, matrix.data, np.diff(matrix.indptr))
    few = thinned(batch, 7, noise())
    assert few.edges.diff().max() == 7
    total = few.rest_total_n.index_add(0, few.cell_t, few.count_t)
    np.testing.assert_allclose(total.numpy(), np.asarray(matrix.sum(1)).ravel())
    most = few.rest_max_n.scatter_reduce(0, few.cell_t, few.count_t, "amax")
    np.testing.assert_array_equal(most.numpy(), matrix.max(1).toarray().ravel())


def test_every_gene_is_as_likely_in_a_subset():
    batch = make_batch(np.arange(20), np.ones(20), np.array([20]))
    found = np.zeros(20)
    for seed in range(600):
        found[thinned(batch, 5, noise(seed)).gene_t.numpy()] += 1
    # 150 expected, standard deviation 10.6
    assert found.min() > 105
    assert found.max() < 195


def test_the_store_thins_in_training_alone():
    matrix = counts(g=60)
    store = TokenStore(MemoryRows(matrix), np.zeros(12), limit=7)
    rows = torch.arange(12)
    assert store.batch(rows, noise()).edges.diff().max() == 7
    assert len(store.batch(rows).gene_t) == matrix.nnz


def test_hashed_numbers_know_the_row_not_the_batch():
    row, item = torch.arange(50) % 10, torch.arange(50) // 10
    whole = noise(3).hashed(row, item, 0)
    upper = noise(3, start=4).hashed(row[row >= 4] - 4, item[row >= 4], 0)
    assert torch.equal(upper, whole[row >= 4])
    assert not torch.equal(whole, noise(3).hashed(row, item, 1))
    assert not torch.equal(whole, noise(4).hashed(row, item, 0))


def test_hashed_numbers_are_uniform_and_independent():
    row, item = torch.meshgrid(torch.arange(400), torch.arange(250), indexing="ij")
    drawn = noise(0).hashed(row.flatten(), item.flatten(), 0).view(400, 250).double()
    assert abs(drawn.mean().item() - 0.5) < 0.004
    shares = torch.histc(drawn, 20, 0, 1) / drawn.numel()
    assert (shares - 0.05).abs().max() < 0.004
    for left, right in ((drawn[:-1], drawn[1:]), (drawn[:, :-1], drawn[:, 1:])):
        assert abs(np.corrcoef(left.flatten(), right.flatten())[0, 1]) < 0.015


def test_the_order_is_every_row_once_or_balanced():
    store = TokenStore(MemoryRows(counts()), np.array([0] * 11 + [1]))
    assert sorted(store.order(np.arange(12), 0, "shuffle")) == list(range(12))
    drawn = np.concatenate([store.order(np.arange(12), seed, "balanced") for seed in range(60)])
    assert 0.4 < (drawn == 11).mean() < 0.6
