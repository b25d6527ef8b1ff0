"""Layers in which every chromosome has units and weights of its own, for all chromosomes at once.

The published networks run one small dense net a chromosome, one after the other, and join what they give. The same
numbers come from one sum of rows by chromosome (:func:`scmap_cli.nn.bernoulli.sum_of_open`), one batched product a
hidden layer (:class:`ChromosomeLinear`), and the likelihood by blocks of peaks
(:func:`scmap_cli.nn.bernoulli.open_peaks_loss`): a block-diagonal dense network whose zeros are never stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ChromosomeLinear(nn.Module):
    """A linear layer a chromosome, in one batched product: (n, c, inputs) to (n, c, outputs).

    Parameters
    ----------
    chromosomes
        How many.
    inputs, outputs
        Units of each chromosome.
    """

    def __init__(self, chromosomes: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight_cio = nn.Parameter(torch.empty(chromosomes, inputs, outputs))
        self.bias_co = nn.Parameter(torch.empty(chromosomes, outputs))
        bound = inputs**-0.5
        nn.init.uniform_(self.weight_cio, -bound, bound)
        nn.init.uniform_(self.bias_co, -bound, bound)

    def forward(self, x_nci: Tensor) -> Tensor:
        """The layer's output."""
        out_cno = torch.bmm(x_nci.transpose(0, 1), self.weight_cio.to(x_nci.dtype))
        return out_cno.transpose(0, 1) + self.bias_co


class CellNorm(nn.Module):
    """Layer norm over the units of all chromosomes of a cell, with a scale and a shift each, and leaky ReLU.

    One mean and one variance a cell, because a shallow cell has no open peak at all on many chromosomes: normalised by
    themselves their units would be noise at full scale.
    """

    def __init__(self, chromosomes: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm((chromosomes, width))

    def forward(self, x_ncw: Tensor) -> Tensor:
        """Normalised and activated, in the same shape."""
        return nn.functional.leaky_relu(self.norm(x_ncw), 0.2)


def edges_of(sizes: Sequence[int]) -> tuple[int, ...]:
    """First peak of each chromosome, and the number of peaks, from the chromosomes' numbers of peaks."""
    edges = [0]
    for size in sizes:
        edges.append(edges[-1] + size)
    return tuple(edges)
