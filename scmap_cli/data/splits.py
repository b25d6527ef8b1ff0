"""Seeded, stratified splits: validation cells of a training, and training, validation and test cells of a benchmark."""

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


SHARES = (0.7, 0.1, 0.2)
"""Shares of training, validation and test cells in the MarkerMap paper."""

TRAIN, VALID, TEST = 0, 1, 2
"""Codes of the parts of :func:`three_way_split`."""

LEAST_CELLS = 4
"""Fewest cells of a class that can be split: two to train, one to validate, one to test."""


def three_way_split(class_n: np.ndarray, split: int, seed: int) -> np.ndarray:
    """Part of each cell in one of many seeded, stratified splits (70 / 10 / 20).

    The parts are drawn class by class; each class has at least two cells in training and one in either other part.

    Parameters
    ----------
    class_n
        Class codes, one a cell; every class has at least :data:`LEAST_CELLS` cells.
    split
        Number of the split, from 0.
    seed
        Seed of all splits.

    Returns
    -------
    ndarray
        int8: :data:`TRAIN`, :data:`VALID` or :data:`TEST`.
    """
    rng = np.random.default_rng([seed, split])
    part_n = np.zeros(len(class_n), dtype=np.int8)
    for code in np.unique(class_n):
        cells = rng.permutation(np.flatnonzero(class_n == code))
        n_valid = max(round(SHARES[VALID] * len(cells)), 1)
        n_test = max(round(SHARES[TEST] * len(cells)), 1)
        part_n[cells[:n_test]] = TEST
        part_n[cells[n_test : n_test + n_valid]] = VALID
    return part_n
