"""A seeded, shuffled, condition-stratified validation split, kept by cell name."""

from __future__ import annotations

import numpy as np


def validation_split(condition_n: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which cells are held out for validation.

    The share is taken from every condition after a seeded shuffle, never by position in the file. A condition with
    fewer than two cells stays in training, and at least one cell of a condition always does.

    Parameters
    ----------
    condition_n
        Condition codes, one a cell.
    share
        Share held out, in [0, 1).
    seed
        Seed of the shuffle.

    Returns
    -------
    ndarray
        bool, True for validation cells.
    """
    rng = np.random.default_rng(seed)
    held_n = np.zeros(len(condition_n), dtype=bool)
    if share <= 0:
        return held_n
    for code in np.unique(condition_n):
        cells = np.flatnonzero(condition_n == code)
        count = min(round(share * len(cells)), len(cells) - 1)
        held_n[rng.permutation(cells)[:count]] = True
    return held_n
