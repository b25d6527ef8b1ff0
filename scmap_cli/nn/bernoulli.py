r"""Open and closed peaks: their weighted likelihood as the last layer of a decoder.

With logits :math:`l`, :math:`s(l)=\log(1+e^l)` and weight :math:`\omega` of an open peak, a cell costs

.. math:: \sum_p s(l_p) \;+\; \sum_{p\,\text{open}}\bigl[\omega\,(s(l_p)-l_p) - s(l_p)\bigr],

the binary cross-entropy without a dense target. The last layer is as wide as there are peaks, so its outputs, their
loss and all gradients are made a block of peaks at a time and never held together.

Peaks may lie in groups (chromosomes) with hidden units of their own: the first layer then adds up each group by itself,
and the last one gives a group's peaks from that group's units, which is a block-diagonal dense layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from scmap_cli.data.batches import Batch
from scmap_cli.nn.rows import sum_of_rows

# Outputs that are held at once, 32 MB in float32; where they pass by in compiled code, what a cache can keep.
_BLOCK, _CACHED = 1 << 23, 1 << 19


def sum_of_open(batch: Batch, weight_ph: Tensor, group_p: Tensor | None = None, groups: int = 1) -> Tensor:
    """``x @ weight`` for the 0/1 matrix ``x`` of open peaks, as :func:`~scmap_cli.nn.rows.sum_of_rows`.

    Stored entries are open peaks, whatever their values.
    """
    return sum_of_rows(batch, torch.ones_like(batch.value_m), weight_ph, group_p, groups)


def _shares_and_cost(logit_np: Tensor, bias_p: Tensor, fused: bool) -> tuple[Tensor, Tensor]:
    """Probabilities in the place of the logits, and the sum of all ``s(l)``, float64."""
    if fused:
        from scmap_cli.nn.bernoulli_kernel import open_shares

        return logit_np, open_shares(logit_np, bias_p).sum()
    cost_np = torch.nn.functional.softplus(logit_np.add_(bias_p))
    return logit_np.sigmoid_(), cost_np.sum(dtype=torch.float64)


class _OpenPeaks(torch.autograd.Function):
    """Mean loss of the cells, with the gradients of everything made on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        h_nch: Tensor,
        weight_ph: Tensor,
        bias_p: Tensor,
        flat_m: Tensor,
        omega: float,
        peaks_s: Tensor | None,
        edges_c: Sequence[int],
        sparse: bool,
    ) -> Tensor:
        n, p = len(h_nch), len(weight_ph)
        cell_m, peak_m = torch.div(flat_m, p, rounding_mode="floor"), flat_m % p
        if peaks_s is not None:
            place_p = torch.full((p,), -1, device=flat_m.device)
            place_p[peaks_s] = torch.arange(len(peaks_s), device=flat_m.device)
            edges_c = torch.searchsorted(peaks_s, torch.tensor(edges_c, device=flat_m.device)).tolist()
            peak_m = place_p[peak_m]
            cell_m, peak_m = cell_m[peak_m >= 0], peak_m[peak_m >= 0]
            p = len(peaks_s)
        dtype = torch.get_autocast_dtype(h_nch.device.type) if torch.is_autocast_enabled(h_nch.device.type) else None
        cast_nch = h_nch.to(dtype) if dtype else h_nch
        wanted = ctx.needs_input_grad
        grad_nch = torch.zeros_like(h_nch) if wanted[0] else None
        empty = torch.empty_like if peaks_s is None else torch.zeros_like
        rows_s = peaks_s if sparse else None
        grad_ph = None
        if wanted[1]:
            grad_ph = empty(weight_ph) if rows_s is None else torch.empty_like(weight_ph[:p])
        grad_p = empty(bias_p) if wanted[2] else None
        loss = torch.zeros((), dtype=torch.float64, device=h_nch.device)
        order_m = torch.argsort(peak_m, stable=True)
        peak_m, cell_m = peak_m[order_m], cell_m[order_m]
        fused = h_nch.device.type == "cpu" and h_nch.dtype == torch.float32
        width = max(1, min(_BLOCK, _CACHED if fused else _BLOCK) // n)
        blocks = [(c, i, min(i + width, b)) for c, (a, b) in enumerate(pairwise(edges_c)) for i in range(a, b, width)]
        starts = torch.tensor([*(first for _, first, _ in blocks), p], device=h_nch.device)
        edges = torch.searchsorted(peak_m, starts).tolist()
        for i, (c, first, last) in enumerate(blocks):
            some = slice(first, last) if peaks_s is None else peaks_s[first:last]
            open_m = slice(edges[i], edges[i + 1])
            w_ph = weight_ph[some].to(dtype) if dtype else weight_ph[some]
            logit_np = (cast_nch[:, c] @ w_ph.T).to(h_nch.dtype)
            place_m = cell_m[open_m] * logit_np.shape[1] + peak_m[open_m] - first
            logit_m = logit_np.view(-1)[place_m] + bias_p[some][peak_m[open_m] - first]
            cost_m = torch.nn.functional.softplus(logit_m)
            loss += (omega * (cost_m - logit_m) - cost_m).sum(dtype=torch.float64)
            grad_np, cost = _shares_and_cost(logit_np, bias_p[some], fused)
            loss += cost
            share_m = grad_np.view(-1)[place_m]
            grad_np.view(-1)[place_m] = omega * (share_m - 1.0)
            if grad_p is not None:
                grad_p[some] = grad_np.sum(0)
            cast_np = grad_np.to(dtype) if dtype else grad_np
            if grad_ph is not None:
                place = some if rows_s is None else slice(first, last)
                grad_ph[place] = (cast_np.T @ cast_nch[:, c]).to(grad_ph.dtype)
            if grad_nch is not None:
                grad_nch[:, c] += cast_np @ w_ph
        ctx.made, ctx.rows_s, ctx.shape = (grad_nch, grad_ph, grad_p), rows_s, weight_ph.shape
        # Of a sample of the peaks, the sum over all of them is an estimate.
        ctx.scale = len(weight_ph) / p / n
        return (loss * ctx.scale).to(h_nch.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # Scaled in place, as another copy of the widest layer would cost more than making it; so they serve once.
        made, ctx.made = ctx.made, None
        scale = grads[0] * ctx.scale
        grad_nch, grad_ph, grad_p = (None if t is None else t.mul_(scale) for t in made)
        if ctx.rows_s is not None and grad_ph is not None:
            grad_ph = torch.sparse_coo_tensor(
                ctx.rows_s[None], grad_ph, ctx.shape, is_coalesced=True, check_invariants=False
            )
        return grad_nch, grad_ph, grad_p, *[None] * 5


def open_peaks_loss(
    h_nh: Tensor,
    weight_ph: Tensor,
    bias_p: Tensor,
    flat_m: Tensor,
    omega: float,
    peaks_s: Tensor | None = None,
    edges_c: Sequence[int] | None = None,
    sparse: bool = False,
) -> Tensor:
    """Weighted binary cross-entropy of ``h @ weight.T + bias``, summed over peaks, mean over cells, in nats.

    Parameters
    ----------
    h_nh
        Last hidden layer of the decoder, (n, h); with groups of peaks, (n, groups, h).
    weight_ph, bias_p
        The output layer, (peaks, h) and (peaks,).
    flat_m
        Positions ``cell * peaks + peak`` of the open peaks, int64, without repeats.
    omega
        Weight of an open peak's term; 1 is the plain likelihood.
    peaks_s
        Peaks that are looked at, int64 without repeats: their sum is scaled up to all peaks, so that over uniform
        samples both the loss and its gradients are right on average. None looks at all.
    edges_c
        First peak of each group and the number of peaks; None for no groups.
    sparse
        Let the gradient of ``weight_ph`` be sparse where a sample of the peaks is looked at, in rising order.
    """
    if not torch.is_grad_enabled():
        # A function of autograd's is told that gradients of parameters are wanted even then.
        h_nh, weight_ph, bias_p = h_nh.detach(), weight_ph.detach(), bias_p.detach()
    h_nch = h_nh.unsqueeze(1) if edges_c is None else h_nh
    edges = (0, len(weight_ph)) if edges_c is None else edges_c
    loss: Tensor = _OpenPeaks.apply(h_nch, weight_ph, bias_p, flat_m, omega, peaks_s, edges, sparse)
    return loss
