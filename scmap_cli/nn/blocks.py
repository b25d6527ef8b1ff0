"""Encoder parts shared by the models."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from scmap_cli.data.batches import Batch
from scmap_cli.nn.rows import sum_of_rows


class ConditionalEncoder(nn.Module):
    """Layers of Linear, LayerNorm without affine, ReLU, Dropout; the condition enters the first layer only.

    The one-hot condition times a bias-free matrix is a row of that matrix, so it is stored as an embedding table
    ``condition_bh`` and looked up. It starts at zero: the encoder is blind to the condition until training tells
    conditions apart, which leaves less of them in the latent space than a random start. The first layer's weights are
    stored features x units, as :func:`~scmap_cli.nn.rows.sum_of_rows` reads them.
    """

    def __init__(self, n_features: int, n_conditions: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        first = nn.Linear(n_features, hidden[0])
        self.first_gh = nn.Parameter(first.weight.detach().T.contiguous())
        self.first_bias_h = first.bias
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(hidden))
        self.condition_bh = nn.Parameter(torch.zeros(n_conditions, hidden[0]))
        self.dropout = dropout

    def forward(self, batch: Batch, value_m: Tensor) -> Tensor:
        """Activations of the last layer, (n, hidden[-1]), of cells with ``value_m`` at the stored positions of a batch.

        Units are dropped if the batch has noise.
        """
        told_bh = self.condition_bh + self.first_bias_h
        h_nh = sum_of_rows(batch, value_m, self.first_gh) + nn.functional.embedding(batch.condition_n, told_bh)
        h_nh = self._activated(h_nh, batch)
        for layer in self.layers:
            h_nh = self._activated(layer(h_nh), batch)
        return h_nh

    def _activated(self, h_nh: Tensor, batch: Batch) -> Tensor:
        h_nh = torch.relu(nn.functional.layer_norm(h_nh, h_nh.shape[1:]))
        return h_nh if batch.noise is None else batch.noise.dropout(h_nh, self.dropout)
