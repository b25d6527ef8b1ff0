r"""Hilbert-Schmidt independence criterion between latent programs (expiMap, equation 7; Gretton et al. 2005).

The biased estimate :math:`n^{-2}\operatorname{tr}(KHLH)` with Gaussian kernels is never negative in exact arithmetic.
As in the released code its square root is the penalty; a floor under the root keeps value and gradient finite when
the estimate is zero or rounds below it. The kernel width is the mean distance of two standard normal vectors of that
dimension,
:math:`2\Gamma(\tfrac{d+1}{2})/\Gamma(\tfrac d2)`, computed through log-gamma so that it stays finite at any width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_FLOOR = 1e-10


def kernel_precision(dims: int) -> float:
    """``1 / (2 g^2)`` with ``g`` the mean distance of two standard normal vectors of ``dims`` dimensions."""
    g = 2.0 * math.exp(math.lgamma((dims + 1) / 2) - math.lgamma(dims / 2))
    return 1.0 / (2.0 * g * g)


def squared_distances(z_nd: Tensor) -> Tensor:
    """Squared Euclidean distances, shape (n, n), never negative, zero on the diagonal."""
    square_n = (z_nd * z_nd).sum(1)
    d_nn = square_n[:, None] + square_n[None, :] - 2.0 * (z_nd @ z_nd.T)
    return d_nn.clamp_min(0.0) * (1.0 - torch.eye(len(z_nd), dtype=z_nd.dtype, device=z_nd.device))


def _centred(kernel_nn: Tensor) -> Tensor:
    return kernel_nn - kernel_nn.mean(0, keepdim=True) - kernel_nn.mean(1, keepdim=True) + kernel_nn.mean()


def _root_hsic(kernel_nn: Tensor, other_nn: Tensor) -> Tensor:
    value = (_centred(kernel_nn) * other_nn).mean()
    return (value.clamp_min(0.0) + _FLOOR).sqrt()


def hsic_one_against_rest(z_nk: Tensor, columns: list[int]) -> Tensor:
    """Sum over ``columns`` of the HSIC between that column and all other columns of ``z_nk``.

    The distances to "all others" are the total distances minus the column's own, so each column costs one kernel.
    """
    if z_nk.shape[1] < 2 or not columns:
        return z_nk.new_zeros(())
    total_nn = squared_distances(z_nk)
    rest_precision = kernel_precision(z_nk.shape[1] - 1)
    own_precision = kernel_precision(1)
    penalty = z_nk.new_zeros(())
    for column in columns:
        own_nn = (z_nk[:, None, column] - z_nk[None, :, column]) ** 2
        rest_nn = (total_nn - own_nn).clamp_min(0.0)
        penalty = penalty + _root_hsic(torch.exp(-own_precision * own_nn), torch.exp(-rest_precision * rest_nn))
    return penalty
