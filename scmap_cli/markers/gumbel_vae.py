"""Two autoencoders whose first layer draws genes: Concrete VAE and the MarkerMap paper's Global-Gumbel VAE.

- Concrete VAE (Balin, Abid, Zou 2019, arXiv:1901.09346): k rows of logits over all genes, each
  a relaxed one-hot draw; its input is the k weighted sums. The chosen genes are the largest logit of each row; a row
  whose gene an earlier row has takes its best one that is free.
- Global-Gumbel: one row of logits and a relaxed choice of k among all genes (:mod:`scmap_cli.nn.subset`).

Both rebuild the scaled values of all genes by a mean decoder under squared errors, with a divergence of weight 0.1; one
hidden layer of 128 units either way, 16 latent dimensions, 200 epochs of 64 cells. The temperature falls geometrically
from 10 (Concrete) or 3 to 0.01 over the run, and the step of the logits is ten times that of the other weights.

As published in the MarkerMap paper, the temperature falls by 0.99 an epoch (Concrete; 1.1 after 100 epochs,
and the genes are those of one more random draw) or by 0.95 with a step of 1e-5 (Global-Gumbel), at which no logit can
leave its random start: both choose by chance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from scmap_cli.markers.base import MarkerData, Selection, best
from scmap_cli.markers.seeded import seeded_torch
from scmap_cli.nn.subset import gumbel, masked_product, relaxed_top_k

_EPOCHS, _BATCH, _HIDDEN, _LATENT = 200, 64, 128, 16
_LR, _LOGIT_LR, _KL = 1e-3, 1e-2, 0.1
_PUBLISHED_EPOCHS = 100


def _autoencode(
    x_ng: Tensor,
    logits: nn.Parameter,
    encode: Callable[[Tensor, float, nn.Parameter], Tensor],
    n_in: int,
    temperature: Callable[[float], float],
    lr: float,
    logit_lr: float,
    epochs: int,
) -> None:
    """Train decoder, encoder and logits together; the logits are changed in place."""
    n, g = x_ng.shape
    first = nn.Parameter(torch.randn(n_in, _HIDDEN) * n_in**-0.5)
    head = nn.Sequential(nn.LayerNorm(_HIDDEN), nn.LeakyReLU(), nn.Linear(_HIDDEN, 2 * _LATENT))
    tail = nn.Sequential(nn.Linear(_LATENT, _HIDDEN), nn.LayerNorm(_HIDDEN), nn.LeakyReLU(), nn.Linear(_HIDDEN, g))
    optimiser = torch.optim.Adam([first, *head.parameters(), *tail.parameters()], lr=lr)
    optimiser.add_param_group({"params": [logits], "lr": logit_lr})
    size = min(_BATCH, n)
    for epoch in range(epochs):
        order = torch.randperm(n)
        for start in range(0, n - size + 1, size):
            x_bg = x_ng[order[start : start + size]]
            mean_bz, log_var_bz = head(encode(x_bg, temperature((epoch + start / n) / epochs), first)).chunk(2, dim=1)
            z_bz = mean_bz + torch.exp(0.5 * log_var_bz) * torch.randn_like(mean_bz)
            kl = 0.5 * (mean_bz.square() + log_var_bz.exp() - 1 - log_var_bz).sum() / size
            loss = 0.5 * (tail(z_bz) - x_bg).square().sum() / size + _KL * kl
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def rows_apart(logits_kg: np.ndarray) -> np.ndarray:
    """(k,) genes: of each row its largest logit, rows with the larger ones first, none twice."""
    taken = np.zeros(logits_kg.shape[1], dtype=bool)
    genes = np.empty(len(logits_kg), dtype=np.int64)
    for row in np.argsort(-logits_kg.max(axis=1), kind="stable"):
        genes[row] = int(np.where(taken, -np.inf, logits_kg[row]).argmax())
        taken[genes[row]] = True
    return genes


def select_concrete(data: MarkerData, k: int, *, seed: int, as_published: bool) -> Selection:
    """Choose k genes by the Concrete VAE; the score is the probability of a gene in its row."""
    with seeded_torch(seed):
        x_ng = torch.from_numpy(data.scaled)
        logits_kg = nn.Parameter(torch.randn(k, data.n_genes) if as_published else torch.zeros(k, data.n_genes))

        def encode(x_bg: Tensor, heat: float, first: nn.Parameter) -> Tensor:
            rows_kg = ((logits_kg + gumbel(torch.rand_like(logits_kg))) / heat).softmax(1)
            return x_bg @ (rows_kg.T @ first)

        if as_published:
            _autoencode(x_ng, logits_kg, encode, k, _falling(0.99), 1e-4, 1e-4, _PUBLISHED_EPOCHS)
            drawn_kg = logits_kg.detach() + gumbel(torch.rand_like(logits_kg))
        else:
            _autoencode(x_ng, logits_kg, encode, k, _cooling(10.0), _LR, _LOGIT_LR, _EPOCHS)
            drawn_kg = logits_kg.detach()
    genes = rows_apart(drawn_kg.double().numpy())
    chance_k = logits_kg.detach().double().softmax(1).numpy()[np.arange(k), genes]
    order = np.argsort(-chance_k, kind="stable")
    return Selection(genes[order], chance_k[order])


def select_global(data: MarkerData, k: int, *, seed: int, as_published: bool) -> Selection:
    """Choose k genes by the Global-Gumbel VAE; the score is a gene's logit."""
    with seeded_torch(seed):
        x_ng = torch.from_numpy(data.scaled)
        logits_g = nn.Parameter(torch.randn(data.n_genes) if as_published else torch.zeros(data.n_genes))

        def encode(x_bg: Tensor, heat: float, first: nn.Parameter) -> Tensor:
            mask_g = relaxed_top_k(logits_g + gumbel(torch.rand_like(logits_g)), k, heat)
            return masked_product(x_bg, mask_g, first)

        if as_published:
            _autoencode(x_ng, logits_g, encode, data.n_genes, _falling(0.95), 1e-5, 1e-5, _PUBLISHED_EPOCHS)
        else:
            _autoencode(x_ng, logits_g, encode, data.n_genes, _cooling(3.0), _LR, _LOGIT_LR, _EPOCHS)
    scores_g = logits_g.detach().double().numpy()
    genes = best(scores_g, k)
    return Selection(genes, scores_g[genes])


def _cooling(hot: float, cold: float = 0.01) -> Callable[[float], float]:
    return lambda share: hot * (cold / hot) ** share


def _falling(rate: float) -> Callable[[float], float]:
    """The paper's cooling, by a factor an epoch."""
    return lambda share: 3.0 * rate ** (share * _PUBLISHED_EPOCHS)
