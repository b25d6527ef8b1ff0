"""A step of :class:`~scmap_cli.training.optimizer.RowAdam` in one pass, compiled for CPUs: float32, rows by threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from scmap_cli.nn.kernels import f32, in_shares, kernel


@kernel
def _rows(
    weight_ph: Any, mean_ph: Any, square_p: Any, grad_sh: Any, at_p: Any, numbers: Any, first: int, last: int
) -> None:
    keep, keep_square, pace, correction, eps, l2 = numbers
    h = weight_ph.shape[1]
    none_h = np.zeros(h, f32)
    for p in range(first, last):
        w_h, m_h = weight_ph[p], mean_ph[p]
        g_h = grad_sh[at_p[p]] if at_p[p] >= 0 else none_h
        total = f32(0.0)
        for j in range(h):
            g = g_h[j] + l2 * w_h[j]
            total += g * g
        square_p[p] = keep_square * square_p[p] + (f32(1.0) - keep_square) * (total / f32(h))
        scale = pace / (np.sqrt(square_p[p] * correction) + eps)
        for j in range(h):
            m = keep * m_h[j] + (f32(1.0) - keep) * (g_h[j] + l2 * w_h[j])
            m_h[j] = m
            w_h[j] -= scale * m


def step_rows(
    weight_ph: Tensor, mean_ph: Tensor, square_p1: Tensor, grad_sh: Tensor, row_s: Tensor | None, numbers: list[float]
) -> None:
    """Step in place.

    Parameters
    ----------
    weight_ph, mean_ph, square_p1
        Weights and their moments, contiguous float32.
    grad_sh, row_s
        Gradient of the rows ``row_s``, others being zero; None for all of them.
    numbers
        Decay of both moments, learning rate over the correction of the first, one over that of the second, epsilon,
        and L2 weight.
    """
    p = len(weight_ph)
    at_p = torch.arange(p) if row_s is None else torch.full((p,), -1).index_copy_(0, row_s, torch.arange(len(row_s)))
    tensors = (weight_ph, mean_ph, square_p1.view(-1), grad_sh.contiguous(), at_p)
    arrays = (*(tensor.detach().numpy() for tensor in tensors), tuple(f32(number) for number in numbers))
    in_shares(p, lambda first, last: _rows(*arrays, first, last))
