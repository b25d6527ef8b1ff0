"""The proximal steps equal a numeric arg min (expiMap, equation 9), and their sparse form equals the dense one."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from scmap_cli.nn.proximal import group_shrink_, segment_shrink_, soft_threshold_


def smallest(v: np.ndarray, lasso: float, l1: float, outside: np.ndarray) -> np.ndarray:
    """Arg min of ``|x - v|^2 / 2 + lasso |x|_2 + l1 |x * outside|_1``, found without the closed form.

    With x = p - q, p and q at least 0, the L1 part is linear; a tiny smoothing makes the norm differentiable at 0.
    """
    d = len(v)

    def value(pq: np.ndarray) -> tuple[float, np.ndarray]:
        x = pq[:d] - pq[d:]
        norm = np.sqrt(x @ x + 1e-16)
        gradient = x - v + lasso * x / norm
        penalty = l1 * outside
        total = 0.5 * (x - v) @ (x - v) + lasso * norm + penalty @ (pq[:d] + pq[d:])
        return total, np.concatenate([gradient + penalty, -gradient + penalty])

    start = np.concatenate([np.maximum(v, 0), np.maximum(-v, 0)]) + 1e-3
    options = {"maxiter": 20_000, "maxfun": 100_000, "ftol": 1e-16, "gtol": 1e-12}
    found = minimize(value, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * (2 * d), options=options)
    return found.x[:d] - found.x[d:]


@pytest.mark.parametrize("kind", ["hard", "soft", "all outside", "strong"])
def test_the_step_is_the_numeric_minimum(kind: str) -> None:
    rng = np.random.default_rng(len(kind))
    for _ in range(5):
        v = rng.normal(size=7)
        lasso, l1 = (6.0, 0.2) if kind == "strong" else (0.7, 0.4)
        outside = (
            np.zeros(7) if kind == "hard" else np.ones(7) if kind == "all outside" else (rng.random(7) < 0.5) * 1.0
        )
        w_gk = torch.from_numpy(v.copy())[:, None]
        soft_threshold_(w_gk, l1 * torch.from_numpy(outside)[:, None])
        group_shrink_(w_gk, torch.tensor([lasso]))
        np.testing.assert_allclose(w_gk[:, 0].numpy(), smallest(v, lasso, l1, outside), atol=2e-5)
        if kind == "strong":
            assert (w_gk == 0).all()


def test_the_negative_branch_shrinks_towards_zero() -> None:
    w = torch.tensor([-2.0, -0.5, 0.5, 2.0])
    assert soft_threshold_(w, 1.0).tolist() == [-1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sparse_columns_shrink_as_dense_ones(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(1)
    mask_gk = rng.random((40, 9)) < 0.3
    mask_gk[:, 4] = False
    w_gk = torch.from_numpy(rng.normal(size=(40, 9)) * mask_gk)
    gene_e, program_e = (torch.from_numpy(i) for i in np.nonzero(mask_gk))
    strength_k = torch.linspace(0.0, 6.0, 9, dtype=torch.float64)
    w_e = w_gk[gene_e, program_e].to(dtype)
    segment_shrink_(w_e, program_e, strength_k.to(dtype))
    dense = group_shrink_(w_gk.clone(), strength_k)
    torch.testing.assert_close(w_e, dense[gene_e, program_e].to(dtype))
    assert bool((dense[:, 8] == 0).all())
    assert bool((dense[:, 0] == w_gk[:, 0]).all())
