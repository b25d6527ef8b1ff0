"""Latent positions fitted cell by cell, where an encoder's guess is not good enough.

An encoder is trained on the cells of a reference; for cells of another study its posterior means are further from the
best ones (the amortisation gap; Cremer, Li and Duvenaud, ICML 2018, arXiv:1801.03558). A few steps on the position of
each cell alone, under the frozen decoder and the objective of the training, close much of that gap. Nothing of the
model changes, and cells do not depend on one another.
"""

from __future__ import annotations

import numpy as np
import torch

from scmap_cli.data.batches import Store
from scmap_cli.models.expimap import ExpiMap
from scmap_cli.runtime.logs import progress

_RATE = 0.1
_DECAY = (0.9, 0.999)
_SMALL = 1e-8


def refined_positions(
    model: ExpiMap, store: Store, start_nz: np.ndarray, steps: int, batch_size: int = 1024
) -> np.ndarray:
    """Positions after some steps of Adam from ``start_nz`` towards the mode of each cell's posterior.

    Parameters
    ----------
    model
        Its decoder gives the likelihood, its ``kl_weight`` the weight of the prior (:meth:`ExpiMap.cost`).
    store
        The cells.
    start_nz
        (n, z) positions to start from: the encoder's means.
    steps
        Steps of 0.1 at most in every dimension; 0 gives ``start_nz`` back. Few steps keep a cell near what the encoder
        said of it, which is itself a guard against fitting its noise.
    batch_size
        Cells at a time, which changes no result.

    Returns
    -------
    ndarray
        (n, z) float32. A dimension without an effect on any gene stays at 0.
    """
    if steps == 0:
        return start_nz
    found = np.empty_like(start_nz, dtype=np.float32)
    with progress("fitting positions", store.n) as bar:
        for first in range(0, store.n, batch_size):
            rows = torch.arange(first, min(first + batch_size, store.n))
            batch = store.batch(rows)
            z_nz = torch.from_numpy(start_nz[first : first + len(rows)]).to(batch.size_n)
            mean_nz, square_nz = torch.zeros_like(z_nz), torch.zeros_like(z_nz)
            for step in range(1, steps + 1):
                z_nz.requires_grad_()
                (grad_nz,) = torch.autograd.grad(model.cost(z_nz, batch).sum(), z_nz)
                z_nz = z_nz.detach()
                mean_nz.lerp_(grad_nz, 1.0 - _DECAY[0])
                square_nz.lerp_(grad_nz.square(), 1.0 - _DECAY[1])
                width_nz = (square_nz / (1.0 - _DECAY[1] ** step)).sqrt_().add_(_SMALL)
                z_nz = z_nz - _RATE / (1.0 - _DECAY[0] ** step) * mean_nz / width_nz
            found[first : first + len(rows)] = z_nz.cpu().numpy()
            bar.advance(len(rows))
    return found
