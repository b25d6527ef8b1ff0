"""The pass of :mod:`.scaled` compiled for CPUs: float32, one look at each stored count."""

from __future__ import annotations

from typing import Any

from scmap_cli.nn.kernels import f32, kernel, log1p32


@kernel
def scaled_values(
    flat_m: Any, value_m: Any, size_n: Any, place_g: Any, mean_a: Any, reverse_a: Any, clip: float, out_na: Any
) -> None:
    """log1p CP10k, less the mean and over the deviation, at the stored counts of some genes; the rest stays as it is.

    ``place_g`` is the column of each gene in ``out_na``, or -1; ``reverse_a`` is one over the deviation.
    """
    g, top = len(place_g), f32(clip)
    m = 0
    for i in range(len(out_na)):
        rate = f32(1e4) / max(size_n[i], f32(1e-12))
        row_a, first, last = out_na[i], i * g, (i + 1) * g
        while m < len(flat_m) and flat_m[m] < last:
            a = place_g[flat_m[m] - first]
            if a >= 0:
                scaled = (log1p32(value_m[m] * rate) - mean_a[a]) * reverse_a[a]
                row_a[a] = min(max(scaled, -top), top)
            m += 1
