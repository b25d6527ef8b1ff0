"""How well imputed accessibility agrees with the bulk profile of a cell's type: Dice scores of whole matrices.

Equation 2.7 of Cao's SAILER thesis (2023), for a cell with profile ``b`` (0 or 1) and imputed values ``x``::

    DSC = 2 b.x / (|b| + |x|) = 2 TP / (2 TP + FP + FN)

The second form holds for binary ``x``; with probabilities the first one is a soft score. The thesis does not tell how
its probabilities were made binary, so several rules are given, among them that of SCALE (Xiong et al. 2019,
doi:10.1038/s41467-019-12630-7): open where the value is above both the peak's mean and the cell's mean of the binary
raw data. Values come a block of cells at a time, so memory holds one block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from scipy import sparse

Blocks = Callable[[], Iterable[np.ndarray]]
"""Gives the imputed values of consecutive cells as (rows, P) blocks; may be called again."""

# float16 has 31,744 values from 0 to infinity, and their bit patterns are in order.
_HALVES = 0x7C00


def dice(true_positives: np.ndarray, imputed: np.ndarray, profile: np.ndarray) -> np.ndarray:
    """``2 TP / (|x| + |b|)``; an empty cell of an empty profile scores 0."""
    total = np.asarray(imputed + profile, dtype=np.float64)
    return np.divide(2.0 * true_positives, total, out=np.zeros_like(total), where=total > 0)


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


def best_threshold(blocks: Blocks, open_tp: np.ndarray, type_n: np.ndarray) -> tuple[float, float]:
    """The one threshold that fits the profiles best: highest F1 of all entries of all cells together.

    It looks at the truth, so it is an upper reference, not a rule. Values are told apart as float16.

    Returns
    -------
    threshold, f1
        Entries of at least ``threshold`` are open.
    """
    all_v, open_v = np.zeros(_HALVES + 1, dtype=np.int64), np.zeros(_HALVES + 1, dtype=np.int64)
    for where, block in _chunks(blocks):
        bits = as_half(block).view(np.uint16)
        all_v += np.bincount(bits.ravel(), minlength=_HALVES + 1)
        open_v += np.bincount(bits[open_tp[type_n[where]]], minlength=_HALVES + 1)
    profile = int(open_tp.sum(axis=1)[type_n].sum())
    found_v = np.cumsum(all_v[::-1])[::-1]
    hits_v = np.cumsum(open_v[::-1])[::-1]
    f1_v = dice(hits_v, found_v, np.full(len(found_v), profile))
    best = int(np.argmax(f1_v))
    return float(np.array([best], dtype=np.uint16).view(np.float16)[0]), float(f1_v[best])


def as_half(block: np.ndarray) -> np.ndarray:
    """The values as float16 from 0 on, in C order; what is below 0 becomes 0."""
    with np.errstate(over="ignore"):
        half = np.asarray(block).astype(np.float16, order="C", copy=True)
    half[half <= 0] = 0
    return half


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
        Rule ``best``: entries of at least this as float16, from :func:`best_threshold`.
    means
        (P,) means of peaks and (n,) of cells of the binary raw data: rule ``scale``.

    Returns
    -------
    mapping
        By rule, (n,) float64; ``soft`` takes the values as they are, those below 0 as 0.
    """
    n = len(type_n)
    size_t = open_tp.sum(axis=1)
    names = ["soft", *(f"> {value:g}" for value in thresholds)]
    names += (["scale"] if means is not None else []) + (["best"] if best is not None else [])
    scores = {name: np.zeros(n) for name in names}
    for where, block in _chunks(blocks):
        profile_np, size_n = open_tp[type_n[where]], size_t[type_n[where]]
        opened: dict[str, np.ndarray] = {"soft": np.maximum(block, 0)}
        opened |= {f"> {value:g}": block > value for value in thresholds}
        if means is not None:
            peak_p, cell_n = means
            opened["scale"] = (block > peak_p) & (block > cell_n[where][:, None])
        if best is not None:
            opened["best"] = as_half(block) >= np.float16(best)
        for name, values in opened.items():
            kind = np.float64 if name == "soft" else np.int64
            hits_n = np.where(profile_np, values, 0).sum(axis=1, dtype=kind)
            scores[name][where] = dice(hits_n, values.sum(axis=1, dtype=kind), size_n)
    return scores
