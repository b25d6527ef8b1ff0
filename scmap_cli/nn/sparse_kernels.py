"""Products with sparse matrices, and a sparse proximal step, compiled for CPUs: float32, threads share the rows.

As tensor operations a sparse product transposes its dense factor twice each way, and nine tenths of a dense first layer
multiply zeros. Here a tile of rows stays in the cache, and the loops are plain enough for the compiler to vectorise.
``examples/benchmarks/expimap.py`` measures it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from scmap_cli.data.gather import by_column
from scmap_cli.nn.kernels import f32, in_shares, kernel

# Features below which another thread costs more than it brings: their rows are shorter work than those of cells.
_FEATURES = 4096
# Rows and genes that a sparse product treats at a time, so that a tile of both stays in the first-level cache.
_TILE, _GENES = 64, 16


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
        # By numpy, since torch asks glibc for aligned memory, which does not fit where one of the same size was freed.
        out_gh = np.empty((self.g, grad_nh.shape[1]), f32)
        arrays = (grad_nh.detach().contiguous().numpy(), self.ccol_g, self.row_m, self.value_m, out_gh)
        in_shares(self.g, lambda first, last: _add_rows_gradient(*arrays, first, last), least=_FEATURES)
        return torch.from_numpy(out_gh)
