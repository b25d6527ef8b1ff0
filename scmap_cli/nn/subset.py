r"""Relaxed choice of k among g without replacement, one operation with its own backward.

Xie and Ermon, "Reparameterizable subset sampling via continuous relaxations" (2019): from perturbed logits
:math:`w^{(1)}`, k times

.. math::

    a^{(i)} = \operatorname{softmax}(w^{(i)} / \tau), \qquad w^{(i+1)} = w^{(i)} + \log(1 - a^{(i)}),

and the mask is :math:`m = \sum_i a^{(i)}`. It sums to k; an entry may exceed 1 where the largest
logits are close to each other beside the temperature. With
:math:`\bar m` and :math:`\bar w` the gradients in the mask and in a step's outgoing logits, a step's share is

.. math::

    \bar a = \bar m - \bar w^{(i+1)} / (1 - a), \qquad
    \bar w^{(i)} = \bar w^{(i+1)} + a\,(\bar a - \langle a, \bar a\rangle) / \tau .

The k softmaxes stay off autograd's tape, which would hold some eight vectors of length g for each; their values are
kept, k x g, and the backward needs no transcendental function. Where one entry takes nearly all of a softmax, 1 - a is
the sum of the others, so that nothing is lost to rounding.

Time and memory are O(k g), not O(g log g): relaxations of that cost, such as one threshold for all, give another mask
than the paper's, while these k steps, compiled, are its mask exactly and a small part of a training step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Softmax entries are not let fall below exp of this, relative to the largest, so 1 - a is never 0.
LOWEST = -80.0


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel numbers from uniform ones in [0, 1)."""
    tiny = torch.finfo(uniform.dtype).tiny
    return -torch.log(-torch.log(uniform.clamp(tiny, 1 - torch.finfo(uniform.dtype).eps / 2)))


def relaxed_top_k(logits_g: Tensor, k: int, temperature: float) -> Tensor:
    """Relaxed indicator of the k largest logits.

    Parameters
    ----------
    logits_g
        (g,) logits, with noise added where a random choice is wanted.
    k
        How many, from 1 to g.
    temperature
        Above 0; the lower it is, the closer the result is to zeros and k ones.

    Returns
    -------
    Tensor
        (g,) non-negative entries that sum to k, differentiable in ``logits_g``.
    """
    result: Tensor = _RelaxedTopK.apply(logits_g, k, temperature)
    return result


def top_k(logits_g: Tensor, k: int) -> Tensor:
    """Indices of the k largest logits, largest first; of equal ones the first."""
    return torch.sort(logits_g, descending=True, stable=True).indices[:k]


class _RelaxedTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_g: Tensor, k: int, temperature: float) -> Tensor:
        steps = _compiled_forward if _is_compiled(logits_g) else _forward
        mask_g, a_kg, top_k_, rest_k = steps(logits_g.detach(), k, temperature)
        ctx.save_for_backward(a_kg, top_k_, rest_k)
        ctx.temperature = temperature
        return mask_g

    @staticmethod
    def backward(ctx: Any, grad_g: Tensor) -> tuple[Tensor, None, None]:
        a_kg, top_k_, rest_k = ctx.saved_tensors
        steps = _compiled_backward if _is_compiled(grad_g) else _backward
        return steps(grad_g, a_kg, top_k_, rest_k, ctx.temperature), None, None


def _is_compiled(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32


def _forward(logits_g: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mask, softmaxes (k, g), and of each the place of its largest entry and the sum of the others."""
    w_g = logits_g.clone()
    a_kg = w_g.new_empty(k, len(w_g))
    place_k = torch.empty(k, dtype=torch.int64, device=w_g.device)
    rest_k = w_g.new_empty(k)
    for i in range(k):
        place = w_g.argmax()
        a_g = ((w_g - w_g[place]) / temperature).clamp_min(LOWEST).exp()
        a_g[place] = 0.0
        others = a_g.sum()
        a_g = a_g / (1 + others)
        log_left_g = torch.log1p(-a_g)
        rest = others / (1 + others)
        log_left_g[place] = rest.log()
        a_g[place] = 1 / (1 + others)
        w_g += log_left_g
        a_kg[i], place_k[i], rest_k[i] = a_g, place, rest
    return a_kg.sum(0), a_kg, place_k, rest_k


def _backward(grad_g: Tensor, a_kg: Tensor, place_k: Tensor, rest_k: Tensor, temperature: float) -> Tensor:
    grad_w_g = torch.zeros_like(grad_g)
    for a_g, place, rest in zip(a_kg.flip(0), place_k.flip(0), rest_k.flip(0), strict=True):
        top, slope, back = a_g[place], grad_g[place], grad_w_g[place]
        grad_a_g = grad_g - grad_w_g / (1 - a_g).clamp_min(0.5)
        grad_a_g[place] = 0.0
        mean = torch.dot(a_g, grad_a_g)
        share_g = a_g * (grad_a_g - mean - top * slope + top * back / rest)
        share_g[place] = top * (rest * slope - back - mean)
        grad_w_g = grad_w_g + share_g / temperature
    return grad_w_g


def _compiled_forward(logits_g: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from scmap_cli.nn.subset_kernels import choose

    mask_g, w_g = torch.zeros_like(logits_g), logits_g.clone()
    a_kg, rest_k = logits_g.new_empty(k, len(logits_g)), logits_g.new_empty(k)
    place_k = torch.empty(k, dtype=torch.int64)
    choose(w_g.numpy(), 1.0 / temperature, mask_g.numpy(), a_kg.numpy(), place_k.numpy(), rest_k.numpy())
    return mask_g, a_kg, place_k, rest_k


def _compiled_backward(grad_g: Tensor, a_kg: Tensor, place_k: Tensor, rest_k: Tensor, temperature: float) -> Tensor:
    from scmap_cli.nn.subset_kernels import choose_gradient

    grad_w_g = torch.zeros_like(grad_g)
    arrays = [t.detach().contiguous().numpy() for t in (grad_g, a_kg, place_k, rest_k, grad_w_g)]
    choose_gradient(*arrays, 1.0 / temperature)
    return grad_w_g


def masked_product(x_na: Tensor, mask_a: Tensor, weight_ah: Tensor) -> Tensor:
    """``(x * mask) @ weight``, (n, h).

    The gradients in mask and weight come from one product, ``x.T @ grad``, so that choosing among the columns costs
    no more than a layer whose input is given. Under autocast both products are of its type, and the gradients of the
    types of mask and weight.
    """
    result: Tensor = _MaskedProduct.apply(x_na, mask_a, weight_ah)
    return result


class _MaskedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_na: Tensor, mask_a: Tensor, weight_ah: Tensor) -> Tensor:
        ctx.save_for_backward(x_na, mask_a, weight_ah)
        return x_na @ (mask_a[:, None] * weight_ah)

    @staticmethod
    def backward(ctx: Any, grad_nh: Tensor) -> tuple[None, Tensor, Tensor]:
        x_na, mask_a, weight_ah = ctx.saved_tensors
        grad_ah = (x_na.to(grad_nh.dtype).T @ grad_nh).to(weight_ah.dtype)
        return None, (weight_ah * grad_ah).sum(1), mask_a[:, None] * grad_ah
