r"""Gene programs as latent dimensions: a block of them with its encoder head and its linear decoder (expiMap).

A block holds programs with a gene list, of hard or soft membership, and unconstrained ones without. The reference is
one block; programs that a query adds are another beside it, so that the tensors of the first stay as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from scmap_cli.nn.proximal import group_shrink_, segment_shrink_, soft_threshold_


class SparsePattern(nn.Module):
    """Where a genes x programs matrix may differ from zero: a CSR pattern as buffers, ordered by gene, then program."""

    gene_e: Tensor
    program_e: Tensor
    crow_g: Tensor

    def __init__(self, n_genes: int, n_programs: int, n_entries: int) -> None:
        super().__init__()
        self.n_genes, self.n_programs = n_genes, n_programs
        for name in ("gene_e", "program_e"):
            self.register_buffer(name, torch.zeros(n_entries, dtype=torch.int64))
        # Derived from gene_e, so not stored with the model.
        self.register_buffer("crow_g", torch.zeros(n_genes + 1, dtype=torch.int64), persistent=False)

    def set(self, gene_e: Tensor, program_e: Tensor) -> None:
        """Fill the pattern from entry coordinates in any order."""
        order = torch.argsort(gene_e * self.n_programs + program_e)
        self.gene_e.copy_(gene_e[order])
        self.program_e.copy_(program_e[order])
        self.refresh()

    def refresh(self) -> None:
        """Recompute the row pointers, after :meth:`set` or after loading."""
        self.crow_g[1:] = torch.bincount(self.gene_e, minlength=self.n_genes).cumsum(0)

    def dense(self, w_e: Tensor) -> Tensor:
        """The (genes, programs) matrix with ``w_e`` at the entries and 0 elsewhere."""
        w_gk = torch.zeros(self.n_genes, self.n_programs, dtype=w_e.dtype, device=w_e.device)
        w_gk[self.gene_e, self.program_e] = w_e
        return w_gk

    def product(self, z_nk: Tensor, w_e: Tensor, shift_bg: Tensor, condition_n: Tensor) -> Tensor:
        """``z_nk @ dense(w_e).T + shift_bg[condition_n]``, differentiable in all but the conditions.

        In float32 on a CPU by a compiled kernel that visits the entries alone (1-3 % are filled), else as a dense
        product, which on a GPU costs nothing.
        """
        product: Tensor = _SparseProduct.apply(z_nk, w_e, shift_bg, condition_n, self)
        return product


class _SparseProduct(torch.autograd.Function):
    """See :meth:`SparsePattern.product`."""

    @staticmethod
    def forward(
        ctx: Any, z_nk: Tensor, w_e: Tensor, shift_bg: Tensor, condition_n: Tensor, pattern: SparsePattern
    ) -> Tensor:
        ctx.pattern, ctx.conditions = pattern, len(shift_bg)
        ctx.save_for_backward(z_nk, w_e, condition_n)
        if _compiled(z_nk):
            from scmap_cli.nn.sparse_kernels import sparse_product

            return sparse_product(z_nk, w_e, shift_bg, condition_n, pattern.crow_g, pattern.program_e)
        return z_nk @ pattern.dense(w_e).T + shift_bg.index_select(0, condition_n)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_ng,) = grads
        z_nk, w_e, condition_n = ctx.saved_tensors
        pattern: SparsePattern = ctx.pattern
        if _compiled(z_nk):
            from scmap_cli.nn.sparse_kernels import sparse_product_gradient

            structure = (ctx.conditions, condition_n, pattern.crow_g, pattern.program_e)
            return *sparse_product_gradient(grad_ng, z_nk, w_e, *structure), None, None
        grad_w = (grad_ng.T @ z_nk)[pattern.gene_e, pattern.program_e] if ctx.needs_input_grad[1] else None
        grad_bg = grad_ng.new_zeros(ctx.conditions, grad_ng.shape[1]).index_add_(0, condition_n, grad_ng)
        return grad_ng @ pattern.dense(w_e), grad_w, grad_bg, None, None


def _compiled(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32


class ProgramBlock(nn.Module):
    """Programs, their posterior's head and their columns of the decoder.

    Parameters
    ----------
    n_genes, n_hidden
        Genes of the decoder; width of the encoder's last layer.
    n_programs, n_entries
        Programs with a gene list, and how many memberships they have together.
    n_free
        Unconstrained programs; their latent dimensions follow those of the others.
    soft
        Soft membership: genes outside a program may join it against an L1 penalty.
    """

    omega_k: Tensor

    def __init__(
        self, n_genes: int, n_hidden: int, *, n_programs: int, n_entries: int, n_free: int = 0, soft: bool = False
    ) -> None:
        super().__init__()
        self.n_programs, self.n_free, self.soft = n_programs, n_free, soft
        self.n_latent = n_programs + n_free
        self.head = nn.Linear(n_hidden, 2 * self.n_latent)
        self.pattern = SparsePattern(n_genes, n_programs, n_entries)
        self.register_buffer("omega_k", torch.ones(n_programs))
        bound = self.n_latent**-0.5
        if soft:
            self.soft_gk = nn.Parameter(torch.empty(n_genes, n_programs).uniform_(-bound, bound))
        else:
            self.member_e = nn.Parameter(torch.empty(n_entries).uniform_(-bound, bound))
        if n_free:
            self.free_gu = nn.Parameter(torch.empty(n_genes, n_free).uniform_(-bound, bound))

    def set_members(self, mask_gk: sparse.sparray | sparse.spmatrix) -> None:
        """Fill the memberships: genes x programs, any non-zero is a member."""
        entries: Any = sparse.coo_matrix(mask_gk)  # type: ignore[call-overload]
        entries.eliminate_zeros()
        gene_e, program_e = (torch.from_numpy(index.astype(np.int64)) for index in (entries.row, entries.col))
        self.pattern.set(gene_e, program_e)

    def decode(self, z_nz: Tensor, shift_bg: Tensor, condition_n: Tensor) -> Tensor:
        """The block's part of the decoder's output on top of a shift for every condition, (n, g)."""
        member_nk = z_nz[:, : self.n_programs]
        if self.soft:
            logits_ng = member_nk @ self.soft_gk.T + nn.functional.embedding(condition_n, shift_bg)
        else:
            logits_ng = self.pattern.product(member_nk, self.member_e, shift_bg, condition_n)
        if self.n_free:
            logits_ng = logits_ng + z_nz[:, self.n_programs :] @ self.free_gu.T
        return logits_ng

    @torch.no_grad()
    def shrink_(self, group_lasso: float, soft_l1: float, free_l1: float) -> None:
        """The proximal step of equations 8-19; the strengths are penalty weights times the step size."""
        lasso_k = group_lasso * self.omega_k
        if self.soft:
            if soft_l1 > 0:
                soft_threshold_(self.soft_gk, soft_l1 * (1.0 - self.membership()))
            if group_lasso > 0:
                group_shrink_(self.soft_gk, lasso_k)
        elif group_lasso > 0:
            segment_shrink_(self.member_e, self.pattern.program_e, lasso_k)
        if self.n_free:
            soft_threshold_(self.free_gu, free_l1)
            group_shrink_(self.free_gu, lasso_k.new_full((self.n_free,), group_lasso))

    @torch.no_grad()
    def drop_noise_(self, lr: float) -> None:
        """Set columns to zero that the penalty holds at zero but for what one optimiser step moves.

        A step of Adam moves an entry by about ``lr``, so a column of m entries that hovers around zero has a norm of up
        to ``lr`` times the root of m. A program without a penalty (``omega_k`` 0) stays.
        """
        w_gz = self.weights()
        noise_z = w_gz.norm(dim=0) <= lr * (w_gz != 0).sum(0).sqrt()
        noise_k = noise_z[: self.n_programs] & (self.omega_k > 0)
        if self.soft:
            self.soft_gk[:, noise_k] = 0.0
        else:
            self.member_e[noise_k[self.pattern.program_e]] = 0.0
        if self.n_free:
            self.free_gu[:, noise_z[self.n_programs :]] = 0.0

    def membership(self) -> Tensor:
        """The program matrix B, (genes, programs) of 0 and 1, in the dtype of the weights."""
        return self.pattern.dense(torch.ones_like(self.pattern.gene_e, dtype=self.head.weight.dtype))

    @torch.no_grad()
    def weights(self) -> Tensor:
        """W, (genes, programs + unconstrained)."""
        w_gk = self.soft_gk if self.soft else self.pattern.dense(self.member_e)
        return (torch.cat([w_gk, self.free_gu], dim=1) if self.n_free else w_gk).detach()
