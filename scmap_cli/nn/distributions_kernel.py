"""The negative binomial and its derivatives in one pass, compiled for CPUs: float32, threads share the rows.

As separate tensor operations they read and write a cells x genes matrix some twenty times; here a row stays in the
cache, and the loops are plain enough for the compiler to vectorise. ``examples/benchmarks/expimap.py`` measures it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from scmap_cli.nn.kernels import exp32, f32, in_shares, kernel, log1p32

# Up to this count the ratio of two gamma functions is a product of as many factors; the series holds from here on.
_PRODUCT = 16.0
# Between these a product of float64 takes one more such ratio without overflow: dispersions end at e^10 (expiMap).
_SMALL, _LARGE = 1e-200, 1e200


@njit(error_model="numpy")
def _rising_factorial(x: float, theta: float) -> tuple[float, float, float]:
    """``log(Gamma(x + theta) / Gamma(theta))`` and its derivative in ``log theta``, for a whole number ``x >= 1``.

    The first is the sum of the first number returned and the logarithm of the second, which is a product of up to
    sixteen factors, so that a caller may take one logarithm of many; the third is the derivative. What is beyond
    comes from the asymptotic series of both functions, in float64.
    """
    rise, product, slope = 0.0, theta, 1.0
    for i in range(1, int(min(x, _PRODUCT))):
        product *= theta + i
        slope += theta / (theta + i)
    if x > _PRODUCT:
        a, b = theta + _PRODUCT, theta + x
        log_a, log_b = math.log(a), math.log(b)
        ra, rb = 1.0 / a, 1.0 / b
        rise += (b - 0.5) * log_b - b + rb * (1 - rb * rb / 30) / 12
        rise -= (a - 0.5) * log_a - a + ra * (1 - ra * ra / 30) / 12
        slope += theta * (log_b - 0.5 * rb - rb * rb * (1 - rb * rb / 10) / 12)
        slope -= theta * (log_a - 0.5 * ra - ra * ra * (1 - ra * ra / 10) / 12)
    return rise, product, slope


@kernel
def _softmax_rows(
    logits_ng: Any,
    top_n: Any,
    log_theta_bg: Any,
    size_n: Any,
    condition_n: Any,
    flat_m: Any,
    value_m: Any,
    nll_n: Any,
    grad_ng: Any,
    slope_ng: Any,
    first: int,
    last: int,
) -> None:
    g = logits_ng.shape[1]
    theta_bg = np.exp(log_theta_bg)
    reverse_bg = f32(1.0) / theta_bg
    p_g, log1p_g = np.empty(g, f32), np.empty(g, f32)
    m = np.searchsorted(flat_m, first * g)
    for i in range(first, last):
        b = condition_n[i]
        total = f32(0.0)
        for j in range(g):
            p_g[j] = exp32(max(logits_ng[i, j] - top_n[i], f32(-87.0)))
            total += p_g[j]
        scale = size_n[i] / total
        nll, mass = f32(0.0), f32(0.0)
        for j in range(g):
            theta = theta_bg[b, j]
            ratio = p_g[j] * scale * reverse_bg[b, j]
            log1p_g[j] = log1p32(ratio)
            excess = log1p_g[j] * theta
            slope = theta * ratio / (f32(1.0) + ratio)
            grad_ng[i, j] = slope
            slope_ng[i, j] = excess - slope
            nll += excess
            mass += slope
        # The non-zeros are few; what needs no branch first.
        start = m
        while m < len(flat_m) and flat_m[m] < (i + 1) * g:
            m += 1
        offset = f32(math.log(scale)) - top_n[i]
        nonzero = f32(0.0)
        for r in range(start, m):
            j, x = flat_m[r] - i * g, value_m[r]
            ratio = p_g[j] * scale * reverse_bg[b, j]
            nonzero += x * (logits_ng[i, j] + offset - log1p_g[j] - log_theta_bg[b, j])
            unexplained = x / (f32(1.0) + ratio)
            grad_ng[i, j] -= unexplained
            slope_ng[i, j] += unexplained
            mass -= unexplained
        # One logarithm of as many factors as a float64 holds.
        risen, product = 0.0, 1.0
        for r in range(start, m):
            j = flat_m[r] - i * g
            rise, factor, by_theta = _rising_factorial(float(value_m[r]), float(theta_bg[b, j]))
            slope_ng[i, j] -= f32(by_theta)
            risen += rise
            product *= factor
            if not _SMALL < product < _LARGE:
                risen += math.log(product)
                product = 1.0
        risen += math.log(product)
        nll_n[i] = float(nll) - float(nonzero) - risen
        through_softmax = mass / total
        for j in range(g):
            grad_ng[i, j] -= p_g[j] * through_softmax


def softmax_negative_binomial(
    logits_ng: Tensor, log_theta_bg: Tensor, size_n: Tensor, condition_n: Tensor, flat_m: Tensor, value_m: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Negative log-likelihood without ``sum log(x!)`` under the softmax mean, and its derivatives.

    Parameters
    ----------
    logits_ng, log_theta_bg, size_n, condition_n, flat_m, value_m
        As in :func:`scmap_cli.nn.distributions.negative_binomial_nll`: float32 (positions and conditions int64) on the
        CPU, contiguous.

    Returns
    -------
    tuple of Tensor
        The likelihood, (n,); its derivative in the logits and that in the log inverse dispersion, both (n, g).
    """
    nll_n, grad_ng, slope_ng = torch.empty_like(size_n), torch.empty_like(logits_ng), torch.empty_like(logits_ng)
    top_n = logits_ng.amax(1)
    tensors = (logits_ng, top_n, log_theta_bg, size_n, condition_n, flat_m, value_m, nll_n, grad_ng, slope_ng)
    arrays = [tensor.detach().numpy() for tensor in tensors]
    in_shares(len(nll_n), lambda first, last: _softmax_rows(*arrays, first, last))
    return nll_n, grad_ng, slope_ng
