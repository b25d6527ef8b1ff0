"""Attention over packed sequences: tokens of all cells in one row after another, without padding.

A batch of cells with different numbers of genes is held as one list of tokens and the edges between cells. Linear
layers and norms then work on real tokens only, and attention runs within each cell. Everything goes through torch's
``scaled_dot_product_attention``: on a GPU on jagged tensors, which its fused kernels take as they are; on a CPU cell by
cell, which is as fast as one call when a cell has hundreds of tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

# Fused kernels take head dimensions that are multiples of this.
_STRIDE = 8


def edges_of(length_n: Tensor) -> Tensor:
    """(n + 1,) int64: where each sequence begins and the last one ends."""
    return torch.cat([length_n.new_zeros(1, dtype=torch.int64), length_n.cumsum(0)])


def packed_attention(q_the: Tensor, k_uhe: Tensor, v_uhe: Tensor, q_edges: Tensor, k_edges: Tensor) -> Tensor:
    """Softmax attention within each sequence (equation 4.2 of the Expresser thesis).

    Parameters
    ----------
    q_the
        (t, h, e) queries of all sequences, h heads of dimension e.
    k_uhe, v_uhe
        (u, h, e) keys and values of all sequences.
    q_edges, k_edges
        (n + 1,) int64 edges of the sequences among the queries, and among keys and values.

    Returns
    -------
    Tensor
        (t, h, e). Queries of a sequence without keys get zeros.
    """
    if q_the.device.type == "cuda":
        return _jagged(q_the, k_uhe, v_uhe, q_edges, k_edges)
    q_lengths, k_lengths = q_edges.diff().tolist(), k_edges.diff().tolist()
    parts = [
        # (1, h, t, e): heads before tokens
        scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in (q, k, v)))[0].transpose(0, 1)
        if len(k) and len(q)
        else q * 0.0
        for q, k, v in zip(q_the.split(q_lengths), k_uhe.split(k_lengths), v_uhe.split(k_lengths), strict=True)
    ]
    return torch.cat(parts) if parts else q_the


def _jagged(q_the: Tensor, k_uhe: Tensor, v_uhe: Tensor, q_edges: Tensor, k_edges: Tensor) -> Tensor:
    width = q_the.shape[-1]
    more = -width % _STRIDE
    q, k, v = (
        torch.nested.nested_tensor_from_jagged(pad(x, (0, more)), edges).transpose(1, 2)
        for x, edges in ((q_the, q_edges), (k_uhe, k_edges), (v_uhe, k_edges))
    )
    # Zeros added to queries and keys leave their products as they were; the scale is that of the true width.
    found: Tensor = scaled_dot_product_attention(q, k, v, scale=width**-0.5).transpose(1, 2).values()
    return found[..., :width]


class _Feed(nn.Sequential):
    """Modules one after the other; torch compiles no container of its own, but this one."""

    def forward(self, x_td: Tensor) -> Tensor:
        for module in self:
            x_td = module(x_td)
        return x_td


class Block(nn.Module):
    """One layer of a transformer encoder on packed tokens: self-attention, then two linear layers with GELU.

    The norms come before, which trains without care for the learning rate at twelve layers; there is no dropout.

    Parameters
    ----------
    width, heads, feed
        Dimension of the tokens, number of heads, hidden units of the linear layers.
    """

    def __init__(self, width: int, heads: int, feed: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed = _Feed(
            nn.LayerNorm(width), nn.Linear(width, feed), nn.GELU(approximate="tanh"), nn.Linear(feed, width)
        )

    def forward(self, x_td: Tensor, edges: Tensor) -> Tensor:
        """(t, d) tokens of sequences with the given edges, through the layer."""
        q_the, k_the, v_the = (
            self.qkv(self.norm(x_td)).view(len(x_td), 3, self.heads, x_td.shape[1] // self.heads).unbind(1)
        )
        mixed = packed_attention(q_the, k_the, v_the, edges, edges).flatten(1)
        x_td = x_td + self.out(mixed)
        return x_td + self.feed(x_td)
