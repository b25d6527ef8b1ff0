"""PERSIST (Covert et al. 2023, doi:10.1038/s41467-023-37392-1): a k-hot mask learned together with a network.

Inputs are binary, expressed or not. The mask is the largest of k relaxed one-hot draws, each a softmax of its logits
plus Gumbel noise at a temperature that falls from 10 to 0.01; rows that agree on a gene are drawn anew after an epoch.
Two hidden layers of 128 units predict the class (cross-entropy), or log1p CP10k of all genes under a hurdle model: 10
times the cross-entropy of being zero, plus the squared error where not. 250 epochs of 64 cells, Adam, step 1e-3.

First the genes are narrowed to 10 k by gates between 0 and 1 with a price on the open ones. We move the price after
every epoch towards the wanted number and keep the 10 k most open gates; the released code trains anew up to ten times
with guessed prices and fails if it misses. Eight masks are drawn for a batch, each shared by eight of its cells, where
the released code draws one a cell, at k x g numbers each.

As published in the MarkerMap paper, the hurdle model is of scaled values, whose threshold of 0 is the mean of a gene.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy import sparse
from torch.nn import functional as nnf

from scmap_cli.markers.base import MarkerData, Selection, best
from scmap_cli.markers.seeded import seeded_torch

_HIDDEN, _BATCH, _LR = 128, 64, 1e-3
_HOT, _COLD = 10.0, 0.01
_GATE_EPOCHS, _MASK_EPOCHS = 50, 250
_GATE_SHARPNESS, _MASK_SHARPNESS = 2.0, 3.0
_MASKS = 8
_HURDLE = 10.0

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Rows = Callable[[torch.Tensor], torch.Tensor]
"""What some cells hold, by their indices, so that a whole matrix need not be dense."""


def hurdle_loss(output_n2g: torch.Tensor, target_ng: torch.Tensor) -> torch.Tensor:
    """Mean over cells of the hurdle model's loss, summed over genes.

    Parameters
    ----------
    output_n2g
        (n, 2 g): means where expressed, then logits of being at or below 0.
    target_ng
        (n, g) values; above 0 is expressed.
    """
    mean_ng, logit_ng = output_n2g.chunk(2, dim=1)
    off_ng = (target_ng <= 0).to(target_ng.dtype)
    below = nnf.binary_cross_entropy_with_logits(logit_ng, off_ng, reduction="none")
    return (_HURDLE * below + (1 - off_ng) * (target_ng - mean_ng) ** 2).sum(dim=1).mean()


def _dense_rows(matrix: sparse.csr_matrix) -> Rows:
    return lambda rows: torch.from_numpy(matrix[rows.numpy()].toarray())


def _network(n_in: int, n_out: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        *(torch.nn.Linear(n_in, _HIDDEN), torch.nn.ReLU(), torch.nn.Linear(_HIDDEN, _HIDDEN), torch.nn.ReLU()),
        torch.nn.Linear(_HIDDEN, n_out),
    )


def _gumbel(shape: tuple[int, ...]) -> torch.Tensor:
    tiny = torch.finfo(torch.float32).eps
    return -torch.log(-torch.log(torch.rand(shape).clamp(tiny, 1 - tiny)))


def _temperatures(epochs: int, n: int) -> tuple[int, Callable[[int], float]]:
    """Steps an epoch, and the temperature at each step of the run: geometric from hot to cold."""
    steps = max(n // _BATCH, 1)
    return steps, lambda step: _HOT * (_COLD / _HOT) ** (step / max(steps * epochs - 1, 1))


def _gates(
    expressed: sparse.csr_matrix, target: Rows, n_out: int, loss_of: Loss, keep: int, price: float
) -> np.ndarray:
    """(keep,) genes whose gates stay most open, in the order of the file."""
    n, g = expressed.shape
    binary = _dense_rows(expressed)
    net = _network(g, n_out)
    logits = torch.nn.Parameter(torch.full((g,), math.log(0.99 / 0.01) / _GATE_SHARPNESS))
    # At the network's own step a gate could not close within the epochs there are.
    optimiser = torch.optim.Adam(net.parameters(), lr=_LR)
    optimiser.add_param_group({"params": [logits], "lr": 10 * _LR})
    steps, temperature = _temperatures(_GATE_EPOCHS, n)
    for epoch in range(_GATE_EPOCHS):
        order = torch.randperm(n)
        for step in range(steps):
            rows = order[step * _BATCH : (step + 1) * _BATCH]
            noise = torch.rand(len(rows), g).clamp(1e-7, 1 - 1e-7).logit()
            open_ng = torch.sigmoid((_GATE_SHARPNESS * logits + noise) / temperature(epoch * steps + step))
            output = net(binary(rows) * open_ng)
            loss = loss_of(output, target(rows)) + price * open_ng.sum(dim=1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        still = int((logits > 0).sum())
        price *= 1.5 if still > keep else 1 / 1.5
    return np.sort(best(logits.detach().double().numpy(), keep))


def _apart(logits_kg: torch.Tensor) -> None:
    """Draw the logits of rows anew whose largest one is that of a later row too."""
    tops = logits_kg.argmax(dim=1).tolist()
    for row, top in enumerate(tops):
        if top in tops[row + 1 :]:
            logits_kg[row] = torch.randn(logits_kg.shape[1])


def _mask(expressed: sparse.csr_matrix, target: Rows, n_out: int, loss_of: Loss, k: int) -> np.ndarray:
    """(g,) largest probability of each gene in any row of the mask."""
    n, g = expressed.shape
    binary = _dense_rows(expressed)
    net = _network(g, n_out)
    logits_kg = torch.nn.Parameter(torch.zeros(k, g))
    optimiser = torch.optim.Adam([*net.parameters(), logits_kg], lr=_LR)
    steps, temperature = _temperatures(_MASK_EPOCHS, n)
    for epoch in range(_MASK_EPOCHS):
        order = torch.randperm(n)
        for step in range(steps):
            rows = order[step * _BATCH : (step + 1) * _BATCH]
            heat = temperature(epoch * steps + step)
            drawn_mkg = ((_MASK_SHARPNESS * logits_kg + _gumbel((_MASKS, k, g))) / heat).softmax(dim=2)
            mask_mg = drawn_mkg.amax(dim=1)
            shared_ng = mask_mg[torch.arange(len(rows)) % _MASKS]
            loss = loss_of(net(binary(rows) * shared_ng), target(rows))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            _apart(logits_kg)
    return np.asarray((_MASK_SHARPNESS * logits_kg.detach().double()).softmax(dim=1).amax(dim=0))


def _select(data: MarkerData, k: int, seed: int, target: Rows, n_out: int, loss_of: Loss, price: float) -> Selection:
    """Narrow, then learn the mask; the score is a gene's largest probability in any row of it."""
    expressed = (data.counts > 0).astype(np.float32)
    genes = np.arange(data.n_genes)
    with seeded_torch(seed):
        if 20 * k < data.n_genes:
            genes = _gates(expressed, target, n_out, loss_of, 10 * k, price)
        chance_g = _mask(expressed[:, genes], target, n_out, loss_of, k)
    chosen = best(chance_g, k)
    return Selection(genes[chosen].astype(np.int64), chance_g[chosen])


def select_for_labels(data: MarkerData, k: int, *, seed: int, as_published: bool) -> Selection:
    """Choose k genes that predict the class."""
    labels = torch.from_numpy(data.labels)
    return _select(data, k, seed, labels.__getitem__, len(data.classes), nnf.cross_entropy, 1e-4)


def select_for_genes(data: MarkerData, k: int, *, seed: int, as_published: bool) -> Selection:
    """Choose k genes that predict all genes."""
    target = torch.from_numpy(data.scaled).__getitem__ if as_published else _dense_rows(data.log1p)
    return _select(data, k, seed, target, 2 * data.n_genes, hurdle_loss, 1e-2)
