"""Scaled values of a batch are those of the plain dense computation, whatever genes are asked for."""

import numpy as np
import pytest
import torch
from scipy import sparse

from scmap_cli.data.batches import CsrStore
from scmap_cli.data.matrices import log1p_cp10k
from scmap_cli.data.scaling import fit_scaling
from scmap_cli.nn.scaled import scaled_log1p


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("genes", [None, [7, 0, 30]])
def test_equals_the_dense_computation(dtype, genes):
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(0.3 * rng.gamma(1, 1, 40), (60, 40)) * rng.integers(1, 50, (60, 40)))
    log1p = log1p_cp10k(counts)
    scaling = fit_scaling(log1p, clip=2.0)
    wanted = np.arange(40) if genes is None else np.array(genes)
    rows = np.array([5, 59, 0, 17])
    batch = CsrStore(counts, np.zeros(60, dtype=np.int64), dtype).batch(torch.from_numpy(rows))
    mean, deviation = (torch.from_numpy(v[wanted]).to(dtype) for v in (scaling.mean, scaling.deviation))
    found = scaled_log1p(batch, mean, deviation, None if genes is None else torch.tensor(genes), 2.0)
    expected = scaling.apply(log1p[rows])[:, wanted]
    assert np.abs(expected).max() == 2.0
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)
