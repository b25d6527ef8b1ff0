r"""Negative binomial reconstruction from sparse counts, and the Gaussian KL divergence.

With mean :math:`\mu` and inverse dispersion :math:`\theta` (variance :math:`\mu + \mu^2/\theta`) the negative
log-likelihood of a count :math:`x` splits into a part for every entry and a part for the stored non-zeros alone:

.. math:: \theta\log(1+\mu/\theta) \;-\; [x>0]\,\bigl(\log\Gamma(x+\theta)-\log\Gamma(\theta)-\log\Gamma(x+1)
          + x\log\mu - x\log(\theta+\mu)\bigr)

Log-gamma and digamma, the dear functions, are therefore evaluated at the non-zeros only (5-10 % of the entries).
Value and gradient are computed together: by tensor operations, or on a CPU with the default softmax mean by a compiled
kernel (:mod:`..nn.distributions_kernel`). The tests compare both with the plain formula in float64.
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


def _rising_factorial(value_m: Tensor, theta_m: Tensor, log_theta_m: Tensor) -> tuple[Tensor, Tensor]:
    """``log(Gamma(x + theta) / Gamma(theta))`` of the non-zeros, and its derivative in ``log theta``.

    A count of 1 gives exactly ``log theta`` and 1; half of the counts are, so log-gamma and digamma are
    left to the rest.
    """
    rise_m, slope_m = log_theta_m.clone(), torch.ones_like(theta_m)
    more_m = (value_m != 1.0).nonzero()[:, 0]
    theta_r = theta_m.index_select(0, more_m)
    shifted_r = value_m.index_select(0, more_m) + theta_r
    rise_m.index_copy_(0, more_m, torch.lgamma(shifted_r) - torch.lgamma(theta_r))
    slope_m.index_copy_(0, more_m, theta_r * (torch.digamma(shifted_r) - torch.digamma(theta_r)))
    return rise_m, slope_m


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
        constant_n: Tensor,
        link: str,
    ) -> Tensor:
        counts = (size_n, condition_n, flat_m, value_m)
        if link == "softmax" and logits_ng.device.type == "cpu" and logits_ng.dtype == torch.float32:
            # numba takes half a second to import, which only CPU training has to wait for
            from scmap_cli.nn.distributions_kernel import softmax_negative_binomial

            nll_n, grad_ng, slope_ng = softmax_negative_binomial(
                logits_ng.contiguous(), log_theta_bg.contiguous(), *counts
            )
        else:
            nll_n, grad_ng, slope_ng = _by_tensors(logits_ng, log_theta_bg, *counts, link)
        ctx.save_for_backward(grad_ng, slope_ng, condition_n)
        ctx.conditions = len(log_theta_bg)
        return nll_n + constant_n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_n,) = grads
        grad_ng, slope_ng, condition_n = ctx.saved_tensors
        theta_grad = None
        if ctx.needs_input_grad[1]:
            weight_bn = torch.zeros(ctx.conditions, len(grad_n), dtype=slope_ng.dtype, device=slope_ng.device)
            weight_bn[condition_n, torch.arange(len(grad_n), device=grad_n.device)] = grad_n
            theta_grad = weight_bn @ slope_ng
        return grad_ng * grad_n[:, None], theta_grad, None, None, None, None, None, None


def _by_tensors(
    logits_ng: Tensor,
    log_theta_bg: Tensor,
    size_n: Tensor,
    condition_n: Tensor,
    flat_m: Tensor,
    value_m: Tensor,
    link: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The NLL without ``sum log(x!)``, (n,), its gradient in the logits and that in log theta, both (n, g)."""
    cell_m = torch.div(flat_m, logits_ng.shape[1], rounding_mode="floor")
    theta_ng = log_theta_bg.exp().index_select(0, condition_n)
    log_theta_m = log_theta_bg.index_select(0, condition_n).view(-1).index_select(0, flat_m)
    rise_m, rise_slope_m = _rising_factorial(value_m, theta_ng.view(-1).index_select(0, flat_m), log_theta_m)
    log_mu_m = logits_ng.reshape(-1).index_select(0, flat_m)
    if link == "softmax":
        p_ng = torch.softmax(logits_ng, dim=1)
        mu_ng = p_ng * size_n[:, None]
        # From the logits, because a small probability underflows where its logarithm does not.
        log_mu_m += (size_n.log() - torch.logsumexp(logits_ng, 1)).index_select(0, cell_m)
    elif link == "softplus":
        p_ng = mu_ng = torch.nn.functional.softplus(logits_ng).clamp_min(_TINY)
        log_mu_m = p_ng.view(-1).index_select(0, flat_m).log()
    else:
        mu_ng = logits_ng.clamp(max=_MAX_LOGIT).exp()
        log_mu_m = log_mu_m.clamp_max(_MAX_LOGIT)
    # log(1 + mu / theta), not a difference of logarithms: those cancel where theta is large.
    ratio_ng = mu_ng / theta_ng
    log1p_ng = ratio_ng.log1p()
    unexplained_m = value_m / (1.0 + ratio_ng.view(-1).index_select(0, flat_m))
    nonzero_m = rise_m + value_m * (log_mu_m - log1p_ng.view(-1).index_select(0, flat_m) - log_theta_m)
    excess_ng = log1p_ng * theta_ng
    nll_n = excess_ng.sum(1).index_add(0, cell_m, nonzero_m, alpha=-1.0)
    # d nll / d log mu and d nll / d log theta share theta mu / (theta + mu); then the first goes through the link.
    grad_ng = theta_ng * ratio_ng / (1.0 + ratio_ng)
    slope_ng = excess_ng - grad_ng
    grad_ng.view(-1).index_add_(0, flat_m, unexplained_m, alpha=-1.0)
    slope_ng.view(-1).index_add_(0, flat_m, unexplained_m - rise_slope_m)
    if link == "softmax":
        grad_ng.addcmul_(p_ng, grad_ng.sum(1, keepdim=True), value=-1.0)
    elif link == "softplus":
        grad_ng.mul_(torch.sigmoid(logits_ng)).div_(p_ng)
    return nll_n, grad_ng, slope_ng


