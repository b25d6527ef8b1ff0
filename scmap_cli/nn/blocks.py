"""Encoder parts shared by the models."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from scmap_cli.nn.noise import Noise


class ConditionalEncoder(nn.Module):
    """Layers of Linear, LayerNorm without affine, ReLU, Dropout; the condition enters the first layer only.

    The one-hot condition times a bias-free matrix is a row of that matrix, so it is stored as an embedding table
    ``condition_bh`` and looked up. It starts at zero: the encoder is blind to the condition until training tells
    conditions apart, which leaves less of them in the latent space than a random start.
    """

    def __init__(self, n_features: int, n_conditions: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise((n_features, *hidden)))
        self.condition_bh = nn.Parameter(torch.zeros(n_conditions, hidden[0]))
        self.dropout = dropout

    def forward(self, x_ng: Tensor, condition_n: Tensor, noise: Noise | None) -> Tensor:
        """Activations of the last layer, (n, hidden[-1]); ``noise`` None means no dropout."""
        h_nh = x_ng
        for depth, layer in enumerate(self.layers):
            h_nh = layer(h_nh)
            if depth == 0:
                h_nh = h_nh + nn.functional.embedding(condition_n, self.condition_bh)
            h_nh = torch.relu(nn.functional.layer_norm(h_nh, h_nh.shape[1:]))
            if noise is not None:
                h_nh = noise.dropout(h_nh, self.dropout)
        return h_nh
