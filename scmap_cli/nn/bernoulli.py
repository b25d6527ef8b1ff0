r"""Open and closed peaks: their weighted likelihood as the last layer of a decoder.

With logits :math:`l`, :math:`s(l)=\log(1+e^l)` and weight :math:`\omega` of an open peak, a cell costs

.. math:: \sum_p s(l_p) \;+\; \sum_{p\,\text{open}}\bigl[\omega\,(s(l_p)-l_p) - s(l_p)\bigr],

the binary cross-entropy without a dense target. The last layer is as wide as there are peaks, so its outputs, their
loss and all gradients are made a block of peaks at a time and never held together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Outputs that are held at once, 32 MB in float32.
_BLOCK = 1 << 23


class _OpenPeaks(torch.autograd.Function):
    """Mean loss of the cells, with the gradients of everything made on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        h_nh: Tensor,
        weight_ph: Tensor,
        bias_p: Tensor,
        flat_m: Tensor,
        omega: float,
        peaks_s: Tensor | None,
    ) -> Tensor:
        n, p = len(h_nh), len(weight_ph)
        cell_m, peak_m = torch.div(flat_m, p, rounding_mode="floor"), flat_m % p
        if peaks_s is not None:
            place_p = torch.full((p,), -1, device=flat_m.device)
            place_p[peaks_s] = torch.arange(len(peaks_s), device=flat_m.device)
            peak_m = place_p[peak_m]
            cell_m, peak_m = cell_m[peak_m >= 0], peak_m[peak_m >= 0]
            p = len(peaks_s)
        dtype = torch.get_autocast_dtype(h_nh.device.type) if torch.is_autocast_enabled(h_nh.device.type) else None
        cast_nh = h_nh.to(dtype) if dtype else h_nh
        wanted = ctx.needs_input_grad
        grad_nh = torch.zeros_like(h_nh)
        empty = torch.empty_like if peaks_s is None else torch.zeros_like
        grad_ph = empty(weight_ph) if wanted[1] else None
        grad_p = empty(bias_p) if wanted[2] else None
        loss = torch.zeros((), dtype=torch.float64, device=h_nh.device)
        order_m = torch.argsort(peak_m, stable=True)
        peak_m, cell_m = peak_m[order_m], cell_m[order_m]
        width = max(1, _BLOCK // n)
        firsts = range(0, p, width)
        edges = torch.searchsorted(peak_m, torch.tensor([*firsts, p], device=h_nh.device)).tolist()
        for i, first in enumerate(firsts):
            last = min(first + width, p)
            some = slice(first, last) if peaks_s is None else peaks_s[first:last]
            open_m = slice(edges[i], edges[i + 1])
            w_ph = weight_ph[some].to(dtype) if dtype else weight_ph[some]
            logit_np = (cast_nh @ w_ph.T).to(h_nh.dtype).add_(bias_p[some])
            place_m = cell_m[open_m] * logit_np.shape[1] + peak_m[open_m] - first
            logit_m = logit_np.view(-1)[place_m]
            cost_np = torch.nn.functional.softplus(logit_np)
            cost_m = cost_np.view(-1)[place_m]
            loss += cost_np.sum(dtype=torch.float64) + (omega * (cost_m - logit_m) - cost_m).sum(dtype=torch.float64)
            grad_np = logit_np.sigmoid_()
            share_m = grad_np.view(-1)[place_m]
            grad_np.view(-1)[place_m] = omega * (share_m - 1.0)
            if grad_p is not None:
                grad_p[some] = grad_np.sum(0)
            cast_np = grad_np.to(dtype) if dtype else grad_np
            if grad_ph is not None:
                grad_ph[some] = cast_np.T @ cast_nh
            grad_nh += cast_np @ w_ph
        ctx.made = (grad_nh, grad_ph, grad_p)
        # Of a sample of the peaks, the sum over all of them is an estimate.
        ctx.scale = len(weight_ph) / p / n
        return (loss * ctx.scale).to(h_nh.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # Scaled in place, as another copy of the widest layer would cost more than making it; so they serve once.
        made, ctx.made = ctx.made, None
        scale = grads[0] * ctx.scale
        return *(None if t is None else t.mul_(scale) for t in made), None, None, None


def open_peaks_loss(
    h_nh: Tensor,
    weight_ph: Tensor,
    bias_p: Tensor,
    flat_m: Tensor,
    omega: float,
    peaks_s: Tensor | None = None,
) -> Tensor:
    """Weighted binary cross-entropy of ``h @ weight.T + bias``, summed over peaks, mean over cells, in nats.

    Parameters
    ----------
    h_nh
        Last hidden layer of the decoder, (n, h).
    weight_ph, bias_p
        The output layer, (peaks, h) and (peaks,).
    flat_m
        Positions ``cell * peaks + peak`` of the open peaks, int64, without repeats.
    omega
        Weight of an open peak's term; 1 is the plain likelihood.
    peaks_s
        Peaks that are looked at, int64 without repeats: their sum is scaled up to all peaks, so that over uniform
        samples both the loss and its gradients are right on average. None looks at all.
    """
    loss: Tensor = _OpenPeaks.apply(h_nh, weight_ph, bias_p, flat_m, omega, peaks_s)
    return loss
