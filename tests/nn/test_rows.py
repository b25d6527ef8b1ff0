"""The sum of rows that a first layer takes equals the dense product in float64, with its gradient."""

import numpy as np
import pytest
import torch
from scipy import sparse

from scmap_cli.data.batches import CsrStore
from scmap_cli.nn.rows import sum_of_rows


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("width", [6, 150])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.4])
def test_sum_of_rows_equals_dense(share: float, width: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    filled = np.random.default_rng(0).random((300, 41)) < share
    filled[0] = False
    counts = sparse.csr_matrix(filled * 3.0)
    weight = torch.randn(41, width, generator=torch.Generator().manual_seed(3))
    upstream = torch.randn(300, width, generator=torch.Generator().manual_seed(4))
    batch = CsrStore(counts, np.zeros(300)).batch(torch.arange(300))
    value_m = torch.randn(len(batch.flat_m), generator=torch.Generator().manual_seed(5))
    exact = torch.zeros(300 * 41, dtype=torch.float64)
    exact[batch.flat_m] = value_m.double()
    exact = exact.view(300, 41)
    w = weight.clone().requires_grad_()
    sums = sum_of_rows(batch, value_m, w)
    sums.backward(upstream)
    torch.testing.assert_close(sums.double(), exact @ weight.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(w.grad.double(), exact.T @ upstream.double(), rtol=1e-5, atol=1e-5)


def test_frozen_weights_have_no_gradient() -> None:
    batch = CsrStore(sparse.eye(9, format="csr"), np.zeros(9)).batch(torch.arange(9))
    sums = sum_of_rows(batch, batch.value_m, torch.ones(9, 4))
    assert not sums.requires_grad
    assert torch.equal(sums, torch.ones(9, 4))
