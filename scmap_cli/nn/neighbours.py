"""Neighbourhood components analysis: how often a cell's neighbour, drawn by distance, is of its own class."""

from __future__ import annotations

import torch
from torch import Tensor

# What a distance or a sum that must not count is set to.
_FAR = 1e9


def neighbour_loss(x_na: Tensor, mask_a: Tensor | None, log_reach: Tensor, class_n: Tensor) -> Tensor:
    r"""Mean over cells of :math:`-\log \sum_{j \ne i,\, y_j = y_i} p_{ij}`.

    :math:`p_{ij} \propto \exp(-d_{ij}/r)`, with :math:`d_{ij} = \sum_a m_a (x_{ia} - x_{ja})^2` (Goldberger, Roweis,
    Hinton, Salakhutdinov 2004).

    Parameters
    ----------
    x_na
        Values of n cells.
    mask_a
        Non-negative weights of the genes, None for 1.
    log_reach
        Logarithm of r.
    class_n
        Class of each cell, int64; cells alone in theirs are left out, and without any others the loss is 0.
    """
    weighted_na = x_na if mask_a is None else x_na * mask_a
    inner_nn = weighted_na @ x_na.T
    square_n = inner_nn.diagonal()
    far_nn = (square_n[:, None] + square_n - 2 * inner_nn) * torch.exp(-log_reach)
    far_nn = far_nn.masked_fill(torch.eye(len(x_na), dtype=torch.bool, device=x_na.device), _FAR)
    same_nn = class_n[:, None] == class_n
    has_n = (same_nn.sum(1) > 1).to(far_nn.dtype)
    own_n = torch.logsumexp((-far_nn).masked_fill(~same_nn, -_FAR), 1)
    return ((torch.logsumexp(-far_nn, 1) - own_n) * has_n).sum() / has_n.sum().clamp_min(1.0)
