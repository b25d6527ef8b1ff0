"""What passes over many numbers that are compiled for CPUs share: float32 functions, and threads that share the rows.

numba's own exp and log1p are calls to scalar functions, which keep the compiler from vectorising a loop; hence the
polynomials. The passes stand in files named after what they compute.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numba import njit

from scmap_cli.runtime.compiled import compiled

f32, i32 = np.float32, np.int32

# Reordering sums is what lets the compiler vectorise them; the two functions below must keep their order.
_EXACT = {"nsz", "contract"}
_LOOSE = {*_EXACT, "reassoc"}
kernel = partial(compiled, fastmath=_LOOSE, error_model="numpy")
# Rows below which another thread costs more than it brings.
_SHARE = 256


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


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="scmap-kernel")


def in_shares(n: int, work: Callable[[int, int], Any], least: int = _SHARE) -> list[Any]:
    """``work(first, last)`` on equal shares of ``n`` rows, as many at once as torch may use threads."""
    shares = max(1, min(torch.get_num_threads(), n // least))
    edges = [n * i // shares for i in range(shares + 1)]
    others = [_pool().submit(work, *edge) for edge in list(pairwise(edges))[1:]]
    return [work(edges[0], edges[1]), *(other.result() for other in others)]