def negative_binomial_nll(
    logits_ng: Tensor,
    log_theta_bg: Tensor,
    size_n: Tensor,
    condition_n: Tensor,
    flat_m: Tensor,
    value_m: Tensor,
    constant_n: Tensor,
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
        Positions ``cell * g + gene`` of the non-zero counts, int64 without repeats, ordered by cell.
    value_m
        The non-zero counts, in the order of ``flat_m``.
    constant_n
        Sum of ``log(x!)`` of each cell's counts, which no parameter changes.
    link
        ``softmax`` (mean = size x softmax), ``softplus`` or ``exp`` of the logits (paper, equation 2).

    Returns
    -------
    Tensor
        Shape (n,), in nats. Differentiable once in the logits and in ``log_theta_bg``.
    """
    if link not in LINKS:
        raise UsageError(f"unknown mean function {link!r}", f"choose one of {', '.join(LINKS)}")
    nll: Tensor = _NegativeBinomial.apply(
        logits_ng, log_theta_bg, size_n, condition_n, flat_m, value_m, constant_n, link
    )
    return nll


def gaussian_kl(mu_nz: Tensor, var_nz: Tensor) -> Tensor:
    """KL divergence of N(mu, var) from N(0, 1), summed over the latent dimensions of each cell, shape (n,)."""
    return 0.5 * (mu_nz.square() + var_nz - var_nz.log() - 1.0).sum(1)


def gaussian_kl_between(mu_nz: Tensor, var_nz: Tensor, other_mu_nz: Tensor, other_var_nz: Tensor) -> Tensor:
    """KL divergence of N(mu, var) from N(other mu, other var), summed over the dimensions of each cell, shape (n,)."""
    ratio_nz = var_nz / other_var_nz
    return 0.5 * (ratio_nz - ratio_nz.log() - 1.0 + (mu_nz - other_mu_nz).square() / other_var_nz).sum(1)
