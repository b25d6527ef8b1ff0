"""Log-partition and probability of a block of logits in one pass, compiled for CPUs: float32.

As tensor operations the two read and write the block some six times, which takes longer than the matrix products that
make it. ``examples/benchmarks/sailerx.py`` measures it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from scmap_cli.nn.kernels import exp32, f32, in_shares, kernel, log1p32

# Rows below which another thread costs more than it brings.
_SHARE = 64


@kernel
def _rows(logit_np: Any, bias_p: Any, sum_n: Any, first: int, last: int) -> None:
    p = logit_np.shape[1]
    for i in range(first, last):
        total = f32(0.0)
        for j in range(p):
            x = logit_np[i, j] + bias_p[j]
            t = exp32(max(-abs(x), f32(-87.0)))
            r = f32(1.0) / (f32(1.0) + t)
            total += max(x, f32(0.0)) + log1p32(t)
            logit_np[i, j] = r if x >= f32(0.0) else t * r
        sum_n[i] = total


def open_shares(logit_np: Tensor, bias_p: Tensor) -> Tensor:
    """Turn logits without their bias into probabilities in place, and add up ``log(1 + exp(logit))`` by row.

    Parameters
    ----------
    logit_np
        float32 on the CPU, contiguous, (n, p); becomes the logistic function of logit plus bias.
    bias_p
        (p,).

    Returns
    -------
    Tensor
        The sums, (n,) float64; those of a row are added up in float32.
    """
    sum_n = np.empty(len(logit_np), np.float64)
    arrays = (logit_np.detach().numpy(), bias_p.detach().contiguous().numpy(), sum_n)
    in_shares(len(sum_n), lambda first, last: _rows(*arrays, first, last), _SHARE)
    return torch.from_numpy(sum_n)
