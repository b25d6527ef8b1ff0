"""Packed attention is attention in each sequence, as the formula says and as padding would give it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from scmap_cli.nn import attention
from scmap_cli.nn.attention import Block, beside_attention, edges_of, packed_attention, sizes_of


def tokens(lengths, heads=2, width=6, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return torch.randn(sum(lengths), heads, width, dtype=dtype, requires_grad=True)


def test_packed_equals_padded_with_gradients():
    q_lengths, k_lengths = [3, 1, 5], [4, 2, 1]
    q, k, v = tokens(q_lengths), tokens(k_lengths, seed=1), tokens(k_lengths, seed=2)
    q_edges, k_edges = edges_of(torch.tensor(q_lengths)), edges_of(torch.tensor(k_lengths))
    packed = packed_attention(q, k, v, q_edges, k_edges)
    most_q, most_k = max(q_lengths), max(k_lengths)

    def padded(x, lengths, most):
        return torch.stack([pad(part, (0, 0, 0, 0, 0, most - len(part))) for part in x.split(lengths)]).transpose(1, 2)

    mask = torch.stack([torch.arange(most_k) < length for length in k_lengths])[:, None, None, :]
    whole = scaled_dot_product_attention(
        padded(q, q_lengths, most_q), padded(k, k_lengths, most_k), padded(v, k_lengths, most_k), attn_mask=mask
    ).transpose(1, 2)
    expected = torch.cat([one[:length] for one, length in zip(whole, q_lengths, strict=True)])
    torch.testing.assert_close(packed, expected)
    weights = torch.randn_like(packed)
    found = torch.autograd.grad((packed * weights).sum(), (q, k, v), retain_graph=True)
    wanted = torch.autograd.grad((expected * weights).sum(), (q, k, v))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_it_is_the_softmax_formula():
    q, k, v = tokens([2], heads=1), tokens([3], heads=1, seed=1), tokens([3], heads=1, seed=2)
    found = packed_attention(q, k, v, edges_of(torch.tensor([2])), edges_of(torch.tensor([3])))
    a, b, c = (x.detach().numpy()[:, 0] for x in (q, k, v))
    score = np.exp(a @ b.T / np.sqrt(6))
    np.testing.assert_allclose(found.detach().numpy()[:, 0], score / score.sum(1, keepdims=True) @ c)


def test_queries_without_keys_and_sequences_without_queries():
    q, k, v = tokens([2, 0, 1]), tokens([3, 2, 0], seed=1), tokens([3, 2, 0], seed=2)
    found = packed_attention(q, k, v, edges_of(torch.tensor([2, 0, 1])), edges_of(torch.tensor([3, 2, 0])))
    assert found.shape == q.shape
    assert torch.isfinite(found).all()
    assert (found[2] == 0).all()
    assert (found[:2] != 0).any()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_jagged_kernels_give_the_same():
    from scmap_cli.nn.attention import _jagged

    q_lengths, k_lengths = torch.tensor([3, 4, 2]), torch.tensor([5, 1, 6])
    q = tokens(q_lengths.tolist(), width=10, dtype=torch.float32)
    k, v = (tokens(k_lengths.tolist(), width=10, seed=i, dtype=torch.float32) for i in (1, 2))
    edges = edges_of(q_lengths), edges_of(k_lengths)
    expected = packed_attention(q, k, v, *edges)
    for sizes in ((None, None), sizes_of(*edges)):
        torch.testing.assert_close(_jagged(q, k, v, *edges, *sizes), expected, rtol=1e-5, atol=1e-6)


def test_a_block_does_not_mix_sequences():
    torch.manual_seed(0)
    block = Block(8, 2, 16).double()
    x = torch.randn(7, 8, dtype=torch.float64)
    whole = block(x, edges_of(torch.tensor([3, 4])))
    torch.testing.assert_close(whole[:3], block(x[:3], edges_of(torch.tensor([3]))))
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(block(x[:3][order], edges_of(torch.tensor([3]))), whole[:3][order])


def test_beside_a_sequence_each_query_also_sees_itself(monkeypatch):
    """Against packed attention on one sequence a query, whose keys are those of its own sequence and its own."""
    lengths, asked = [4, 0, 2], [3, 2, 1]
    k, v = tokens(lengths), tokens(lengths, seed=1)
    q, own_k, own_v = (tokens(asked, seed=i) for i in (2, 3, 4))
    keys, values = [], []
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for i, cell in enumerate(np.repeat(np.arange(3), asked)):
        seen = slice(starts[cell], starts[cell + 1])
        keys.append(torch.cat([k[seen], own_k[i : i + 1]]))
        values.append(torch.cat([v[seen], own_v[i : i + 1]]))
    each = torch.tensor([len(x) for x in keys])
    expected = packed_attention(q, torch.cat(keys), torch.cat(values), torch.arange(len(q) + 1), edges_of(each))
    edges = edges_of(torch.tensor(asked)), edges_of(torch.tensor(lengths))
    torch.testing.assert_close(beside_attention(q, own_k, own_v, k, v, *edges), expected)
    monkeypatch.setattr(attention, "_QUERIES", 2)
    torch.testing.assert_close(beside_attention(q, own_k, own_v, k, v, *edges), expected)
