"""Scaled log1p CP10k of a batch as a dense matrix, of all genes or of some."""

from __future__ import annotations

import torch
from torch import Tensor

from scmap_cli.data.batches import Batch


def scaled_log1p(batch: Batch, mean_a: Tensor, deviation_a: Tensor, genes_a: Tensor | None, clip: float) -> Tensor:
    """``(log(1 + 1e4 count / size) - mean) / deviation``, within plus and minus ``clip``: (n, a).

    Parameters
    ----------
    batch
        Counts; its ``size_n`` is the total of each cell.
    mean_a, deviation_a
        (a,) of the genes wanted.
    genes_a
        Their columns, int64; None for all genes.
    clip
        Largest scaled value.
    """
    zero_a = (-mean_a / deviation_a).clamp(-clip, clip)
    x_na = zero_a.repeat(batch.n, 1)
    place_g = torch.arange(batch.g, device=x_na.device)
    if genes_a is not None:
        place_g = torch.full_like(place_g, -1)
        place_g[genes_a] = torch.arange(len(genes_a), device=x_na.device)
    if x_na.device.type == "cpu" and x_na.dtype == torch.float32:
        from scmap_cli.nn.scaled_kernel import scaled_values

        tensors = (batch.flat_m, batch.value_m, batch.size_n, place_g, mean_a, 1 / deviation_a)
        scaled_values(*(t.contiguous().numpy() for t in tensors), clip, x_na.numpy())
        return x_na
    cell_m, gene_m = torch.div(batch.flat_m, batch.g, rounding_mode="floor"), place_g[batch.flat_m % batch.g]
    kept_m = gene_m >= 0
    cell_m, gene_m, value_m = cell_m[kept_m], gene_m[kept_m], batch.value_m[kept_m]
    rate_n = 1e4 / batch.size_n.clamp_min(1e-12)
    scaled_m = (torch.log1p(value_m * rate_n[cell_m]) - mean_a[gene_m]) / deviation_a[gene_m]
    x_na.view(-1)[cell_m * len(mean_a) + gene_m] = scaled_m.clamp_(-clip, clip)
    return x_na
