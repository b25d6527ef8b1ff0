r"""Exact proximal steps of the expiMap penalties (Lotfollahi et al. 2023, equations 8-19).

For a column :math:`v` of the decoder and the step size :math:`\eta`,

.. math:: \operatorname{Prox}_{\eta(R_\alpha + R_\gamma)}(v) =
          \operatorname{Prox}_{\eta\alpha\lVert\cdot\rVert_2}\bigl(\operatorname{Prox}_{\eta\gamma\lVert\cdot\odot
          M\rVert_1}(v)\bigr)

so the element-wise soft threshold comes first and the shrinkage of the whole column second. The printed equation 13
gives the negative branch of the soft threshold as :math:`y-\gamma`; that is a misprint for :math:`y+\gamma`, which is
used here (the test compares with a numeric arg min). All functions work in place, outside autograd.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def soft_threshold_(w: Tensor, strength: Tensor | float) -> Tensor:
    """Shrink every entry towards zero by ``strength`` (broadcastable, 0 leaves an entry alone); in place."""
    return w.copy_(torch.sign(w) * (w.abs() - strength).clamp_min_(0.0))


@torch.no_grad()
def group_shrink_(w_gk: Tensor, strength_k: Tensor) -> Tensor:
    """Scale column ``k`` by ``max(0, 1 - s_k / |w_k|_2)``: a column of norm at most ``s_k`` becomes 0; in place."""
    norm_k = torch.linalg.vector_norm(w_gk, dim=0)
    return w_gk.mul_(_shrinkage(norm_k, strength_k))


@torch.no_grad()
def segment_shrink_(w_e: Tensor, segment_e: Tensor, strength_k: Tensor) -> Tensor:
    """As :func:`group_shrink_` for entries ``w_e`` that belong to groups ``segment_e`` (a sparse column layout)."""
    if w_e.device.type == "cpu" and w_e.dtype == strength_k.dtype == torch.float32:
        # numba takes half a second to import, which only CPU training has to wait for
        from scmap_cli.nn.sparse_kernels import shrink_segments_

        return shrink_segments_(w_e, segment_e, strength_k)
    square_k = torch.zeros_like(strength_k, dtype=w_e.dtype).index_add_(0, segment_e, w_e * w_e)
    return w_e.mul_(_shrinkage(square_k.sqrt_(), strength_k)[segment_e])


def _shrinkage(norm_k: Tensor, strength_k: Tensor) -> Tensor:
    safe_k = norm_k.clamp_min(torch.finfo(norm_k.dtype).tiny)
    return (1.0 - strength_k.to(norm_k.dtype) / safe_k).clamp_min_(0.0)
