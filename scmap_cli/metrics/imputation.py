"""How well imputed accessibility agrees with the bulk profile of a cell's type: Dice scores of whole matrices.

Equation 2.7 of Cao's SAILER thesis (2023), for a cell with profile ``b`` (0 or 1) and imputed values ``x``::

    DSC = 2 b.x / (|b| + |x|) = 2 TP / (2 TP + FP + FN)

The second form holds for binary ``x``; with probabilities the first one is a soft score. The thesis does not tell how
its probabilities were made binary, so several rules are given, among them that of SCALE (Xiong et al. 2019,
doi:10.1038/s41467-019-12630-7): open where the value is above both the peak's mean and the cell's mean of the binary
raw data. That cell mean is high in cells of great depth, and half of all cells are below the mean of a peak that is
open in all of them, so peaks that are open everywhere are lost. ``cell`` is a rule of ours without either: open where
the value is above the mean of the cell's own imputed values. Values come a block of cells at a time, and memory holds
one block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from scipy import sparse

Blocks = Callable[[], Iterable[np.ndarray]]
"""Gives the imputed values of consecutive cells as (rows, P) blocks; may be called again."""

# Bit patterns of positive float32 are in order; without the last 13 bits they tell values apart as finely as float16.
_SHIFT = 13
_LEVELS = 0x7F800000 >> _SHIFT


def dice(true_positives: np.ndarray, imputed: np.ndarray, profile: np.ndarray) -> np.ndarray:
    """``2 TP / (|x| + |b|)``; an empty cell of an empty profile scores 0."""
    total = np.asarray(imputed + profile, dtype=np.float64)
    return np.divide(2.0 * true_positives, total, out=np.zeros_like(total), where=total > 0)


def above_cell_mean(values_np: np.ndarray) -> np.ndarray:
    """(n, P) bool: which values are above the mean of their row."""
    opened: np.ndarray = values_np > values_np.mean(axis=1, keepdims=True, dtype=np.float64)
    return opened


def dice_raw(raw: sparse.csr_matrix, open_tp: np.ndarray, type_n: np.ndarray) -> np.ndarray:
    """(n,) Dice of the binary raw counts (n, P) with the profiles (T, P, bool) of the cells' types."""
    found_n = np.diff(raw.indptr).astype(np.float64)
    row = np.repeat(np.arange(raw.shape[0]), np.diff(raw.indptr))
    hits_n = np.bincount(row, weights=open_tp[type_n[row], raw.indices], minlength=raw.shape[0])
    return dice(hits_n, found_n, open_tp.sum(axis=1)[type_n])


def _chunks(blocks: Blocks) -> Iterator[tuple[slice, np.ndarray]]:
    start = 0
    for block in blocks():
        yield slice(start, start + len(block)), block
        start += len(block)


def means_by_profile(blocks: Blocks, open_tp: np.ndarray, type_n: np.ndarray) -> np.ndarray:
    """Mean value of the cells of each type in the peaks of each type, (T, T) float64, types of cells in rows.

    The peaks of a type are those open in it and in at most half of all types, or all that are open in it where there
    is no such peak. Types without cells, or without peaks, have NaN.
    """
    n_types = len(open_tp)
    sums_tp = np.zeros(open_tp.shape)
    for where, block in _chunks(blocks):
        for t in np.unique(type_n[where]).tolist():
            sums_tp[t] += block[type_n[where] == t].sum(axis=0, dtype=np.float64)
    own_tp = open_tp & (open_tp.sum(axis=0) <= max(1, n_types // 2))
    own_tp = np.where(own_tp.any(axis=1, keepdims=True), own_tp, open_tp).astype(np.float64)
    entries_tt = np.outer(np.bincount(type_n, minlength=n_types), own_tp.sum(axis=1))
    return np.divide(sums_tp @ own_tp.T, entries_tt, out=np.full((n_types, n_types), np.nan), where=entries_tt > 0)


def best_threshold(blocks: Blocks, open_tp: np.ndarray, type_n: np.ndarray) -> tuple[float, float]:
    """The one threshold that fits the profiles best: highest F1 of all entries of all cells together.

    It looks at the truth, so it is an upper reference, not a rule. The thresholds tried have ten binary digits after
    the first.

    Returns
    -------
    threshold, f1
        Entries of at least ``threshold`` are open, as float32.
    """
    all_v, open_v = np.zeros(_LEVELS, dtype=np.int64), np.zeros(_LEVELS, dtype=np.int64)
    for where, block in _chunks(blocks):
        level = np.maximum(block, 0, dtype=np.float32).view(np.int32) >> _SHIFT
        all_v += np.bincount(level.ravel(), minlength=_LEVELS)
        open_v += np.bincount(level[open_tp[type_n[where]]], minlength=_LEVELS)
    profile = int(open_tp.sum(axis=1)[type_n].sum())
    found_v = np.cumsum(all_v[::-1])[::-1]
    hits_v = np.cumsum(open_v[::-1])[::-1]
    f1_v = dice(hits_v, found_v, np.full(_LEVELS, profile))
    best = int(np.argmax(f1_v))
    return float(np.array([best << _SHIFT], dtype=np.int32).view(np.float32)[0]), float(f1_v[best])


def dice_imputed(
    blocks: Blocks,
    open_tp: np.ndarray,
    type_n: np.ndarray,
    *,
    thresholds: Sequence[float] = (),
    best: float | None = None,
    means: tuple[np.ndarray, np.ndarray] | None = None,
) -> Mapping[str, np.ndarray]:
    """Dice of imputed values by cell and rule, in one pass.

    Parameters
    ----------
    blocks
        Imputed values, cells in the order of ``type_n`` and peaks in that of ``open_tp``.
    open_tp
        (T, P) bool profiles.
    type_n
        (n,) type of each cell.
    thresholds
        Entries above a threshold are open; rule ``> X``.
    best
        Rule ``best``: entries of at least this, from :func:`best_threshold`.
    means
        (P,) means of peaks and (n,) of cells of the binary raw data: rule ``scale``.

    Returns
    -------
    mapping
        By rule, (n,) float64; ``soft`` takes the values as they are, those below 0 as 0, and ``cell`` those above the
        cell's mean of ``blocks`` as open.
    """
    n = len(type_n)
    size_t = open_tp.sum(axis=1)
    names = ["soft", *(f"> {value:g}" for value in thresholds), "cell"]
    names += (["scale"] if means is not None else []) + (["best"] if best is not None else [])
    scores = {name: np.zeros(n) for name in names}
    for where, block in _chunks(blocks):
        profile_np, size_n = open_tp[type_n[where]], size_t[type_n[where]]
        soft = np.maximum(block, 0, dtype=np.float32)
        hits_n = (soft * profile_np).sum(axis=1, dtype=np.float64)
        scores["soft"][where] = dice(hits_n, soft.sum(axis=1, dtype=np.float64), size_n)
        opened = {f"> {value:g}": block > value for value in thresholds}
        opened["cell"] = above_cell_mean(block)
        if means is not None:
            peak_p, cell_n = means
            opened["scale"] = (block > peak_p) & (block > cell_n[where][:, None])
        if best is not None:
            opened["best"] = block.astype(np.float32, copy=False) >= np.float32(best)
        for name, values in opened.items():
            hits_n = np.count_nonzero(values & profile_np, axis=1)
            scores[name][where] = dice(hits_n, np.count_nonzero(values, axis=1), size_n)
    return scores
