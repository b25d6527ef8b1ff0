"""How fast a run was, in tokens, cells and floating-point operations, and which share of the device's rate that is."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

# Dense bf16 rates of the data sheets, in operations a second.
_SHEETS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "V100": 125e12}
_SIDE, _REPEATS = 1024, 8


def peak_rate(device: torch.device, precision: str) -> tuple[float, str]:
    """Operations a second that the device can do, and where the figure is from.

    bf16 on a known GPU has that of its data sheet; anything else is measured by products of square matrices.
    """
    if device.type == "cuda" and precision == "bf16":
        name = torch.cuda.get_device_name(device)
        for model, rate in _SHEETS.items():
            if model in name:
                return rate, f"data sheet of {name}, dense bf16"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.ones(_SIDE, _SIDE, device=device, dtype=dtype)
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        product = a @ a
        # Waits for a GPU.
        product[0, 0].item()
        seconds.append(time.perf_counter() - started)
    return 2.0 * _SIDE**3 / min(seconds), f"measured: product of {_SIDE} x {_SIDE} matrices, {precision}"


def speed(
    work: list[dict[str, float]], seconds: list[float], cells: int, device: torch.device, precision: str, processes: int
) -> dict[str, Any]:
    """Rates of the median epoch for the record of a run; empty where the model tells no work.

    Utilisation is the operations of the model (as it counts them itself) by those that its devices could have done in
    the whole time of the epoch, loading and validation included.
    """
    whole = [(w, s) for w, s in zip(work, seconds, strict=False) if w and s > 0]
    if not whole:
        return {}
    tokens = float(np.median([w["tokens"] / s for w, s in whole])) * processes
    flops = float(np.median([w["flops"] / s for w, s in whole]))
    peak, source = peak_rate(device, precision)
    return {
        "tokens_per_second": round(tokens, 1),
        "cells_per_second": round(cells / float(np.median(seconds)), 1),
        "flops_per_second_each": round(flops, 1),
        "flops_formula": "6 a weight and token through it + 12 d a pair of tokens in an attention",
        "peak_flops": round(peak, 1),
        "peak_from": source,
        "model_flop_utilisation": round(flops / peak, 4),
    }
