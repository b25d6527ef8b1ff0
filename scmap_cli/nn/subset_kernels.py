"""The two passes of :mod:`.subset` compiled for CPUs: float32, a row of the k x g softmaxes at a time in the cache."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from numba import njit

from scmap_cli.nn.kernels import exp32, log1p32
from scmap_cli.runtime.compiled import compiled

f32, i32 = np.float32, np.int32
_LOOSE = {"nsz", "contract", "reassoc"}
_kernel = partial(compiled, fastmath=_LOOSE, error_model="numpy")
_inline = njit(fastmath=_LOOSE, error_model="numpy")
_LOWEST = f32(-80.0)
_SMALL, _BLOCK = f32(0.015), 256


@_inline
def _order(x: Any) -> Any:
    """An int32 for each float32 in the same order: the compiler vectorises the largest of integers, not of floats."""
    bits = f32(x).view(i32)
    return bits ^ ((bits >> i32(31)) & i32(0x7FFFFFFF))


@_inline
def _largest(w_g: Any) -> Any:
    """Place of the largest entry, of equal ones the first."""
    top, first = i32(-(1 << 31)), 0
    for start in range(0, len(w_g), _BLOCK):
        w_b = w_g[start : start + _BLOCK]
        largest = i32(-(1 << 31))
        for j in range(len(w_b)):
            largest = max(largest, _order(w_b[j]))
        if largest > top:
            top, first = largest, start
    place = first
    while _order(w_g[place]) != top:
        place += 1
    return place


@_inline
def _exponentials(w_g: Any, top: Any, reverse: Any, a_g: Any) -> Any:
    total = f32(0.0)
    for j in range(len(w_g)):
        e = exp32(max((w_g[j] - top) * reverse, _LOWEST))
        a_g[j] = e
        total += e
    return total


@_inline
def _reduce(w_g: Any, a_g: Any, mask_g: Any, scale: Any) -> None:
    for start in range(0, len(w_g), _BLOCK):
        end = start + _BLOCK
        w_b, a_b, mask_b = w_g[start:end], a_g[start:end], mask_g[start:end]
        largest = i32(0)
        for j in range(len(a_b)):
            a = f32(a_b[j] * scale)
            a_b[j] = a
            mask_b[j] += a
            largest = max(largest, _order(a))
        # Nearly all entries are small, and four terms of the series are then as exact as the logarithm.
        if largest < _order(_SMALL):
            for j in range(len(a_b)):
                a = a_b[j]
                w_b[j] -= a * (f32(1.0) + a * (f32(0.5) + a * (f32(1 / 3) + a * f32(0.25))))
        else:
            for j in range(len(a_b)):
                w_b[j] += log1p32(-a_b[j])


@_kernel
def choose(w_g: Any, reverse: float, mask_g: Any, a_kg: Any, place_k: Any, rest_k: Any) -> None:
    """Forward; ``w_g`` is used up, ``reverse`` is one over the temperature, the others are results."""
    by = f32(reverse)
    for i in range(len(a_kg)):
        place = _largest(w_g)
        top, a_g = w_g[place], a_kg[i]
        # On either side of the largest entry, so that the sum of the others is theirs alone.
        others = _exponentials(w_g[:place], top, by, a_g[:place])
        others += _exponentials(w_g[place + 1 :], top, by, a_g[place + 1 :])
        scale = f32(1.0) / (f32(1.0) + others)
        _reduce(w_g[:place], a_g[:place], mask_g[:place], scale)
        _reduce(w_g[place + 1 :], a_g[place + 1 :], mask_g[place + 1 :], scale)
        rest = others * scale
        a_g[place] = scale
        mask_g[place] += scale
        w_g[place] += f32(math.log(rest))
        place_k[i] = place
        rest_k[i] = rest


@_inline
def _mean_gradient(grad_g: Any, a_g: Any, grad_w_g: Any) -> Any:
    total = f32(0.0)
    for j in range(len(a_g)):
        total += a_g[j] * (grad_g[j] - grad_w_g[j] / (f32(1.0) - a_g[j]))
    return total


@_inline
def _add_gradient(grad_g: Any, a_g: Any, grad_w_g: Any, offset: Any, reverse: Any) -> None:
    for j in range(len(a_g)):
        back = grad_w_g[j] / (f32(1.0) - a_g[j])
        grad_w_g[j] += a_g[j] * reverse * (grad_g[j] - back + offset)


@_kernel
def choose_gradient(grad_g: Any, a_kg: Any, place_k: Any, rest_k: Any, grad_w_g: Any, reverse: float) -> None:
    """Backward; ``grad_w_g`` comes in as zeros and leaves as the gradient in the logits."""
    by = f32(reverse)
    for i in range(len(a_kg) - 1, -1, -1):
        a_g, place, rest = a_kg[i], place_k[i], rest_k[i]
        top, slope, back = a_g[place], grad_g[place], grad_w_g[place]
        mean = _mean_gradient(grad_g[:place], a_g[:place], grad_w_g[:place])
        mean += _mean_gradient(grad_g[place + 1 :], a_g[place + 1 :], grad_w_g[place + 1 :])
        offset = top * back / rest - mean - top * slope
        _add_gradient(grad_g[:place], a_g[:place], grad_w_g[:place], offset, by)
        _add_gradient(grad_g[place + 1 :], a_g[place + 1 :], grad_w_g[place + 1 :], offset, by)
        grad_w_g[place] += top * by * (rest * slope - back - mean)
