"""Encoder and decoder parts shared by the models."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from scmap_cli.nn.noise import Noise


class ConditionalEncoder(nn.Module):
    """Layers of Linear, LayerNorm without affine, ReLU, Dropout; the condition enters the first layer only.

    The one-hot condition times a bias-free matrix is a row of that matrix, so it is stored as an embedding table
    ``condition_bh`` and looked up.
    """

    def __init__(self, n_features: int, n_conditions: int, hidden: tuple[int, ...], n_out: int, dropout: float) -> None:
        super().__init__()
        widths = (n_features, *hidden)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.condition_bh = nn.Parameter(torch.empty(n_conditions, hidden[0]))
        self.head = nn.Linear(hidden[-1], n_out)
        self.dropout = dropout
        bound = 1.0 / math.sqrt(n_conditions)
        nn.init.uniform_(self.condition_bh, -bound, bound)

    def forward(self, x_ng: Tensor, condition_n: Tensor, noise: Noise | None) -> Tensor:
        """Head outputs, (n, n_out); ``noise`` None means no dropout."""
        h_nh = x_ng
        for depth, layer in enumerate(self.layers):
            h_nh = layer(h_nh)
            if depth == 0:
                h_nh = h_nh + nn.functional.embedding(condition_n, self.condition_bh)
            h_nh = torch.relu(nn.functional.layer_norm(h_nh, h_nh.shape[1:]))
            if noise is not None:
                h_nh = noise.dropout(h_nh, self.dropout)
        out: Tensor = self.head(h_nh)
        return out


class SparsePattern(nn.Module):
    """Where a genes x programs matrix may differ from zero: its CSR pattern and that of its transpose, as buffers.

    Entries are ordered by gene, then program; ``transposed_e`` lists them by program, then gene.
    """

    gene_e: Tensor
    program_e: Tensor
    crow_g: Tensor
    crow_k: Tensor
    transposed_e: Tensor

    def __init__(self, n_genes: int, n_programs: int, n_entries: int) -> None:
        super().__init__()
        self.n_genes, self.n_programs = n_genes, n_programs
        for name in ("gene_e", "program_e"):
            self.register_buffer(name, torch.zeros(n_entries, dtype=torch.int64))
        # Derived from the two above, so not stored with the model.
        self.register_buffer("crow_g", torch.zeros(n_genes + 1, dtype=torch.int64), persistent=False)
        self.register_buffer("crow_k", torch.zeros(n_programs + 1, dtype=torch.int64), persistent=False)
        self.register_buffer("transposed_e", torch.zeros(n_entries, dtype=torch.int64), persistent=False)

    def set(self, gene_e: Tensor, program_e: Tensor) -> None:
        """Fill the pattern from entry coordinates in any order."""
        order = torch.argsort(gene_e * self.n_programs + program_e)
        self.gene_e.copy_(gene_e[order])
        self.program_e.copy_(program_e[order])
        self.refresh()

    def refresh(self) -> None:
        """Recompute the derived buffers, after :meth:`set` or after loading."""
        self.crow_g[1:] = torch.bincount(self.gene_e, minlength=self.n_genes).cumsum(0)
        self.crow_k[1:] = torch.bincount(self.program_e, minlength=self.n_programs).cumsum(0)
        self.transposed_e.copy_(torch.argsort(self.program_e * self.n_genes + self.gene_e))

    def dense(self, w_e: Tensor) -> Tensor:
        """The (genes, programs) matrix with ``w_e`` at the entries and 0 elsewhere."""
        w_gk = torch.zeros(self.n_genes, self.n_programs, dtype=w_e.dtype, device=w_e.device)
        w_gk[self.gene_e, self.program_e] = w_e
        return w_gk

    def product(self, z_nk: Tensor, w_e: Tensor) -> Tensor:
        """``z_nk @ dense(w_e).T``, differentiable in both; sparse on CPU, dense on an accelerator.

        At 1-3 % filling the sparse forms take a third of the dense time on CPU; on a GPU the dense product is free.
        """
        product: Tensor = _SparseProduct.apply(z_nk, w_e, self)
        return product


def _csr(crow: Tensor, column: Tensor, value: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.sparse_csr_tensor(crow, column, value, size, check_invariants=False)


class _SparseProduct(torch.autograd.Function):
    """See :meth:`SparsePattern.product`."""

    @staticmethod
    def forward(ctx: Any, z_nk: Tensor, w_e: Tensor, pattern: SparsePattern) -> Tensor:
        ctx.pattern = pattern
        ctx.save_for_backward(z_nk, w_e)
        if z_nk.device.type == "cpu":
            w_gk = _csr(pattern.crow_g, pattern.program_e, w_e, (pattern.n_genes, pattern.n_programs))
            return (w_gk @ z_nk.T.contiguous()).T.contiguous()
        return z_nk @ pattern.dense(w_e).T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_ng,) = grads
        z_nk, w_e = ctx.saved_tensors
        pattern: SparsePattern = ctx.pattern
        shape_gk = (pattern.n_genes, pattern.n_programs)
        if grad_ng.device.type == "cpu":
            grad_gn = grad_ng.T.contiguous()
            order_e = pattern.transposed_e
            w_kg = _csr(pattern.crow_k, pattern.gene_e[order_e], w_e[order_e], shape_gk[::-1])
            grad_z = (w_kg @ grad_gn).T.contiguous()
            w_gk = _csr(pattern.crow_g, pattern.program_e, w_e, shape_gk)
            grad_w = torch.sparse.sampled_addmm(w_gk, grad_gn, z_nk, beta=0.0).values()
        else:
            grad_z = grad_ng @ pattern.dense(w_e)
            grad_w = (grad_ng.T @ z_nk)[pattern.gene_e, pattern.program_e]
        return grad_z, grad_w, None
