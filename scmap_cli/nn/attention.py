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
# Queries of :func:`beside_attention` at once: of 1,000 keys and 4 heads 16 MB of weights.
_QUERIES = 1024

Sizes = tuple[int, int]


def edges_of(length_n: Tensor) -> Tensor:
    """(n + 1,) int64: where each sequence begins and the last one ends."""
    return torch.cat([length_n.new_zeros(1, dtype=torch.int64), length_n.cumsum(0)])


def sizes_of(*edges: Tensor) -> list[Sizes]:
    """Shortest and longest sequence by each of several edges; a device is waited for once."""
    found = torch.stack([size for each in edges for size in each.diff().aminmax()]).tolist()
    return list(zip(found[::2], found[1::2], strict=True))


def packed_attention(
    q_the: Tensor,
    k_uhe: Tensor,
    v_uhe: Tensor,
    q_edges: Tensor,
    k_edges: Tensor,
    q_sizes: Sizes | None = None,
    k_sizes: Sizes | None = None,
) -> Tensor:
    """Softmax attention within each sequence (equation 4.2 of the Expresser thesis).

    Parameters
    ----------
    q_the
        (t, h, e) queries of all sequences, h heads of dimension e.
    k_uhe, v_uhe
        (u, h, e) keys and values of all sequences.
    q_edges, k_edges
        (n + 1,) int64 edges of the sequences among the queries, and among keys and values.
    q_sizes, k_sizes
        Of :func:`sizes_of`; without them kernels of a GPU ask for these in every call, and the host waits.

    Returns
    -------
    Tensor
        (t, h, e). Queries of a sequence without keys get zeros.
    """
    if q_the.device.type == "cuda":
        return _jagged(q_the, k_uhe, v_uhe, q_edges, k_edges, q_sizes, k_sizes)
    q_lengths, k_lengths = q_edges.diff().tolist(), k_edges.diff().tolist()
    parts = [
        # (1, h, t, e): heads before tokens
        scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in (q, k, v)))[0].transpose(0, 1)
        if len(k) and len(q)
        else q * 0.0
        for q, k, v in zip(q_the.split(q_lengths), k_uhe.split(k_lengths), v_uhe.split(k_lengths), strict=True)
    ]
    return torch.cat(parts) if parts else q_the


def _jagged(
    q_the: Tensor,
    k_uhe: Tensor,
    v_uhe: Tensor,
    q_edges: Tensor,
    k_edges: Tensor,
    q_sizes: Sizes | None,
    k_sizes: Sizes | None,
) -> Tensor:
    width = q_the.shape[-1]
    more = -width % _STRIDE

    def nested(x: Tensor, edges: Tensor, sizes: Sizes | None) -> Tensor:
        low, high = sizes or (None, None)
        made = torch.nested.nested_tensor_from_jagged(pad(x, (0, more)), edges, min_seqlen=low, max_seqlen=high)
        return made.transpose(1, 2)

    q, k, v = nested(q_the, q_edges, q_sizes), nested(k_uhe, k_edges, k_sizes), nested(v_uhe, k_edges, k_sizes)
    # Zeros added to queries and keys leave their products as they were; the scale is that of the true width.
    found: Tensor = scaled_dot_product_attention(q, k, v, scale=width**-0.5).transpose(1, 2).values()
    return found[..., :width]


def beside_attention(
    q_the: Tensor,
    own_k_the: Tensor,
    own_v_the: Tensor,
    k_uhe: Tensor,
    v_uhe: Tensor,
    q_edges: Tensor,
    k_edges: Tensor,
) -> Tensor:
    """As :func:`packed_attention`, but each query also attends to itself, and to no other query.

    Parameters
    ----------
    q_the, own_k_the, own_v_the
        (t, h, e) queries with their own keys and values.
    k_uhe, v_uhe, q_edges, k_edges
        As :func:`packed_attention`; a sequence may have no keys.
    """
    parts = []
    scale = q_the.shape[-1] ** -0.5
    q_lengths, k_lengths = q_edges.diff().tolist(), k_edges.diff().tolist()
    own_t = zip(own_k_the.split(q_lengths), own_v_the.split(q_lengths), strict=True)
    seen_u = zip(k_uhe.split(k_lengths), v_uhe.split(k_lengths), strict=True)
    for q, (own_k, own_v), (k, v) in zip(q_the.split(q_lengths), own_t, seen_u, strict=True):
        for at in range(0, len(q), _QUERIES):
            some = slice(at, at + _QUERIES)
            score_htu = torch.einsum("the,uhe->htu", q[some], k)
            own_ht = (q[some] * own_k[some]).sum(-1).T
            weight_htu = (torch.cat([score_htu, own_ht[..., None]], dim=-1) * scale).softmax(-1)
            mixed_the = torch.einsum("htu,uhe->the", weight_htu[..., :-1], v)
            parts.append(mixed_the + weight_htu[..., -1].T[..., None] * own_v[some])
    return torch.cat(parts) if parts else q_the


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

    def forward(self, x_td: Tensor, edges: Tensor, sizes: Sizes | None = None) -> Tensor:
        """(t, d) tokens of sequences with the given edges (and :func:`sizes_of` these), through the layer."""
        q_the, k_the, v_the = self._heads(x_td)
        return self._after(x_td, packed_attention(q_the, k_the, v_the, edges, edges, sizes, sizes))

    def beside(self, x_td: Tensor, edges: Tensor, y_ud: Tensor, y_edges: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and (u, d) more tokens of the sequences, which look at these and at themselves and are not seen."""
        q_the, k_the, v_the = self._heads(x_td)
        seen = packed_attention(q_the, k_the, v_the, edges, edges)
        beside = beside_attention(*self._heads(y_ud), k_the, v_the, y_edges, edges)
        return self._after(x_td, seen), self._after(y_ud, beside)

    def _heads(self, x_td: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (t, h, e) each."""
        q, k, v = self.qkv(self.norm(x_td)).view(len(x_td), 3, self.heads, x_td.shape[1] // self.heads).unbind(1)
        return q, k, v

    def _after(self, x_td: Tensor, mixed_the: Tensor) -> Tensor:
        x_td = x_td + self.out(mixed_the.flatten(1))
        return x_td + self.feed(x_td)
