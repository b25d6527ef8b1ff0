"""Parts of a training step in one pass over their entries, compiled for CPUs: float32, threads share the rows.

As separate tensor operations the negative binomial and its gradient read and write a cells x genes matrix some twenty
times, a sparse product transposes it twice each way, and nine tenths of a dense first layer multiply zeros: together
more than half of a step. Here a row, or a tile of rows, stays in the cache. The loops are plain enough for the compiler
to vectorise; numba's own exp and log1p are calls to scalar functions, which is why their polynomials stand below.
``examples/benchmarks/expimap.py`` measures it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from scmap_cli.data.gather import by_column
from scmap_cli.runtime.compiled import compiled

f32, i32 = np.float32, np.int32

# Reordering sums is what lets the compiler vectorise them; the two functions below must keep their order.
_EXACT = {"nsz", "contract"}
_LOOSE = {*_EXACT, "reassoc"}
kernel = partial(compiled, fastmath=_LOOSE, error_model="numpy")
# Rows below which another thread costs more than it brings.
_SHARE = 256
# The same for features, whose rows are shorter work.
_FEATURES = 4096
# Rows and genes that a sparse product treats at a time, so that a tile of both stays in the first-level cache.
_TILE, _GENES = 64, 16
# Up to this count the ratio of two gamma functions is a product of as many factors; the series holds from here on.
_PRODUCT = 16.0
# Between these a product of float64 takes one more such ratio without overflow: dispersions end at e^10 (expiMap).
_SMALL, _LARGE = 1e-200, 1e200


@njit(fastmath=_EXACT, error_model="numpy")
def exp32(x: Any) -> Any:
    """``exp`` of a float32 in [-87, 88] to 3e-7, relative: a power of two, and a polynomial of the rest."""
    k = np.floor(x * f32(1.44269504) + f32(0.5))
    # log(2) in two parts, so that the remainder keeps all of its bits.
    r = x - k * f32(0.693359375) - k * f32(-2.12194440e-4)
    p = f32(1.9875691500e-4)
    p = p * r + f32(1.3981999507e-3)
    p = p * r + f32(8.3334519073e-3)
    p = p * r + f32(4.1665795894e-2)
    p = p * r + f32(1.6666665459e-1)
    p = p * r + f32(5.0000001201e-1)
    return (p * r * r + r + f32(1.0)) * i32((i32(k) + i32(127)) << i32(23)).view(f32)


@njit(fastmath=_EXACT, error_model="numpy")
def log1p32(t: Any) -> Any:
    """``log(1 + t)`` of a finite float32 ``t >= 0`` to 2e-7, relative: exponent, and a polynomial of the mantissa."""
    u = f32(1.0) + t
    lost = t - (u - f32(1.0))
    bits = f32(u).view(i32)
    k = (bits - i32(0x3F3504F3)) >> i32(23)
    x = i32(bits - (k << i32(23))).view(f32) - f32(1.0)
    p = f32(7.0376836292e-2)
    p = p * x + f32(-1.1514610310e-1)
    p = p * x + f32(1.1676998740e-1)
    p = p * x + f32(-1.2420140846e-1)
    p = p * x + f32(1.4249322787e-1)
    p = p * x + f32(-1.6668057665e-1)
    p = p * x + f32(2.0000714765e-1)
    p = p * x + f32(-2.4999993993e-1)
    p = p * x + f32(3.3333331174e-1)
    z = x * x
    y = p * x * z + f32(k) * f32(-2.12194440e-4) - f32(0.5) * z
    return x + y + f32(k) * f32(0.693359375) + lost / u


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


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="scmap-kernel")


def in_shares(n: int, work: Callable[[int, int], Any], least: int = _SHARE) -> list[Any]:
    """``work(first, last)`` on equal shares of ``n`` rows, as many at once as torch may use threads."""
    shares = max(1, min(torch.get_num_threads(), n // least))
    edges = [n * i // shares for i in range(shares + 1)]
    others = [_pool().submit(work, *edge) for edge in list(pairwise(edges))[1:]]
    return [work(edges[0], edges[1]), *(other.result() for other in others)]


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


@kernel
def _product_rows(
    z_nk: Any,
    w_e: Any,
    shift_bg: Any,
    condition_n: Any,
    crow_g: Any,
    column_e: Any,
    out_ng: Any,
    first: int,
    last: int,
) -> None:
    k, g = z_nk.shape[1], out_ng.shape[1]
    z_kt, out_gt = np.zeros((k, _TILE), f32), np.empty((_GENES, _TILE), f32)
    for start in range(first, last, _TILE):
        rows = min(_TILE, last - start)
        for t in range(rows):
            for p in range(k):
                z_kt[p, t] = z_nk[start + t, p]
        for gene in range(0, g, _GENES):
            genes = min(_GENES, g - gene)
            out_gt[:] = f32(0.0)
            for j in range(genes):
                for e in range(crow_g[gene + j], crow_g[gene + j + 1]):
                    p, w = column_e[e], w_e[e]
                    for t in range(_TILE):
                        out_gt[j, t] += w * z_kt[p, t]
            for t in range(rows):
                b = condition_n[start + t]
                for j in range(genes):
                    out_ng[start + t, gene + j] = out_gt[j, t] + shift_bg[b, gene + j]


@kernel
def _product_gradient_rows(
    grad_ng: Any,
    z_nk: Any,
    w_e: Any,
    condition_n: Any,
    crow_g: Any,
    column_e: Any,
    grad_nk: Any,
    grad_e: Any,
    grad_bg: Any,
    first: int,
    last: int,
) -> None:
    k, g = z_nk.shape[1], grad_ng.shape[1]
    z_kt, grad_kt, grad_gt = np.zeros((k, _TILE), f32), np.empty((k, _TILE), f32), np.zeros((_GENES, _TILE), f32)
    for start in range(first, last, _TILE):
        rows = min(_TILE, last - start)
        grad_kt[:] = f32(0.0)
        grad_gt[:] = f32(0.0)
        for t in range(rows):
            for p in range(k):
                z_kt[p, t] = z_nk[start + t, p]
        for gene in range(0, g, _GENES):
            genes = min(_GENES, g - gene)
            for t in range(rows):
                b = condition_n[start + t]
                for j in range(genes):
                    grad_gt[j, t] = grad_ng[start + t, gene + j]
                    grad_bg[b, gene + j] += grad_ng[start + t, gene + j]
            for j in range(genes):
                for e in range(crow_g[gene + j], crow_g[gene + j + 1]):
                    p, w, total = column_e[e], w_e[e], f32(0.0)
                    for t in range(_TILE):
                        total += grad_gt[j, t] * z_kt[p, t]
                        grad_kt[p, t] += w * grad_gt[j, t]
                    grad_e[e] += total
        for t in range(rows):
            for p in range(k):
                grad_nk[start + t, p] = grad_kt[p, t]


def sparse_product(
    z_nk: Tensor, w_e: Tensor, shift_bg: Tensor, condition_n: Tensor, crow_g: Tensor, column_e: Tensor
) -> Tensor:
    """``z_nk @ W.T + shift_bg[condition_n]`` for a genes x programs matrix W in CSR form, (n, g).

    Parameters
    ----------
    z_nk
        float32 on the CPU, (n, k).
    w_e, crow_g, column_e
        Values (float32), row pointers and columns (int64) of W.
    shift_bg, condition_n
        Shifts of every condition (float32) and the condition of each cell (int64).
    """
    out_ng = torch.empty(len(z_nk), len(crow_g) - 1)
    arrays = [t.detach().numpy() for t in (z_nk, w_e, shift_bg, condition_n, crow_g, column_e, out_ng)]
    in_shares(len(z_nk), lambda first, last: _product_rows(*arrays, first, last))
    return out_ng


def sparse_product_gradient(
    grad_ng: Tensor,
    z_nk: Tensor,
    w_e: Tensor,
    conditions: int,
    condition_n: Tensor,
    crow_g: Tensor,
    column_e: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`sparse_product` in ``z_nk``, in ``w_e`` and in the shifts of so many conditions."""
    grad_nk = torch.empty_like(z_nk, memory_format=torch.contiguous_format)
    tensors = (grad_ng.contiguous(), z_nk, w_e, condition_n, crow_g, column_e, grad_nk)
    arrays = [tensor.detach().numpy() for tensor in tensors]

    def share(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        grad_e, grad_bg = np.zeros(len(w_e), f32), np.zeros((conditions, grad_ng.shape[1]), f32)
        _product_gradient_rows(*arrays, grad_e, grad_bg, first, last)
        return grad_e, grad_bg

    parts = zip(*in_shares(len(z_nk), share), strict=True)
    grad_e, grad_bg = (torch.from_numpy(np.sum(part, axis=0, dtype=f32)) for part in parts)
    return grad_nk, grad_e, grad_bg


@kernel
def _shrink_segments(w_e: Any, segment_e: Any, strength_k: Any) -> None:
    scale_k = np.zeros(len(strength_k), f32)
    for e in range(len(w_e)):
        scale_k[segment_e[e]] += w_e[e] * w_e[e]
    for k in range(len(scale_k)):
        norm = np.sqrt(scale_k[k])
        scale_k[k] = f32(1.0) - strength_k[k] / norm if norm > strength_k[k] else f32(0.0)
    for e in range(len(w_e)):
        w_e[e] *= scale_k[segment_e[e]]


def shrink_segments_(w_e: Tensor, segment_e: Tensor, strength_k: Tensor) -> Tensor:
    """:func:`scmap_cli.nn.proximal.segment_shrink_` on the CPU: float32, segments int64; in place."""
    _shrink_segments(*(tensor.detach().numpy() for tensor in (w_e, segment_e, strength_k)))
    return w_e


@kernel
def _add_rows(weight_gh: Any, ccol_g: Any, row_m: Any, value_m: Any, out_nh: Any, first: int, last: int) -> None:
    for j in range(len(ccol_g) - 1):
        # Slices, because the compiler vectorises a loop over all of an array only.
        weight_h = weight_gh[j, first:last]
        for m in range(ccol_g[j], ccol_g[j + 1]):
            sum_h, value = out_nh[row_m[m], first:last], value_m[m]
            for h in range(len(weight_h)):
                sum_h[h] += value * weight_h[h]


@kernel
def _add_rows_gradient(grad_nh: Any, ccol_g: Any, row_m: Any, value_m: Any, out_gh: Any, first: int, last: int) -> None:
    for j in range(first, last):
        sum_h = out_gh[j]
        sum_h[:] = f32(0.0)
        for m in range(ccol_g[j], ccol_g[j + 1]):
            grad_h, value = grad_nh[row_m[m]], value_m[m]
            for h in range(len(sum_h)):
                sum_h[h] += value * grad_h[h]


class StoredRows:
    """The stored values ``x`` of a batch by column, for products with tall float32 matrices on the CPU.

    A row of the tall matrix passes by once, while the sums of all cells stay in the cache.

    Parameters
    ----------
    flat_m, value_m
        Positions ``row * g + column`` (int64, ordered by row) and values (float32) of what is not zero.
    n, g
        Shape.
    """

    def __init__(self, flat_m: Tensor, value_m: Tensor, n: int, g: int) -> None:
        self.n, self.g = n, g
        self.ccol_g, self.row_m = np.empty(g + 1, np.int64), np.empty(len(flat_m), np.int64)
        self.value_m = np.empty(len(flat_m), f32)
        by_column(flat_m.numpy(), value_m.numpy(), g, self.ccol_g, self.row_m, self.value_m)

    def times(self, weight_gh: Tensor) -> Tensor:
        """``x @ weight``, (n, h)."""
        out_nh = torch.zeros(self.n, weight_gh.shape[1])
        arrays = (weight_gh.detach().contiguous().numpy(), self.ccol_g, self.row_m, self.value_m, out_nh.numpy())
        in_shares(weight_gh.shape[1], lambda first, last: _add_rows(*arrays, first, last))
        return out_nh

    def transposed_times(self, grad_nh: Tensor) -> Tensor:
        """``x.T @ grad``, (g, h)."""
        out_gh = torch.empty(self.g, grad_nh.shape[1])
        arrays = (grad_nh.detach().contiguous().numpy(), self.ccol_g, self.row_m, self.value_m, out_gh.numpy())
        in_shares(self.g, lambda first, last: _add_rows_gradient(*arrays, first, last), least=_FEATURES)
        return out_gh
