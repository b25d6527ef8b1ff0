"""How well batches mix in the neighbourhoods of an embedding."""

from __future__ import annotations

import numpy as np

from scmap_cli.errors import InputError

NEIGHBOURS = 50
"""Size of the neighbourhoods that :func:`batch_entropy` is reported for."""


def neighbour_shares(indices: np.ndarray, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares of the batches among each cell's neighbours, divided by the batch sizes and scaled to sum to 1.

    Parameters
    ----------
    indices
        (n, k) neighbours of each cell.
    batch
        (n,) batch of each cell.

    Returns
    -------
    share_nb, names, codes
        (n, b) shares, the batches in the order of the columns, and the column of each cell's own batch.

    Raises
    ------
    InputError
        There is only one batch.
    """
    names, code_n = np.unique(np.asarray(batch), return_inverse=True)
    if len(names) < 2:
        raise InputError(f"mixing needs at least two batches, and all cells are of {str(names[0])!r}")
    around_nk = code_n[indices]
    share_nb = np.stack([(around_nk == b).mean(axis=1) for b in range(len(names))], axis=1) / np.bincount(code_n)
    share_nb /= share_nb.sum(axis=1, keepdims=True)
    return share_nb, names, code_n


def batch_entropy(indices: np.ndarray, batch: np.ndarray) -> float:
    """Mean entropy of batches among neighbours, 0 (each batch apart) to 1 (as mixed as the batch sizes allow).

    The shares of batches among a cell's neighbours are divided by the batch sizes and scaled to sum to 1, so that a
    large batch does not look like mixing; the entropy is in units of log(number of batches).

    Parameters
    ----------
    indices
        (n, k) neighbours of each cell.
    batch
        (n,) batch of each cell.

    Raises
    ------
    InputError
        There is only one batch.
    """
    share_nb, names, _ = neighbour_shares(indices, batch)
    log_nb = np.log(share_nb, where=share_nb > 0, out=np.zeros_like(share_nb))
    return float((-(share_nb * log_nb).sum(axis=1) / np.log(len(names))).mean())
