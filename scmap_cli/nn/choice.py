"""Which genes a model looks at: logits that learn by batches, and a mask drawn from them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from scmap_cli.nn.noise import Noise
from scmap_cli.nn.subset import gumbel, relaxed_top_k, top_k


class Block(nn.Module):
    """Linear, layer norm unless told otherwise, leaky ReLU."""

    def __init__(self, n_in: int, n_out: int, norm: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out)
        self.norm = nn.LayerNorm(n_out) if norm else nn.Identity()

    def forward(self, x_nw: Tensor) -> Tensor:
        """Activations, (n, n_out)."""
        return nnf.leaky_relu(self.norm(self.linear(x_nw)), 0.01)


class GeneChoice(nn.Module):
    """Running logits of all genes, genes that are fixed, and the relaxed choice of k.

    Parameters
    ----------
    n_genes
        Number of genes.
    width
        Hidden layers of the network that gives a cell's logits; 0 for one free parameter a gene instead.
    momentum
        Weight of the earlier batches in the running logits.
    """

    running_g: Tensor
    fixed_g: Tensor

    def __init__(self, n_genes: int, width: int, momentum: float) -> None:
        super().__init__()
        self.momentum, self.by_cell = momentum, width > 0
        self.register_buffer("running_g", torch.zeros(n_genes))
        # Above 0 where a gene is forced in, the more the earlier it comes; -1 where it is forced out.
        self.register_buffer("fixed_g", torch.zeros(n_genes))
        if self.by_cell:
            self.first, self.second = Block(n_genes, width), Block(width, width)
            self.last = nn.Linear(width, n_genes)
            nn.init.zeros_(self.last.bias)
        else:
            self.free_g = nn.Parameter(torch.zeros(n_genes))

    @torch.no_grad()
    def start(self, prior_g: np.ndarray | None, forced_in: np.ndarray | None, forced_out: np.ndarray | None) -> None:
        """Set the first logits, 0 by default, and the columns of genes that are always or never chosen."""
        if forced_out is not None:
            self.fixed_g[torch.from_numpy(forced_out)] = -1.0
        if forced_in is not None:
            self.fixed_g[torch.from_numpy(forced_in)] = torch.arange(len(forced_in), 0, -1, dtype=torch.float32)
        if prior_g is None:
            return
        self.running_g.copy_(torch.from_numpy(prior_g))
        # In what the running mean runs to as well, else the prior would be gone in some twenty steps.
        if self.by_cell:
            self.last.bias.copy_(self.running_g)
        else:
            self.free_g.copy_(self.running_g * (1 - self.momentum))

    def forced(self) -> int:
        """Number of genes that are forced in."""
        return int((self.fixed_g > 0).sum())

    def chosen(self, k: int) -> Tensor:
        """Columns of the k genes: those forced in as listed, then by the running logits; of equal ones the first."""
        return top_k(self.running_g + 1e30 * self.fixed_g, k)

    def forward(self, x_ng: Tensor | None, noise: Noise, k: int, temperature: float) -> Tensor:
        """The relaxed mask of a batch, (g,); moves the running logits on.

        Parameters
        ----------
        x_ng
            The cells, for logits by cell. The mean over cells is taken before the last layer: it is linear.
        noise
            Of the step.
        k, temperature
            Of the choice; genes that are forced in count.
        """
        if self.by_cell and x_ng is not None:
            h_nh = self.second(noise.dropout(self.first(x_ng), 0.5))
            new_g = self.last(nnf.leaky_relu(h_nh, 0.01).mean(0))
        else:
            # As large as the steps that a network of many weights makes under Adam.
            new_g = self.free_g / (1 - self.momentum)
        log_pi_g = self.momentum * self.running_g + (1 - self.momentum) * new_g
        self.running_g = log_pi_g.detach().clone()
        log_pi_g = log_pi_g + gumbel(noise.uniform(len(log_pi_g), log_pi_g))
        free_g, wanted = self.fixed_g == 0, k - self.forced()
        mask_g = self.fixed_g.clamp(0.0, 1.0)
        if wanted > 0:
            mask_g = mask_g.masked_scatter(free_g, relaxed_top_k(log_pi_g[free_g], wanted, temperature))
        return mask_g
