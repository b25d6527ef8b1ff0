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
# Entries of a block of rows: at 4 bytes and a handful of temporaries they fit the second-level cache of a core.
_CACHED_ENTRIES = 1 << 17


def _rising_factorial(value_m: Tensor, theta_bg: Tensor, entry_m: Tensor) -> tuple[Tensor, Tensor]:
    """``log(Gamma(x + theta) / Gamma(theta))`` of the non-zeros, and its derivative in ``log theta``.

    A count of 1 gives exactly ``log theta`` and 1, a count of 2 adds ``log(theta + 1)`` and ``theta / (theta + 1)``;
    most counts are one of these, so log-gamma and digamma are left to the rest.
    """
    theta_m = theta_bg.view(-1).index_select(0, entry_m)
    gamma_m, slope_m = theta_m.log(), torch.ones_like(theta_m)
    two_m = (value_m == 2.0).nonzero()[:, 0]
    theta_r = theta_m.index_select(0, two_m)
    next_r = theta_r + 1.0
    gamma_m.index_copy_(0, two_m, (theta_r * next_r).log_())
    slope_m.index_copy_(0, two_m, (theta_r / next_r).add_(1.0))
    more_m = ((value_m != 1.0) & (value_m != 2.0)).nonzero()[:, 0]
    theta_r = theta_m.index_select(0, more_m)
    shifted_r = value_m.index_select(0, more_m) + theta_r
    gamma_m.index_copy_(0, more_m, torch.lgamma(shifted_r) - torch.lgamma(theta_r))
    slope_m.index_copy_(0, more_m, theta_r * (torch.digamma(shifted_r) - torch.digamma(theta_r)))
    return gamma_m, slope_m


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
        n, g = logits_ng.shape
        logits_ng = logits_ng.contiguous()
        theta_bg = log_theta_bg.exp()
        cell_m = torch.div(flat_m, g, rounding_mode="floor")
        # The position of each non-zero in the table of dispersions.
        entry_m = condition_n.index_select(0, cell_m).sub_(cell_m).mul_(g).add_(flat_m)
        gamma_m, rise_m = _rising_factorial(value_m, theta_bg, entry_m)

        grad_ng, slope_ng = torch.empty_like(logits_ng), torch.empty_like(logits_ng)
        log_ratio_m, share_m = torch.empty_like(value_m), torch.empty_like(value_m)
        nll_n = torch.empty_like(size_n)
        for rows, entries in _blocks(n, g, cell_m, logits_ng.device):
            _dense_part(
                logits_ng[rows],
                theta_bg.index_select(0, condition_n[rows]),
                log_theta_bg.index_select(0, condition_n[rows]),
                size_n[rows],
                flat_m[entries] - rows.start * g,
                link,
                (grad_ng[rows], slope_ng[rows], nll_n[rows], log_ratio_m[entries], share_m[entries]),
                value_m[entries],
            )
        nonzero_m = gamma_m + value_m * log_ratio_m
        nll_n += constant_n
        nll_n.index_add_(0, cell_m, nonzero_m, alpha=-1.0)
        slope_m = value_m * (1.0 - share_m) - rise_m
        ctx.save_for_backward(grad_ng, slope_ng, slope_m, condition_n, cell_m, entry_m)
        ctx.table = log_theta_bg.shape
        return nll_n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_n,) = grads
        grad_ng, slope_ng, slope_m, condition_n, cell_m, entry_m = ctx.saved_tensors
        theta_grad = None
        if ctx.needs_input_grad[1]:
            weight_bn = torch.zeros(ctx.table[0], len(grad_n), dtype=slope_ng.dtype, device=slope_ng.device)
            weight_bn[condition_n, torch.arange(len(grad_n), device=grad_n.device)] = grad_n
            theta_grad = weight_bn @ slope_ng
            theta_grad.view(-1).index_add_(0, entry_m, slope_m * grad_n[cell_m])
        return grad_ng * grad_n[:, None], theta_grad, None, None, None, None, None, None


def _blocks(n: int, g: int, cell_m: Tensor, device: torch.device) -> list[tuple[slice, slice]]:
    """Rows, and their non-zeros, to treat at a time: few enough on a CPU that the temporaries stay in its cache."""
    if device.type != "cpu":
        return [(slice(0, n), slice(0, len(cell_m)))]
    rows = max(1, _CACHED_ENTRIES // g)
    starts = torch.arange(0, n, rows)
    edges = [*torch.searchsorted(cell_m, starts).tolist(), len(cell_m)]
    firsts = starts.tolist()
    return [(slice(first, min(first + rows, n)), slice(edges[i], edges[i + 1])) for i, first in enumerate(firsts)]


def _dense_part(
    logits_ng: Tensor,
    theta_ng: Tensor,
    log_theta_ng: Tensor,
    size_n: Tensor,
    flat_m: Tensor,
    link: str,
    out: tuple[Tensor, ...],
    value_m: Tensor,
) -> None:
    """What every entry contributes, written into ``out``.

    ``out`` holds the gradient in the logits and the dense part of that in log theta, both (n, g), the dense NLL (n,),
    and for the non-zeros ``log(mu / (theta + mu))`` and ``mu / (theta + mu)``.
    """
    grad_ng, slope_ng, nll_n, log_ratio_m, share_m = out
    log_mu_m = logits_ng.view(-1).index_select(0, flat_m)
    if link == "softmax":
        p_ng = torch.softmax(logits_ng, dim=1)
        mu_ng = p_ng * size_n[:, None]
        # From the logits, because a small probability underflows where its logarithm does not.
        offset_n = size_n.log() - (logits_ng.amax(1) - p_ng.amax(1).log())
        log_mu_m += offset_n.index_select(0, torch.div(flat_m, logits_ng.shape[1], rounding_mode="floor"))
    elif link == "softplus":
        p_ng = torch.nn.functional.softplus(logits_ng).clamp_min_(_TINY)
        mu_ng = p_ng.clone()
        log_mu_m = p_ng.view(-1).index_select(0, flat_m).log_()
    else:
        mu_ng = logits_ng.clamp(max=_MAX_LOGIT).exp_()
        log_mu_m = log_mu_m.clamp_max_(_MAX_LOGIT)

    sum_ng = torch.add(mu_ng, theta_ng, out=slope_ng)
    share_ng = torch.div(mu_ng, sum_ng, out=grad_ng)
    torch.index_select(share_ng.view(-1), 0, flat_m, out=share_m)
    # log(1 + mu / theta), not a difference of logarithms: those cancel where theta is large.
    excess_ng = torch.div(mu_ng, theta_ng, out=slope_ng).log1p_()
    log_sum_m = excess_ng.view(-1).index_select(0, flat_m).add_(log_theta_ng.view(-1).index_select(0, flat_m))
    torch.sub(log_mu_m, log_sum_m, out=log_ratio_m)

    excess_ng = excess_ng.mul_(theta_ng)
    torch.sum(excess_ng, 1, out=nll_n)
    # d nll / d log mu and d nll / d log theta share theta mu / (theta + mu); then the first goes through the link.
    grad_ng.mul_(theta_ng)
    slope_ng.sub_(grad_ng)
    grad_ng.view(-1).index_add_(0, flat_m, value_m * share_m - value_m)
    if link == "softmax":
        grad_ng.addcmul_(p_ng, grad_ng.sum(1, keepdim=True), value=-1.0)
    elif link == "softplus":
        grad_ng.mul_(torch.sigmoid(logits_ng)).div_(p_ng)


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
