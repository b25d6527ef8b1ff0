"""Row gathers equal the dense matrix; epochs are permutations or balanced; splits are stratified and seeded."""

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.special import gammaln

from scmap_cli.data.batches import CsrStore, epoch_order
from scmap_cli.data.splits import validation_split


def counts(n: int, g: int, scale: float = 3.0, seed: int = 0) -> sparse.csr_matrix:
    rng = np.random.default_rng(seed)
    dense = rng.poisson(scale * rng.random((n, g)) ** 3)
    dense[0] = 0
    return sparse.csr_matrix(dense.astype(np.float32))


@pytest.mark.parametrize(("g", "scale"), [(5, 3.0), (40_000, 0.01), (5, 1e5)])
def test_a_batch_is_the_rows_of_the_matrix(g: int, scale: float) -> None:
    matrix = counts(30, g, scale)
    store = CsrStore(matrix, np.arange(30) % 3)
    rows = np.array([4, 0, 29, 4, 17])
    batch = store.batch(torch.from_numpy(rows))
    dense = matrix[rows].toarray()
    np.testing.assert_array_equal(batch.dense(batch.value_m).numpy(), dense)
    np.testing.assert_allclose(batch.size_n.numpy(), dense.sum(1))
    np.testing.assert_allclose(batch.constant_n.numpy(), gammaln(dense + 1).sum(1), rtol=1e-6)
    assert batch.condition_n.tolist() == (rows % 3).tolist()
    assert batch.flat_m.dtype == torch.int64
    assert batch.value_m.dtype == torch.float32


def test_stored_types_are_small_and_exact() -> None:
    small, large = CsrStore(counts(9, 9), np.zeros(9)), CsrStore(counts(9, 9, 1e6), np.zeros(9))
    assert (small.values.dtype, small.indices.dtype) == (torch.int16, torch.int16)
    assert large.values.dtype == torch.float32
    fractional = sparse.csr_matrix(np.array([[0.5, 0.0], [0.0, 2.0]]))
    assert CsrStore(fractional, np.zeros(2), torch.float64).values.dtype == torch.float64


def test_an_epoch_visits_every_cell_once() -> None:
    codes = np.zeros(100, dtype=int)
    order = epoch_order(codes, seed=1)
    assert sorted(order) == list(range(100))
    assert (order != epoch_order(codes, seed=2)).any()
    assert (order == epoch_order(codes, seed=1)).all()


def test_balanced_draws_are_equal_over_conditions() -> None:
    codes = np.repeat([0, 1, 2], [9000, 900, 100])
    drawn = codes[epoch_order(codes, 5, "balanced")]
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), 1 / 3, atol=0.02)


def test_the_split_is_stratified_shuffled_and_spares_lone_cells() -> None:
    codes = np.repeat([0, 1, 2], [1000, 50, 1])
    held = validation_split(codes, 0.1, seed=3)
    assert [int(held[codes == c].sum()) for c in range(3)] == [100, 5, 0]
    assert held[:1000].nonzero()[0].max() > 800
    assert (held == validation_split(codes, 0.1, seed=3)).all()
    assert (held != validation_split(codes, 0.1, seed=4)).any()
    assert not validation_split(codes, 0.0, seed=3).any()
