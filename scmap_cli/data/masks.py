"""Masks over the expressed genes of packed cells, and what the genes that stay observed tell of scale and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scmap_cli.data.tokens import TokenBatch
from scmap_cli.nn.attention import Sizes, edges_of, sizes_of
from scmap_cli.nn.noise import Noise

BINNINGS = ("width", "quantile")
_TARGET = 1e4


@dataclass(frozen=True)
class Draw:
    """Masks of s draws over the t tokens of n cells, and what the observed genes tell.

    Attributes
    ----------
    mask_st
        bool: the masked tokens.
    masked_q, observed_o
        Their positions in the (s, t) table and those of the others, by draw and cell.
    masked_edges, observed_edges
        (s n + 1,) edges of the cells among either.
    value_st
        log1p of counts per 10,000.
    largest_sn, single_sn
        The largest observed value, and the value of a single count.
    masked_sizes, observed_sizes
        Fewest and most of either in a cell, where the batch has its own.
    """

    mask_st: Tensor
    masked_q: Tensor
    observed_o: Tensor
    masked_edges: Tensor
    observed_edges: Tensor
    value_st: Tensor
    largest_sn: Tensor
    single_sn: Tensor
    masked_sizes: Sizes | None = None
    observed_sizes: Sizes | None = None


def draw_masks(batch: TokenBatch, noise: Noise, draws: int, low: float, high: float) -> Tensor:
    """(draws, t) bool: masked genes; a cell of two or more has at least one masked and one observed.

    Each cell and draw has a share of its own, uniform in ``low``..``high``.
    """
    cell_t = batch.cell_t
    cell_n = torch.arange(batch.n, device=cell_t.device)
    masks = []
    for s in range(draws):
        share_n = low + (high - low) * noise.hashed(cell_n, torch.full_like(cell_n, -1), s)
        drawn_t = noise.hashed(cell_t, batch.gene_t, s)
        low_n = drawn_t.new_full((batch.n,), 2.0).scatter_reduce(0, cell_t, drawn_t, "amin")
        high_n = drawn_t.new_full((batch.n,), -1.0).scatter_reduce(0, cell_t, drawn_t, "amax")
        masked_t = (drawn_t < share_n[cell_t]) | (drawn_t == low_n[cell_t])
        masks.append(masked_t & (drawn_t != high_n[cell_t]))
    return torch.stack(masks)


def observe(batch: TokenBatch, mask_st: Tensor, leaky: bool = False) -> Draw:
    """What the observed genes of each draw tell; ``leaky`` takes total and largest value from the masked ones too."""
    s, n, cell_t = len(mask_st), batch.n, batch.cell_t
    cell_st = cell_t[None] + torch.arange(s, device=cell_t.device)[:, None] * n
    told_st = torch.ones_like(mask_st) if leaky else ~mask_st
    count_st = batch.count_t[None] * told_st
    flat = cell_st.flatten()
    total_sn = batch.rest_total_n.repeat(s).index_add(0, flat, count_st.flatten()).view(s, n)
    most_sn = batch.rest_max_n.repeat(s).scatter_reduce(0, flat, count_st.flatten(), "amax").view(s, n)
    scale_sn = _TARGET / total_sn.clamp_min(1.0)
    masked_q, observed_o = (found.flatten().nonzero()[:, 0] for found in (mask_st, ~mask_st))
    masked_edges, observed_edges = (
        edges_of(torch.bincount(flat[where], minlength=s * n)) for where in (masked_q, observed_o)
    )
    value_st = torch.log1p(batch.count_t[None] * scale_sn[:, cell_t])
    largest_sn, single_sn = torch.log1p(most_sn * scale_sn), torch.log1p(scale_sn)
    sizes = sizes_of(masked_edges, observed_edges) if batch.sizes is not None else []
    return Draw(mask_st, masked_q, observed_o, masked_edges, observed_edges, value_st, largest_sn, single_sn, *sizes)


def bins_of(draw: Draw, bins: int, binning: str) -> Tensor:
    """(o,) bin of each observed gene, from 0: of equal ``width``, or holding equal shares (``quantile``)."""
    value_o = draw.value_st.flatten()[draw.observed_o]
    count_c = draw.observed_edges.diff()
    if binning == "width":
        share_o = value_o / draw.largest_sn.flatten().repeat_interleave(count_c).clamp_min(1e-12)
    else:
        cell_o = torch.repeat_interleave(count_c)
        # Values are far below 1,000, so that the sum sorts by cell first.
        key_o = cell_o.to(torch.float64) * 1000.0 + value_o.to(torch.float64)
        rank_o = torch.searchsorted(key_o.sort().values, key_o, right=True) - draw.observed_edges[cell_o]
        share_o = rank_o.to(value_o.dtype) / count_c[cell_o].to(value_o.dtype)
    return (share_o * bins).ceil().long().clamp(1, bins) - 1
