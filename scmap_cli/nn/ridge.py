"""How well a linear map from masked genes, fitted to some cells of a batch, rebuilds the genes of the others."""

from __future__ import annotations

import torch
from torch import Tensor

# Cells times genes that products of cells with cells are made of.
_MOST = 1 << 20


def ridge_loss(x_na: Tensor, mask_a: Tensor | None, log_ridge: Tensor, target_ns: Tensor) -> Tensor:
    r"""Half the mean squared error of a quarter of the cells, by ridge regression on the others.

    With :math:`K = X M X^\top`, S the cells it is fitted to and Q the others,
    :math:`\hat Y_Q = K_{QS} (K_{SS} + r I)^{-1} Y_S`: the regression on ``k`` genes written with cells, so that it is
    differentiable in a mask of any number of genes.

    Parameters
    ----------
    x_na
        Scaled values of n cells.
    mask_a
        Non-negative weights of the genes, None for 1.
    log_ridge
        Logarithm of r.
    target_ns
        Values to rebuild, of mean about 0. Where there are very many genes, only the first cells are used.
    """
    n = min(len(x_na), max(32, _MOST // max(x_na.shape[1], 1)))
    if n < 4:
        return target_ns.square().mean() * 0.5
    # Every fourth cell is rebuilt, wherever a file has its types; the others come first.
    asked_n = torch.arange(n, device=x_na.device) % 4 == 3
    order_n = torch.argsort(asked_n.to(torch.int8), stable=True)
    fitted = n - n // 4
    x_na, target_ns = x_na[order_n], target_ns[order_n]
    inner_nn = (x_na if mask_a is None else x_na * mask_a) @ x_na.T
    ridge_ss = torch.eye(fitted, dtype=x_na.dtype, device=x_na.device) * log_ridge.exp()
    factor_ss = torch.linalg.cholesky(inner_nn[:fitted, :fitted] + ridge_ss)
    rebuilt_qs = inner_nn[fitted:, :fitted] @ torch.cholesky_solve(target_ns[:fitted], factor_ss)
    return 0.5 * (target_ns[fitted:] - rebuilt_qs).square().mean()
