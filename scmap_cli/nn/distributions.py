r"""Negative binomial reconstruction from sparse counts, and the Gaussian KL divergence.

With mean :math:`\mu` and inverse dispersion :math:`\theta` (variance :math:`\mu + \mu^2/\theta`) the negative
log-likelihood of a count :math:`x` splits into a part for every entry and a part for the stored non-zeros alone:

.. math:: \theta\log(1+\mu/\theta) \;-\; [x>0]\,\bigl(\log\Gamma(x+\theta)-\log\Gamma(\theta)-\log\Gamma(x+1)
          + x\log\mu - x\log(\theta+\mu)\bigr)

Log-gamma and digamma, the dear functions, are therefore evaluated at the non-zeros only (5-10 % of the entries).
Value and gradient are computed together; the tests compare both with the plain formula in float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scmap_cli.errors import UsageError

LINKS = ("softmax", "softplus", "exp")

# Largest logit that ``exp`` sees, so that a wild step gives a large finite mean and not infinity.
_MAX_LOGIT = 30.0
# Softplus underflows in float32 below about -103; its logarithm must stay finite.
_TINY = 1e-30


class _NegativeBinomial(torch.autograd.Function):
    """Summed NLL per cell from decoder logits; see :func:`negative_binomial_nll`."""

    @staticmethod
    def forward(
        ctx: Any,
        logits_ng: Tensor,
        log_theta_bg: Tensor,
        size_n: Tensor,
        condition_n: Tensor,
        flat_m: Tensor,
        value_m: Tensor,
        link: str,
    ) -> Tensor:
        n, g = logits_ng.shape
        logits_ng = logits_ng.contiguous()
        if link == "softmax":
            p_ng = torch.softmax(logits_ng, dim=1)
            mu_ng = p_ng * size_n[:, None]
        elif link == "softplus":
            mu_ng = torch.nn.functional.softplus(logits_ng).clamp_min_(_TINY)
        else:
            mu_ng = logits_ng.clamp(max=_MAX_LOGIT).exp_()

        theta_bg = log_theta_bg.exp()
        many = len(theta_bg) > 1
        theta_ng = theta_bg[condition_n] if many else theta_bg.expand(n, g)
        log_theta_ng = log_theta_bg[condition_n] if many else log_theta_bg.expand(n, g)

        sum_ng = mu_ng + theta_ng
        share_ng = mu_ng / sum_ng
        log_sum_ng = sum_ng.log_()
        excess_ng = log_sum_ng - log_theta_ng

        # The non-zeros: gathered, treated, and put back. ``flat_m`` has no repeats, so plain indexed adds are exact.
        cell_m = torch.div(flat_m, g, rounding_mode="floor")
        gene_m = flat_m - cell_m * g
        entry_m = condition_n[cell_m] * g + gene_m if many else gene_m
        theta_m = theta_bg.view(-1)[entry_m]
        if link == "softmax":
            # From the logits, because a small probability underflows where its logarithm does not.
            offset_n = size_n.log() - (logits_ng.amax(1) - p_ng.amax(1).log())
            log_mu_m = logits_ng.view(-1)[flat_m] + offset_n[cell_m]
        elif link == "softplus":
            log_mu_m = mu_ng.view(-1)[flat_m].log()
        else:
            log_mu_m = logits_ng.view(-1)[flat_m].clamp(max=_MAX_LOGIT)
        share_m = share_ng.view(-1)[flat_m]
        nonzero_m = (
            torch.lgamma(value_m + theta_m)
            - torch.lgamma(theta_m)
            - torch.lgamma(value_m + 1.0)
            + value_m * (log_mu_m - log_sum_ng.view(-1)[flat_m])
        )
        nll_n = (theta_ng * excess_ng).sum(1)
        nll_n.index_add_(0, cell_m, nonzero_m, alpha=-1.0)

        # d nll / d log mu, then through the link.
        grad_ng = theta_ng * share_ng
        grad_ng.view(-1).index_add_(0, flat_m, value_m * share_m - value_m)
        if link == "softmax":
            grad_ng.addcmul_(p_ng, grad_ng.sum(1, keepdim=True), value=-1.0)
        elif link == "softplus":
            grad_ng.mul_(torch.sigmoid(logits_ng)).div_(mu_ng)

        # d nll / d log theta, dense part kept per entry, the part of the non-zeros per entry of the table.
        slope_ng = excess_ng.sub_(share_ng).mul_(theta_ng)
        slope_m = value_m * (1.0 - share_m) - theta_m * (torch.digamma(value_m + theta_m) - torch.digamma(theta_m))
        ctx.save_for_backward(grad_ng, slope_ng, slope_m, condition_n, cell_m, entry_m)
        ctx.table = log_theta_bg.shape
        return nll_n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_n,) = grads
        grad_ng, slope_ng, slope_m, condition_n, cell_m, entry_m = ctx.saved_tensors
        b = ctx.table[0]
        theta_grad = None
        if ctx.needs_input_grad[1]:
            weight_bn = torch.zeros(b, len(grad_n), dtype=slope_ng.dtype, device=slope_ng.device)
            weight_bn[condition_n, torch.arange(len(grad_n), device=grad_n.device)] = grad_n
            theta_grad = weight_bn @ slope_ng
            theta_grad.view(-1).index_add_(0, entry_m, slope_m * grad_n[cell_m])
        return grad_ng * grad_n[:, None], theta_grad, None, None, None, None, None


def negative_binomial_nll(
    logits_ng: Tensor,
    log_theta_bg: Tensor,
    size_n: Tensor,
    condition_n: Tensor,
    flat_m: Tensor,
    value_m: Tensor,
    link: str = "softmax",
) -> Tensor:
    """Negative log-likelihood of sparse counts, summed over the genes of each cell.

    Parameters
    ----------
    logits_ng
        Output of the linear decoder, (n, g).
    log_theta_bg
        Log inverse dispersion by condition and gene, (b, g).
    size_n
        Library size of each cell (counts over the model's genes), used by the ``softmax`` link.
    condition_n
        Condition of each cell, int64 in ``[0, b)``.
    flat_m
        Positions ``cell * g + gene`` of the non-zero counts, int64 without repeats.
    value_m
        The non-zero counts, in the order of ``flat_m``.
    link
        ``softmax`` (mean = size x softmax), ``softplus`` or ``exp`` of the logits (paper, equation 2).

    Returns
    -------
    Tensor
        Shape (n,), in nats. Differentiable once in the logits and in ``log_theta_bg``.
    """
    if link not in LINKS:
        raise UsageError(f"unknown mean function {link!r}", f"choose one of {', '.join(LINKS)}")
    nll: Tensor = _NegativeBinomial.apply(logits_ng, log_theta_bg, size_n, condition_n, flat_m, value_m, link)
    return nll


def gaussian_kl(mu_nz: Tensor, var_nz: Tensor) -> Tensor:
    """KL divergence of N(mu, var) from N(0, 1), summed over the latent dimensions of each cell, shape (n,)."""
    return 0.5 * (mu_nz.square() + var_nz - var_nz.log() - 1.0).sum(1)
