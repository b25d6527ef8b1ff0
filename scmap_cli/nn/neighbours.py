"""Neighbourhood components analysis: how often a cell's neighbour, drawn by distance, is of its own class."""

from __future__ import annotations

import torch
from torch import Tensor

# What a distance or a sum that must not count is set to.
_FAR = 1e9
# Cells times genes up to which the neighbours of every cell of a batch are looked at.
_MOST = 1 << 20


def neighbour_loss(x_na: Tensor, mask_a: Tensor | None, log_reach: Tensor, class_n: Tensor) -> Tensor:
    r"""Mean over cells of :math:`-\log \sum_{j \ne i,\, y_j = y_i} p_{ij}`.

    :math:`p_{ij} \propto \exp(-d_{ij}/r)`, with :math:`d_{ij} = \sum_a m_a (x_{ia} - x_{ja})^2` (Goldberger, Roweis,
    Hinton, Salakhutdinov 2004). Where there are very many genes, only the first cells are asked for their neighbours,
    which may be any: their distances would cost more than all layers together.

    Parameters
    ----------
    x_na
        Values of n cells, in random order.
    mask_a
        Non-negative weights of the genes, None for 1.
    log_reach
        Logarithm of r.
    class_n
        Class of each cell, int64; cells alone in theirs are left out, and without any others the loss is 0.
    """
    n = len(x_na)
    first = n if mask_a is None else max(min(n, 32), min(n, _MOST // max(x_na.shape[1], 1)))
    weighted_ma = x_na[:first] if mask_a is None else x_na[:first] * mask_a
    square_n = x_na.square().sum(1) if mask_a is None else x_na.square() @ mask_a
    far_mn = (square_n[:first, None] + square_n - 2 * weighted_ma @ x_na.T) * torch.exp(-log_reach)
    far_mn = far_mn.masked_fill(torch.eye(first, n, dtype=torch.bool, device=x_na.device), _FAR)
    same_mn = class_n[:first, None] == class_n
    has_m = (same_mn.sum(1) > 1).to(far_mn.dtype)
    own_m = torch.logsumexp((-far_mn).masked_fill(~same_mn, -_FAR), 1)
    return ((torch.logsumexp(-far_mn, 1) - own_m) * has_m).sum() / has_m.sum().clamp_min(1.0)
