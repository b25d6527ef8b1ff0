"""Local inverse Simpson's index (LISI): how many batches or labels a cell's neighbourhood effectively holds.

Korsunsky et al. 2019 (doi:10.1038/s41592-019-0619-0). Neighbours are weighed by a Gaussian-like kernel
exp(-beta d) of their distance, with beta chosen for each cell by bisection so that the weights have a given perplexity,
as in t-SNE; the index is 1 over the sum of squared shares. The bisection starts at 1, ends within 1e-5 of the wanted
entropy or after 50 steps, and so takes the same steps as scib-metrics.
"""

from __future__ import annotations

import numpy as np

from scmap_cli.errors import InputError

LISI_NEIGHBOURS = 90
"""Size of the neighbourhoods, the cell itself counted, as in scIB; the perplexity is a third of it."""

_TOLERANCE, _STEPS = 1e-5, 50
_BLOCK = 8192


def lisi(indices: np.ndarray, distances: np.ndarray, categories: np.ndarray, perplexity: float) -> np.ndarray:
    """Effective number of categories around each cell, (n,) float64 from 1 to the number of categories.

    Parameters
    ----------
    indices, distances
        (n, k) neighbours of each cell without itself, and how far they are.
    categories
        (n,) batch or label of each cell.
    perplexity
        Effective number of neighbours; must be below k.

    Raises
    ------
    InputError
        There are not more neighbours than the perplexity asks for.
    """
    if indices.shape[1] <= perplexity:
        raise InputError(f"{indices.shape[1]} neighbours are too few for a perplexity of {perplexity:g}")
    names, code_n = np.unique(categories, return_inverse=True)
    out_n = np.empty(len(indices))
    for start in range(0, len(indices), _BLOCK):
        rows = slice(start, start + _BLOCK)
        weight_nk = _weights(distances[rows], np.log(perplexity))
        around_nk = code_n[indices[rows]]
        share_nc = np.stack([(weight_nk * (around_nk == c)).sum(axis=1) for c in range(len(names))], axis=1)
        out_n[rows] = 1 / (share_nc**2).sum(axis=1)
    return out_n


def _weights(distance_nk: np.ndarray, wanted: float) -> np.ndarray:
    """Weights of the neighbours, summing to 1, whose entropy is ``wanted`` as nearly as bisection gets."""
    # Only differences of distances matter, and without the smallest one nothing underflows.
    away_nk = distance_nk - distance_nk[:, :1]
    beta_n = np.ones(len(away_nk))
    low_n, high_n = np.full(len(away_nk), -np.inf), np.full(len(away_nk), np.inf)
    weight_nk, excess_n = _entropy(away_nk, beta_n, wanted)
    for _ in range(_STEPS):
        todo = np.flatnonzero(np.abs(excess_n) >= _TOLERANCE)
        if len(todo) == 0:
            break
        flat, beta = excess_n[todo] > 0, beta_n[todo]
        low_n[todo], high_n[todo] = np.where(flat, beta, low_n[todo]), np.where(flat, high_n[todo], beta)
        low, high = low_n[todo], high_n[todo]
        doubled_or_halved = np.where(flat, beta * 2, beta / 2)
        open_end = np.where(flat, np.isinf(high), np.isinf(low))
        middle = (np.where(np.isinf(low), 0.0, low) + np.where(np.isinf(high), 0.0, high)) / 2
        beta_n[todo] = np.where(open_end, doubled_or_halved, middle)
        weight_nk[todo], excess_n[todo] = _entropy(away_nk[todo], beta_n[todo], wanted)
    return weight_nk


def _entropy(away_nk: np.ndarray, beta_n: np.ndarray, wanted: float) -> tuple[np.ndarray, np.ndarray]:
    weight_nk = np.exp(-away_nk * beta_n[:, None])
    total_n = weight_nk.sum(axis=1)
    entropy_n = np.log(total_n) + beta_n * (away_nk * weight_nk).sum(axis=1) / total_n
    return weight_nk / total_n[:, None], entropy_n - wanted


def ilisi(lisi_n: np.ndarray, n_batches: int) -> float:
    """Median LISI of batches scaled to 0 (apart) to 1 (mixed), as in scIB."""
    return float((np.median(lisi_n) - 1) / (n_batches - 1))


def clisi(lisi_n: np.ndarray, n_labels: int) -> float:
    """Median LISI of labels scaled to 0 (mixed) to 1 (apart), as in scIB."""
    return float((n_labels - np.median(lisi_n)) / (n_labels - 1))
